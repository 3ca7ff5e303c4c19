"""Weights from wherever people have them, told apart by what is inside. Each format gives a GPTConfig and named arrays.

    runs.py          our own run folders and their files
    huggingface.py   folders that transformers writes
    safetensors.py   the file format under both; strict_json.py its header, atomic.py how it is written

A further format is one more file with a reader like theirs, and one more case in ``open_checkpoint``.
"""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from npgpt.checkpoints.huggingface import read_huggingface
from npgpt.checkpoints.runs import TOKENIZER_FILE, is_run, read_weights, weights_file
from npgpt.config import GPTConfig
from npgpt.errors import CheckpointError
from npgpt.gpt import GPT
from npgpt.tokenizers import GPT2Tokenizer, load_tokenizer


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """An opened checkpoint: what the model is, its weights, and where they came from."""

    config: GPTConfig
    arrays: dict[str, np.ndarray]  # under npgpt's names; read-only views of the file where its dtype is NumPy's
    source: Path  # the file with the weights
    tokenizer_file: Path | None = None

    @cached_property
    def tokenizer(self):
        """The tokenizer saved beside the weights; else GPT-2's, if the vocabulary has its size; else None.

        Raises TokenizerError if the saved one is damaged, CheckpointError if it has ids that the model doesn't.
        """
        if self.tokenizer_file is None:
            return GPT2Tokenizer() if self.config.vocab_size == 50257 else None
        tokenizer = load_tokenizer(self.tokenizer_file)
        if tokenizer.vocab_size > self.config.vocab_size:
            raise CheckpointError(
                f"{self.tokenizer_file}: {tokenizer.vocab_size:,} ids, and the model has {self.config.vocab_size:,}, "
                f"so it is another model's tokenizer"
            )
        return tokenizer


def load(path: str | Path, dtype=np.float32) -> GPT:
    """Make the model that is stored at ``path`` (what that can be: ``open_checkpoint``), with parameters of ``dtype``.

    Raises CheckpointError if there is none, it is damaged, or the weights are not those of the configuration.
    """
    return _make_model(open_checkpoint(path), dtype)


def load_with_tokenizer(path: str | Path, which: str = "last", dtype=np.float32):
    """The model stored at ``path`` and the tokenizer that belongs to it. Raises CheckpointError, also without one."""
    checkpoint = open_checkpoint(path, which)
    if checkpoint.tokenizer is None:
        raise CheckpointError(
            f"{path}: there is no {TOKENIZER_FILE} beside the weights, and a vocabulary of "
            f"{checkpoint.config.vocab_size:,} is not GPT-2's, so what its ids mean is unknown"
        )
    return _make_model(checkpoint, dtype), checkpoint.tokenizer


def open_checkpoint(path: str | Path, which: str = "last") -> Checkpoint:
    """Open a run's folder, a Hugging Face GPT-2 folder, or a single .safetensors file of a run.

    ``which``: of a run, take the "last" weights, or the "best", those with the lowest validation loss.
    The weights are not copied yet, so this is quick. Raises CheckpointError.
    """
    path = Path(path)
    if not os.path.exists(path):  # unlike Path.exists, False for a name that is too long or has a NUL in it
        raise CheckpointError(
            f"{path}: there is no such file or folder. Models are not downloaded by name: put the config.json and "
            f"model.safetensors of a GPT-2 into a folder, and name the folder"
        )
    if not path.is_dir():
        return _open_file(path)
    if not (path / "config.json").exists():
        raise CheckpointError(
            f"{path}: no config.json in it, so it is neither a run of npgpt (config.json, last.safetensors) "
            f"nor a Hugging Face folder (config.json, model.safetensors)"
        )
    if is_run(path):
        return _open_file(weights_file(path, which))
    config, arrays = read_huggingface(path)
    return Checkpoint(config, arrays, source=path / "model.safetensors")


def _open_file(path: Path) -> Checkpoint:
    config, arrays = read_weights(path)
    tokenizer_file = path.with_name(TOKENIZER_FILE)
    return Checkpoint(config, arrays, path, tokenizer_file if tokenizer_file.exists() else None)


def _make_model(checkpoint: Checkpoint, dtype) -> GPT:
    _check_size(checkpoint)
    model = GPT(checkpoint.config, seed=None, dtype=dtype)  # not initialised: all of it is loaded
    model.load_state_dict(checkpoint.arrays, source=str(checkpoint.source))
    return model


def _check_size(checkpoint: Checkpoint) -> None:
    """Refuse a configuration that is far from the weights before a model of its size takes memory.

    This is for the damaged and the malicious; ``load_state_dict`` then compares every shape.
    """
    config, arrays = checkpoint.config, checkpoint.arrays
    layers = {name.split(".")[1] for name in arrays if name.startswith("h.")}
    if len(layers) != config.n_layer:
        raise CheckpointError(
            f"{checkpoint.source}: {len(layers)} layers in the file, {config.n_layer} in its configuration"
        )
    C = config.n_embd
    described = (config.vocab_size + config.block_size) * C + config.n_layer * C * (4 * C + 2 * config.inner_size)
    stored = sum(array.size for array in arrays.values())
    if described > 2 * stored + 1_000_000:
        raise CheckpointError(
            f"{checkpoint.source}: the configuration describes a model of {described:,} numbers, "
            f"and the file holds {stored:,}"
        )
