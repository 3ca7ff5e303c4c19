"""From a model or a checkpoint to a new file or folder of any format that is written."""

import os
from pathlib import Path

from npgpt.checkpoints import formats
from npgpt.checkpoints.shared.checkpoint import Checkpoint
from npgpt.checkpoints.shared.lazy_tensor import lazy_array
from npgpt.checkpoints.shared.tokenizers import by_size
from npgpt.checkpoints.shared.validate import check_fit
from npgpt.errors import CheckpointError
from npgpt.gpt import GPT
from npgpt.text.tokenizers import Tokenizer


def save(
    model: GPT,
    path: str | Path,
    to: str | None = None,
    dtype: str | None = None,
    tokenizer: Tokenizer | None = None,
) -> None:
    """Write a model to a new folder or file; ``load`` and others' tools open it.

    to          "huggingface" (a folder), "safetensors", "llm.c" or "gguf"; None: by the path's ending, and
                without one of theirs a folder
    dtype       of the weights: "F32" (the default), "F16", "BF16", "Q8_0", "Q4_0"; each format has some of them
    tokenizer   goes with the weights; without one, it is GPT-2's if the vocabulary has its size

    Raises CheckpointError if the format can't hold the model, or nothing can be written there.
    """
    if adapted := [name for name in model.state_dict() if name.endswith((".lora.A", ".lora.B"))]:
        place = adapted[0].rpartition(".lora")[0]
        advice = "adapters.merge makes it part of the weights, and adapters.write_peft writes it alone"
        raise CheckpointError(f"the model has an adapter at {place}: {advice}")
    to = to or formats.by_suffix(Path(path).suffix.lower()) or "huggingface"
    tensors = {name: lazy_array(array) for name, array in model.state_dict().items()}
    find = by_size(model.config.vocab_size) if tokenizer is None else lambda: tokenizer
    write_checkpoint(path, Checkpoint("model", model.config, tensors, Path(path), find_tokenizer=find), to, dtype)


def write_checkpoint(path: str | Path, checkpoint: Checkpoint, to: str, dtype: str | None = None) -> None:
    """Write a checkpoint in another format, a piece at a time: as ``save``."""
    row = formats.written(to)
    dtype = row.check_dtype(dtype)
    check_can_write(path)
    check_fit(checkpoint.config, checkpoint.tensors, checkpoint.source)
    row.load().write(path, checkpoint, dtype)


def check_can_write(path: str | Path) -> None:
    """Raise CheckpointError if ``path`` exists already, or there is no folder for it."""
    if os.path.lexists(path):
        raise CheckpointError(f"{path} is there already: name a new file or folder")
    folder = os.path.dirname(os.path.abspath(path))
    if not (os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)):
        raise CheckpointError(f"{path}: can't be written: {folder} is not a folder that you may write to")
