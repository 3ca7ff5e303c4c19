"""From a path or a name to a checkpoint, and from that to a model."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np
from numpy.typing import DTypeLike

from npgpt.adapters.files import find_adapter, open_base, with_adapter
from npgpt.checkpoints import run_states, runs
from npgpt.checkpoints.huggingface import hub
from npgpt.checkpoints.huggingface.read import read_folder
from npgpt.checkpoints.nanogpt import CKPT_FILE
from npgpt.checkpoints.shared.checkpoint import Checkpoint
from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.checkpoints.shared.names import listed
from npgpt.checkpoints.shared.validate import check_fit
from npgpt.checkpoints.tensorflow import model as tensorflow
from npgpt.errors import CheckpointError
from npgpt.gpt import GPT
from npgpt.layers import allocate

MAX_ADAPTERS = 10  # one beside the other; each costs time whenever a matrix is read


def load(path: str | Path, dtype: DTypeLike = np.float32, checkpoint: str = "last") -> GPT:
    """Make the model that is stored at ``path`` (what that can be: ``open_checkpoint``), with parameters of ``dtype``.

    >>> import tempfile, npgpt
    >>> model = GPT(npgpt.GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     npgpt.checkpoints.save(model, f"{folder}/a.gguf", "gguf")
    ...     load(f"{folder}/a.gguf").wte.weight.shape
    (5, 2)

    Raises CheckpointError if there is none, it is damaged, or the weights don't fit the configuration or aren't finite.
    """
    return make_model(open_checkpoint(path, checkpoint), dtype)


def open_checkpoint(path: str | Path, checkpoint: str = "last") -> Checkpoint:
    """Open what is at a path, a folder or a file of any format in ``formats.FORMATS``.

    What is no path is a model's name on the Hugging Face hub, and may be downloaded: ``hub.find``.

    checkpoint  of a run, the "last" weights, or the "best", those with the lowest validation loss

    The weights are not read yet, so this is quick. Raises CheckpointError, also if they don't fit the configuration.
    """
    found = find_checkpoint(path, checkpoint)
    check_fit(found.config, found.tensors, found.source)
    return found


def find_checkpoint(path: str | Path, checkpoint: str = "last") -> Checkpoint:
    """As ``open_checkpoint``, but the tensors may be any, of any shapes: for looking at what can't be loaded."""
    return _find(path, checkpoint, ())


def _find(path, checkpoint, above):
    """``above``: the adapters whose base this is."""
    if checkpoint not in ("last", "best"):
        raise CheckpointError(f"the checkpoint of a run must be 'last' or 'best', not {checkpoint!r:.100}")
    exists = os.path.exists(path)  # unlike Path.exists, False for a name that is too long or has a NUL in it
    try:
        found = Path(path) if exists else hub.find(path)
        adapter = find_adapter(found, checkpoint)
        if adapter is not None:
            if adapter.source in above:
                raise CheckpointError(f"{adapter.source}: the adapter is its own base")
            if len(above) >= MAX_ADAPTERS:
                raise CheckpointError(f"more than {MAX_ADAPTERS} adapters, each the base of the one before")
            base = open_base(adapter, lambda name: _find(name, "last", (*above, adapter.source)))
            return with_adapter(base, adapter)
        if exists:
            opened = _open_folder(found, checkpoint) if found.is_dir() else _open_file(found)
        else:
            opened = _open_downloaded(found)
    except OSError as error:  # a folder that may not be looked into
        raise CheckpointError(f"{path}: can't be read: {error.strerror}") from None
    opened.release_pages()  # of what was compared, such as a head with the embedding
    return opened


def _open_folder(path: Path, checkpoint: str) -> Checkpoint:
    if (path / "config.json").exists():
        return run_states.open_run(path, checkpoint) if runs.is_run(path) else read_folder(path)
    if (path / CKPT_FILE).exists():
        return _open_file(path / CKPT_FILE)
    if (path / tensorflow.HPARAMS_FILE).exists():
        return tensorflow.read(MappedFile(tensorflow.current_index(path)))
    others = f"nanoGPT's {CKPT_FILE}, nor OpenAI's {tensorflow.HPARAMS_FILE}"
    raise CheckpointError(f"{path}: no config.json in it, as runs and Hugging Face folders have, nor {others}")


def _open_downloaded(snapshot: Path) -> Checkpoint:
    try:
        return read_folder(snapshot)
    except CheckpointError as error:
        advice = f"If the file is damaged, remove {snapshot.parents[1]}, and the model is downloaded again"
        raise CheckpointError(f"{error}.\n{advice}") from None


def _open_file(path: Path) -> Checkpoint:
    file = MappedFile(path)
    return file.format().load().read(file)


def make_model(checkpoint: Checkpoint, dtype: DTypeLike = np.float32) -> GPT:
    """A model with a checkpoint's weights, as many tensors read at once as kernels have threads.

    Raises CheckpointError if one isn't finite.
    """
    model = GPT.empty(checkpoint.config, dtype)
    tensors, parameters = checkpoint.streaming(), dict(model.named_parameters())
    with ThreadPoolExecutor(numba.get_num_threads()) as pool:
        finite = pool.map(lambda name: tensors[name].copy_to(allocate(parameters[name])), parameters)
        bad = [name for name, is_finite in zip(parameters, finite, strict=True) if not is_finite]
    checkpoint.release_pages()
    if bad:
        raise CheckpointError(f"{checkpoint.source}: NaN or infinity in {listed(bad)}")
    return model
