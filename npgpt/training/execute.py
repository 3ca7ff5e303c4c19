"""One process's share of a run: compile, train, save, and say what has become of it."""

import numpy as np

from npgpt import kernels
from npgpt.errors import TrainingDiverged
from npgpt.kernels import precision
from npgpt.precompile import compile_for_training
from npgpt.signals import StopRequest
from npgpt.training.folder import quoted
from npgpt.training.log import format_duration, log
from npgpt.training.loop import fit
from npgpt.training.run import Run


def execute(run: Run) -> None:
    """Train to the end, or until Ctrl-C or SIGTERM. Raises TrainingDiverged, RunError if it can't be saved."""
    log(run.data.describe(run.plan.max_steps))
    c = run.model.config
    log(
        f"model: {run.model.num_parameters():,} parameters: {c.n_layer} layers, {c.n_head} heads, {c.n_embd} wide\n"
        f"       products {'by NumPy' if kernels.BACKEND == 'numpy' else precision.described()}"
    )
    # Silence NumPy: values that aren't finite end the run with a message of our own.
    with (
        StopRequest("stopping after this step (again to stop at once, without saving)") as stop,
        np.errstate(over="ignore", invalid="ignore"),
    ):
        run.progress.start()
        prompt = min(len(run.samples.prompt), c.block_size) if run.plan.sample_every else 0
        compile_for_training(c, run.settings.batch_size, run.plan.context, prompt, lambda: stop.requested)
        run.progress.skip()
        run.saver.start()
        try:
            fit(run, stop)
            run.evaluation.check(run.step)
        except TrainingDiverged as error:
            advice = f"Try a lower --lr, or a longer --warmup. What was saved before stays in {run.folder}."
            raise TrainingDiverged(f"{error}: training has diverged.\n{advice}") from None
        run.saver.save_at_end()
    if run.finished or run.early_stopping.reached:
        _report(run)
    else:
        log(f"stopped after step {run.step:,}; resume with: python -m npgpt.train --resume {quoted(run.folder)}")


def _report(run):
    stopping = run.early_stopping
    line = f"trained {run.step:,} steps in {format_duration(run.progress.elapsed())}"
    if stopping.reached:
        line += f", without progress in {stopping.evaluations_without_progress} evaluations"
    if stopping.best_step is not None:
        line += f"; best validation loss {stopping.best:.4f} after step {stopping.best_step:,}"
    print(line)
    print(f"saved in {run.folder}; continue a text with: python -m npgpt.sample --model {quoted(run.folder)}")
