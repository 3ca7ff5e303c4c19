"""The flags that say which model a command takes, and the checkpoint that they mean. Nothing heavy is imported."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from npgpt.commandline import Parser, choice, flag, pathname
from npgpt.errors import ConfigError

if TYPE_CHECKING:
    from npgpt.checkpoints.shared.checkpoint import Checkpoint

MODEL = "model"
CHECKPOINTS = "last", "best"


@dataclass(frozen=True)
class WhichModel:
    """The model, given by name or path, or an adapter and its base."""

    model: str | None = flag(
        None, pathname, "a run, a folder or file with weights, or a name such as gpt2 (default: the newest run)", MODEL
    )
    adapter: str | None = flag(
        None,
        pathname,
        "a run that trained an adapter, or peft's folder; --model is its base (default: the one it was trained on)",
        MODEL,
    )
    checkpoint: str = flag("last", choice(*CHECKPOINTS), "of the run: the last, or the lowest validation loss", MODEL)


def add_checkpoint_flag(parser: Parser) -> None:
    """``--checkpoint``, for commands that take the model in a way of their own."""
    which = "of a run: the last, or the one with the lowest validation loss (default: last)"
    parser.add_argument("--checkpoint", choices=CHECKPOINTS, default="last", help=which)


def open_model(which: WhichModel) -> "tuple[Path, Checkpoint]":
    """-> the file or folder that is meant, and the model's checkpoint, with the adapter if one is given.

    Raises CheckpointError, also if there is no run; ConfigError if adapter and base don't fit, or if only a run could
    have the checkpoint that is asked for.
    """
    from npgpt.adapters.files import check_named_base, open_adapter, with_adapter
    from npgpt.checkpoints import open_checkpoint
    from npgpt.checkpoints.run_states import newest_run
    from npgpt.checkpoints.runs import is_run

    name = which.adapter or which.model or newest_run()
    if which.checkpoint != "last" and not (os.path.isdir(name) and is_run(Path(name))):
        raise ConfigError(
            f"--checkpoint {which.checkpoint} is for the folder of a run, and {name} is none: leave it out"
        )
    if which.adapter is not None:
        adapter = open_adapter(which.adapter, which.checkpoint)
        if which.model is not None:  # which is taken as the base, whatever the adapter says
            base = open_checkpoint(which.model)
            check_named_base(adapter, base)
            return Path(name), with_adapter(base, adapter)
    return Path(name), open_checkpoint(name, which.checkpoint)  # as it was typed: ./gpt2 is no model's name
