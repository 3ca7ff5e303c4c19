"""One process's share of a run: compile, train, save, and say what has become of it."""

import time
from dataclasses import replace
from datetime import datetime

import numpy as np

from npgpt import kernels
from npgpt.checkpoints import runs
from npgpt.errors import DataError, TrainingDiverged
from npgpt.gpt import parameter_count
from npgpt.kernels import precision
from npgpt.machine_line import write_machine_line
from npgpt.precompile import compile_for_training
from npgpt.reporting.machine import describe_machine, typed_command
from npgpt.shell import quoted
from npgpt.signals import StopRequest, exit_code
from npgpt.training.budget import choose_steps
from npgpt.training.divergence import likely_cause
from npgpt.training.log import format_duration, log
from npgpt.training.loop import fit
from npgpt.training.memory import available_bytes, model_bytes, process_bytes, resident_bytes
from npgpt.training.plan import Plan
from npgpt.training.rehearsal import rehearse
from npgpt.training.run import Run
from npgpt.training.team import ALONE, Alone

MIN_STEPS_TIMED = 100  # in fewer steps, the start was much of the time, and says little of the rest
MAX_STEPS_UNTIMED = 20  # a rehearsal would take as long as so short a run


def execute(run: Run, began: float, team: Alone = ALONE) -> int:
    """Train to the end, or until Ctrl-C, SIGTERM or SIGHUP -> the process's exit code, 0 or the signal's.

    began       when the process did, by time.monotonic()
    team        the processes that train it

    Raises TrainingDiverged, DataError if its token file is changed meanwhile, RunError if it can't be saved.
    """
    run.work_with(team)
    if not run.plan.time_budget:
        log(run.data.describe(run.plan.max_steps))
    c = run.model.config
    log(run.stored.describe())
    log(f"       products {_products()}")
    write_machine_line(f"products {_products()}")
    log(_memory(run))
    log(f"report: {run.folder / runs.REPORT_FILE}")
    # Silence NumPy: values that aren't finite end the run with a message of our own.
    with (
        StopRequest("stopping after this step (again to stop at once, without saving)", log) as stop,
        np.errstate(over="ignore", invalid="ignore"),
    ):
        prompt = min(len(run.samples.prompt), c.block_size) if run.plan.sample_every else 0
        sequences, context, passage = team.sequences(run.settings.batch_size), run.plan.context, run.inspection.ids.size
        adapter = run.stored.to_compile()
        is_weighted = run.settings.grad_accum > 1 or sequences < run.settings.batch_size
        compile_for_training(
            c, sequences, context, prompt, passage, lambda: stop.requested, **adapter, is_weighted=is_weighted
        )
        team.begin(run, stop)
        run.progress.process(run.step, **_described(run))
        run.saver.start()
        try:
            _estimate_time(run, stop, began)
            if run.plan.warmup > min(run.plan.max_steps, run.plan.decay_steps):
                log(f"warning: --warmup takes {run.plan.warmup:,} steps, and the schedule fewer: --lr is never reached")
            if run.early_stopping.min_delta and run.early_stopping.patience is None:
                log("warning: --min-delta is for --patience, and without it has no effect")
            run.progress.start()
            begun_at = run.step
            fit(run, stop)
            if run.step > begun_at:  # else the weights are those that were read, and the check might have to compile
                run.evaluation.check(run.step)
        except DataError:  # a file has changed; what was trained until then is right
            run.saver.save()
            raise
        except TrainingDiverged as error:
            advice = f"Try a lower --lr, or a longer --warmup. What was saved before stays in {run.folder}."
            raise TrainingDiverged(f"{error}: training has diverged.\n{likely_cause(run.model)}\n{advice}") from None
        finally:
            run.close()
        run.saver.save_at_end()
    if run.finished or run.early_stopping.reached or stop.number is None:
        _report(run)
        return 0
    log(f"stopped after step {run.step:,}; resume with: python -m npgpt.train --resume {quoted(run.folder)}")
    return exit_code(stop.number)


def _products() -> str:
    """How large products are made, for people."""
    return "by NumPy" if kernels.BACKEND == "numpy" else precision.described()


def _memory(run) -> str:
    """The memory that the run will take, and a warning if it isn't there."""
    s, model = run.settings, run.model
    total = run.occupied + model_bytes(model) + sum(array.nbytes for array in run.optimizer.state_dict().values())
    total += process_bytes(model, run.team.sequences(s.batch_size), run.plan.context, s.grad_accum > 1)
    free = resident_bytes() + available_bytes()
    line = f"memory: about {total / 1e6:,.0f} MB"
    return line if total < free else f"{line}, and {free / 1e6:,.0f} are free: try --recompute, or a lower --batch-size"


def _estimate_time(run, stop, began):
    """Log how long the run will take; if it has a time to end in, choose its steps."""
    plan, tokens = run.plan, run.settings.batch_size * run.settings.grad_accum * run.plan.context
    if run.step:
        if run.step < MIN_STEPS_TIMED:
            return
        seconds = run.progress.elapsed_before * (plan.max_steps - run.step) / run.step
        how = "as fast as before"
    elif plan.max_steps <= MAX_STEPS_UNTIMED and not plan.time_budget:
        return
    else:
        pace = rehearse(run, lambda: stop.requested)
        if pace is None:
            return
        if plan.time_budget:
            plan = _plan_in_time(run, pace, plan.time_budget - (time.monotonic() - began))
            run.follow(plan)
            run.describe(run.folder)
            log(run.data.describe(plan.max_steps))
        seconds, how = pace.seconds(plan), f"{pace.step:.3g} s a step"
    left = plan.max_steps - run.step
    log(f"time:  about {format_duration(seconds)} for {left:,} steps, {left * tokens:,} tokens ({how})")


def _plan_in_time(run, pace, seconds) -> Plan:
    """The plan that the settings make of the most steps which end in time."""
    settings, data = replace(run.settings, time_budget=None), run.data

    def plan_of(steps):
        return replace(settings, max_steps=steps).resolve(len(data.windows), run.plan.context, data.beginning)

    return plan_of(choose_steps(plan_of, pace, seconds))


def _described(run):
    """The process that trains the run from here on."""
    machine = describe_machine() | {
        "kernels": kernels.BACKEND,
        "products": _products(),
    }
    return {
        "command": typed_command(run.team.size),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "parameters": parameter_count(run.stored.config),  # not what a base in 4 bits has left, nor an adapter
        "machine": machine,
    }


def _report(run):
    stopping = run.early_stopping
    steps = f"{run.step:,} step{'s' if run.step != 1 else ''}"
    line = f"trained {steps} in {format_duration(run.progress.elapsed())}"
    if stopping.reached:
        line += f", without progress in {stopping.evaluations_without_progress} evaluations"
    if stopping.best_step is not None:
        line += f"; best validation loss {stopping.best:.4f} after step {stopping.best_step:,}"
    print(line)
    print(f"saved in {run.folder}; continue a text with: python -m npgpt.sample --model {quoted(run.folder)}")
