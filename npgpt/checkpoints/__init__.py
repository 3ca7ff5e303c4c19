"""Weights from wherever people have them, told apart by what is inside. Each format is read to one ``Checkpoint``.

    checkpoint.py    what that is: configuration, tensors that are still in the file, tokenizer
    runs.py          our own run folders and their files
    huggingface.py   what transformers calls things; folders.py reads the folders that it writes, and
                     huggingface_writer.py and tokenizer_files.py write such folders
    hub.py           models by name: the hub's cache, and downloads to it
    nanogpt.py       nanoGPT's ckpt.pt
    safetensors.py   a file format; torch_files.py another one, PyTorch's, with torch_tensors.py, pickles.py, nesting.py
                     and zips.py
    tensorflow.py    OpenAI's release; table_files.py, protobuf.py, crc32c.py: the formats under it
    llmc.py          llm.c's files
    gguf.py          llama.cpp's; gguf_file.py, gguf_metadata.py, gguf_tokenizer.py, quantized.py are what it is made of
    mapping.py       from a format's names to ours; fit.py checks that they are what the configuration says
    survey.py        what is in tensors, and what differs, for the commands info and convert
    mapped.py, stored.py, strict_json.py    how files from strangers are looked at
    prepared.py      what is done to tensors before they are written; byte_level.py: tokens as others spell them
    atomic.py        how files are written

A further format is one more file with a reader like theirs, and one more case in ``_open_file`` or ``_open_folder``;
a writer stands in ``WRITERS``.
"""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from npgpt.checkpoints.gguf import model as gguf_model
from npgpt.checkpoints.huggingface import hub
from npgpt.checkpoints.huggingface.read import read_huggingface, read_weights_file
from npgpt.checkpoints.huggingface.tokenizer import OUR_TOKENIZER_FILE
from npgpt.checkpoints.huggingface.write import write_huggingface
from npgpt.checkpoints.llmc import is_llmc, read_llmc, write_llmc
from npgpt.checkpoints.nanogpt import CKPT_FILE, is_nanogpt, read_nanogpt
from npgpt.checkpoints.pytorch import file as pytorch_file
from npgpt.checkpoints.runs import TOKENIZER_FILE, is_run, read_run, run_in, weights_file, write_safetensors_file
from npgpt.checkpoints.safetensors import open_safetensors
from npgpt.checkpoints.shared.checkpoint import Checkpoint
from npgpt.checkpoints.shared.lazy_tensor import stored_array
from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.checkpoints.shared.validate import check_fit
from npgpt.checkpoints.tensorflow import model as tensorflow_model
from npgpt.errors import CheckpointError
from npgpt.generation.cache import KeyValueCache
from npgpt.gpt import GPT
from npgpt.tensor import no_grad

WRITERS = {
    "huggingface": write_huggingface,
    "safetensors": write_safetensors_file,
    "llm.c": write_llmc,
    "gguf": gguf_model.write,
}


def load(path: str | Path, dtype=np.float32, check: bool = True) -> GPT:
    """Make the model that is stored at ``path`` (what that can be: ``open_checkpoint``), with parameters of ``dtype``.

    check       run a few tokens through it, to see that numbers come out

    Raises CheckpointError if there is none, it is damaged, the weights are not those of the configuration, or the
    check finds NaN or infinity.
    """
    return make_model(open_checkpoint(path), dtype, check)


def save(model: GPT, path: str | Path, to: str = "huggingface", dtype: str = "F32", tokenizer=None) -> None:
    """Write a model to a new folder or file; ``load`` and others' tools open it.

    to          "huggingface" (a folder), "safetensors", "llm.c" or "gguf"
    dtype       of the numbers: "F32", "F16", "BF16", "Q8_0"; each format has some of them
    tokenizer   goes with the weights; without one, it is GPT-2's if the vocabulary has its size

    Raises CheckpointError if the format can't hold the model, or nothing can be written there.
    """
    tensors = {name: stored_array(array) for name, array in model.state_dict().items()}
    stored_tokenizer = None if tokenizer is None else tokenizer.to_dict()
    write_checkpoint(
        path, Checkpoint("model", model.config, tensors, Path(path), stored_tokenizer=stored_tokenizer), to, dtype
    )


def write_checkpoint(path: str | Path, checkpoint: Checkpoint, to: str = "huggingface", dtype: str = "F32") -> None:
    """Write a checkpoint in another format, a piece at a time: as ``save``."""
    if to not in WRITERS:
        raise CheckpointError(f"there is no format {to!r} to write; there are {', '.join(WRITERS)}")
    check_can_write(path)
    check_fit(checkpoint.config, checkpoint.tensors, checkpoint.source)
    WRITERS[to](path, checkpoint, dtype)


def check_can_write(path: str | Path) -> None:
    """Raise CheckpointError if there is something at ``path`` already, or no folder for it."""
    if os.path.lexists(path):
        raise CheckpointError(f"{path} is there already: name a new file or folder")
    folder = os.path.dirname(os.path.abspath(path))
    if not (os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)):
        raise CheckpointError(f"{path}: can't be written: {folder} is not a folder that you may write to")


def open_with_tokenizer(path: str | Path, which: str = "last"):
    """The checkpoint at ``path`` and the tokenizer that belongs to it. Raises CheckpointError, also without one."""
    checkpoint = open_checkpoint(path, which)
    if checkpoint.tokenizer is None:
        raise CheckpointError(
            f"{path}: no tokenizer of npgpt is with the weights ({TOKENIZER_FILE} of a run, {OUR_TOKENIZER_FILE} "
            f"beside other files), and the vocabulary of {checkpoint.config.vocab_size:,} is not GPT-2's, "
            f"so what its ids mean is unknown"
        )
    return checkpoint, checkpoint.tokenizer


def open_checkpoint(path: str | Path, which: str = "last") -> Checkpoint:
    """Open what is at a path, a folder or a file of any format that has a reader here.

    What is no path is a model's name on the Hugging Face hub, and may be downloaded: ``hub.find``.

    ``which``: of a run, take the "last" weights, or the "best", those with the lowest validation loss.
    The weights are not read yet, so this is quick. Raises CheckpointError, also if they don't fit the configuration.
    """
    checkpoint = find_checkpoint(path, which)
    check_fit(checkpoint.config, checkpoint.tensors, checkpoint.source)
    return checkpoint


def find_checkpoint(path: str | Path, which: str = "last") -> Checkpoint:
    """As ``open_checkpoint``, but the tensors may be any, of any shapes: for looking at what can't be loaded."""
    there = os.path.exists(path)  # unlike Path.exists, False for a name that is too long or has a NUL in it
    try:
        path = Path(path) if there else hub.find(path)
        checkpoint = _open_folder(path, which) if path.is_dir() else _open_file(path)
        beside = checkpoint.source.with_name(OUR_TOKENIZER_FILE)
        if checkpoint.stored_tokenizer is None and beside.exists():
            checkpoint = replace(checkpoint, stored_tokenizer=beside)
    except OSError as error:  # a folder that may not be looked into
        raise CheckpointError(f"{path}: can't be read: {error.strerror}") from None
    return checkpoint


def _open_folder(path: Path, which: str) -> Checkpoint:
    if not (path / "config.json").exists():
        if (path / CKPT_FILE).exists():
            return _open_file(path / CKPT_FILE)
        if tensorflow_model.is_tensorflow(path):
            return tensorflow_model.read(MappedFile(tensorflow_model.current_index(path)))
        raise CheckpointError(
            f"{path}: no config.json in it, so it is neither a run of npgpt (config.json, last.safetensors) nor a "
            f"Hugging Face folder (config.json, model.safetensors); nor has it nanoGPT's {CKPT_FILE} or OpenAI's "
            f"hparams.json"
        )
    return read_run(weights_file(path, which)) if is_run(path) else read_huggingface(path)


def _open_file(path: Path) -> Checkpoint:
    file = MappedFile(path)
    if pytorch_file.matches(file):
        found = pytorch_file.read(file)
        if is_nanogpt(found):
            return read_nanogpt(found, path, file)
        return read_weights_file(path, pytorch_file.tensors_in(found, path), file)
    if gguf_model.matches(file):
        return gguf_model.read(file)
    if is_llmc(file):
        return read_llmc(path)
    if tensorflow_model.matches(file):
        return tensorflow_model.read(file)
    if file.size >= 9 and file.take(8, 1, "header") != b"{":
        hint = "; if it belongs to a folder with weights, name the folder" if path.suffix == ".json" else ""
        raise CheckpointError(f"{path}: it begins as none of the formats do that npgpt reads{hint}")
    tensors, metadata, file = open_safetensors(path)
    return run_in(path, tensors, metadata, file) or read_weights_file(path, tensors, file)


def make_model(checkpoint: Checkpoint, dtype=np.float32, check: bool = True) -> GPT:
    """A model with a checkpoint's weights, which are read tensor by tensor. Raises CheckpointError."""
    model = GPT(checkpoint.config, seed=None, dtype=dtype)  # not initialised: all of it is loaded
    tensors = checkpoint.passing()
    for name, parameter in model.named_parameters():
        tensors[name].copy_to(parameter.data)
    checkpoint.forget()
    if check:
        _check_numbers(model, checkpoint.source)
    return model


def _check_numbers(model: GPT, source) -> None:
    """Raise CheckpointError if two tokens don't give numbers; say which tensors are to blame.

    One after the other, as texts are generated: that reads each weight but the other positions', and needs nothing
    compiled that generating doesn't.
    """
    config = model.config
    cache = KeyValueCache(replace(config, block_size=2), 1, model.head.dtype)
    with no_grad(), np.errstate(all="ignore"):
        for id in range(min(2, config.vocab_size, config.block_size)):
            logits = (model.features(np.array([[id]]), cache=cache)[:, -1] @ model.head.T).data
    if np.isfinite(logits).all():
        return
    bad = [name for name, p in model.named_parameters() if not np.isfinite(p.data).all()]
    why = f"NaN or infinity in {', '.join(bad[:3])}" + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
    raise CheckpointError(
        f"{source}: the model's results are not finite numbers: {why if bad else 'its weights are, but too large'}"
    )
