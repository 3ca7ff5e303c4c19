"""Runs made ready to train: new ones from their settings, stopped ones from their folders."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from npgpt.checkpoints import open_checkpoint, run_states, runs
from npgpt.checkpoints.shared.checkpoint import Checkpoint
from npgpt.checkpoints.shared.tokenizers import read_tokenizer
from npgpt.config import GPTConfig
from npgpt.errors import CheckpointError, ConfigError, DataError, RunError
from npgpt.kernels import precision
from npgpt.shell import quoted
from npgpt.signals import StopRequest
from npgpt.text.corpus import tokenizer_for
from npgpt.text.tokenizers import Tokenizer
from npgpt.training import plan as defaults
from npgpt.training.budget import choose_preset
from npgpt.training.data import TrainingData
from npgpt.training.folder import (
    NOT_SAVED,
    check_free,
    check_written,
    create_run,
    is_unfinished,
    locked,
    write_run_config,
)
from npgpt.training.log import log
from npgpt.training.memory import resident_bytes
from npgpt.training.plan import Plan
from npgpt.training.products import choose_products, keep_products
from npgpt.training.run import Run
from npgpt.training.saver import check_room
from npgpt.training.settings import AUTO, TrainSettings, plan_from_dict
from npgpt.training.trainable import check_names, new_model, stored_model


@contextmanager
def start(settings: TrainSettings) -> Iterator[Run]:
    """``with start(settings) as run:`` a new run in a new folder, which no other process trains meanwhile.

    Its state is saved before its config.json makes the folder a run, so from then on it can be resumed, whatever stops
    it. On a UserError before the block nothing is left.
    """
    named = settings.out is not None
    # realpath, since resolve() raises RuntimeError on a link to itself.
    out = Path(settings.out or Path("runs") / (Path(os.path.realpath(settings.texts[0])).stem or "run"))
    if named:
        check_free(out)  # before the work, not after it
    run = prepare(settings)
    check_room(out, run.stored, run.optimizer, settings.keep)
    existed = out.exists()
    folder = create_run(out, exact=named)
    with locked(folder):
        if named:
            check_free(folder)  # no other process has had it since
        try:
            with StopRequest():
                run.open(folder)
                run.products = choose_products(settings.matmul_precision)
                run.saver.save_first()
                run.describe(folder)
        except BaseException:
            _empty(folder)
            if not (named and existed):
                folder.rmdir()
            raise
        yield run


def prepare(settings: TrainSettings) -> Run:
    """A new run that has no folder yet: read the text, make or load the model, make the plan."""
    precision.set_matmul_precision(settings.matmul_precision)  # --preset auto measures steps
    config, tokenizer, checkpoint = _starting_point(settings)
    context = settings.context or config.block_size
    data = TrainingData(settings, tokenizer, context)
    plan = settings.resolve(len(data.windows), context, data.beginning)
    occupied = resident_bytes()
    return Run(settings, plan, new_model(settings, config, checkpoint), tokenizer, data, occupied)


@contextmanager
def resume(folder: Path, given: dict[str, Any]) -> Iterator[Run]:
    """``with resume(folder, given) as run:`` a run where its last save left it, with the settings ``given`` changed.

    No other process trains it meanwhile. Raises RunError if another one does, or if it has saved nothing or is
    finished, DataError if its text has changed, CheckpointError.
    """
    if is_unfinished(folder):
        raise RunError(f"{folder} {NOT_SAVED}, and begin anew")
    runs.read_run_config(folder)  # raises CheckpointError if it isn't a run
    check_written(folder)
    with locked(folder):
        yield _resume(folder, given)


def _resume(folder, given) -> Run:
    config, settings, plan = _stored(folder)
    if "max_steps" in given or "epochs" in given:
        given = {"max_steps": None, "epochs": None, "time_budget": None, **given}
    settings = replace(settings, **given)
    _check_texts(settings)
    tokenizer = read_tokenizer(folder / runs.TOKENIZER_FILE)
    path, weights, moments, state = run_states.load_newest(folder)
    if path.name != runs.LAST_FILE:
        check_written(folder, [runs.LAST_FILE])
    data = TrainingData(settings, tokenizer, plan.context)
    resolved = settings.resolve(len(data.windows), plan.context, data.beginning)
    is_planned_anew = plan.time_budget and not resolved.time_budget  # the run ended before its steps were chosen
    changed = resolved if is_planned_anew else plan.changed(resolved, set(given))
    occupied = resident_bytes()
    run = Run(settings, changed, stored_model(settings, config, weights, path), tokenizer, data, occupied)
    _load_state(run, moments, state, path, folder)
    _check_unfinished(run, folder)
    check_room(folder, run.stored, run.optimizer, settings.keep)
    run.open(folder, on_disk=run.step if path.name == runs.LAST_FILE else None)
    _forget_later_lines(run)
    run.products = keep_products(folder, settings.matmul_precision)
    write_run_config(folder, config, settings.to_dict(), changed, run.products)
    log(f"resuming {folder} at step {run.step:,}")
    if changed.max_steps != plan.max_steps or changed.decay_steps != plan.decay_steps:
        now, end = (changed.learning_rate(step) for step in (run.step, changed.max_steps - 1))
        rates = f"learning rate {now:.1e} now, {end:.1e} at the end"
        log(f"to step {changed.max_steps:,} (was {plan.max_steps:,}); {rates}")
    return run


def _check_texts(settings) -> None:
    """Raise RunError if one of a stopped run's texts isn't there. A relative name is from where the run began."""
    for text in settings.texts:
        try:
            os.stat(text)
        except PermissionError as error:
            raise RunError(f"the run's text {text} can't be read: {error.strerror}") from None
        except OSError:
            where = "" if os.path.isabs(text) else ": resume the run in the folder where it began, or put its text here"
            raise RunError(f"the run's text {text} isn't there{where}") from None


def _load_state(run, moments, state, path, folder) -> None:
    """Put a run where the state of the file at ``path`` was. Raises DataError, CheckpointError."""
    try:
        run.load_state_dict(state)
        run.optimizer.load_state_dict(moments, run.step)
    except DataError as error:
        raise DataError(f"{error}.\nPut that text back, or {_anew(folder)}") from None
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        problem = f"the training state is damaged, or of another version of npgpt: {repr(error)[:200]}"
        raise CheckpointError(f"{path}: {problem}.\nTo {_anew(folder)}") from None


def _check_unfinished(run, folder) -> None:
    """Raise RunError if there is no step left to do."""
    done, planned = run.step, run.plan.max_steps
    if done > planned:
        raise RunError(f"{folder} has done {done:,} steps already: give more --max-steps than that")
    if run.finished:
        advice = f"To train on, say how far: --resume {quoted(folder)} --max-steps {done * 2}"
        raise RunError(f"{folder} has done {done:,} of {planned:,} steps: it is finished.\n{advice}")


def _forget_later_lines(run) -> None:
    """Remove from metrics.jsonl what was written after the state that the run goes on from."""
    steps, evaluations = dict.fromkeys(("process", "train", "layers"), run.step), run.evaluation.last_step
    last_steps = {**steps, "eval": evaluations, "passage": evaluations, "sample": run.samples.last_step}
    run.progress.metrics.truncate(last_steps)


def _stored(folder: Path) -> tuple[GPTConfig, TrainSettings, Plan]:
    """What config.json says of a run. Raises RunError if it can't be resumed, CheckpointError, ConfigError."""
    config, asked, planned = runs.read_run_config(folder)
    if not run_states.state_files(folder) and (folder / runs.BEST_FILE).exists():
        raise RunError(f"{folder} had not saved its state yet; it has its best weights.\nTo {_anew(folder)}")
    if not planned:
        raise RunError(f"{folder} was begun by an npgpt that stored no plan with it.\nTo {_anew(folder)}")
    try:
        return config, TrainSettings.from_dict(asked), plan_from_dict(planned)
    except ConfigError as error:
        raise ConfigError(f"{folder / runs.CONFIG_FILE}: {error}") from None


def _starting_point(settings: TrainSettings) -> tuple[GPTConfig, Tokenizer, Checkpoint | None]:
    """The model's configuration, its tokenizer, and the checkpoint with the weights to start from, if there is one."""
    overrides = settings.config_overrides()
    if settings.init_from is None:
        preset, budget = settings.preset or defaults.PRESET, settings.time_budget
        # What can't be is refused before the text is read.
        if preset != AUTO:
            check_names(GPTConfig.preset(preset, **overrides), settings)
        elif budget is None:
            raise ConfigError(f"--preset {AUTO} goes by the time: give a --time-budget")
        tokenizer = tokenizer_for(settings.tokenizer, settings.texts, defaults.TOKENIZER)
        if preset == AUTO and budget is not None:
            preset = choose_preset(settings, tokenizer.vocab_size, budget)
            log(f"preset {preset}: the largest that --time-budget is long enough for")
        return GPTConfig.preset(preset, vocab_size=tokenizer.vocab_size, **overrides), tokenizer, None
    checkpoint = open_checkpoint(settings.init_from)
    tokenizer = checkpoint.require_tokenizer()
    config = checkpoint.config
    if settings.context is not None and settings.context > config.block_size:
        raise ConfigError(f"--context {settings.context} is beyond {settings.init_from}'s {config.block_size}")
    if settings.lora_rank is None:
        check_names(config, settings)
    return replace(config, dropout=overrides.get("dropout", config.dropout)), tokenizer, checkpoint


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _anew(folder: Path) -> str:
    return f"begin anew from its weights: python -m npgpt.train TEXT --init-from {quoted(folder)}"
