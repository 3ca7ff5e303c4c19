"""A file of ``torch.save`` with a GPT-2: nanoGPT's or build-nanogpt's dict, or weights under Hugging Face's names."""

from npgpt.checkpoints.huggingface.read import read_weights_file
from npgpt.checkpoints.nanogpt import read_nanogpt
from npgpt.checkpoints.pytorch import file as pytorch
from npgpt.checkpoints.shared.checkpoint import Checkpoint
from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.checkpoints.shared.pickles import Attributes


def read(file: MappedFile) -> Checkpoint:
    """Raises CheckpointError."""
    found = pytorch.read(file)
    if (
        isinstance(found, dict)
        and "model" in found
        and ("model_args" in found or isinstance(found.get("config"), Attributes))
    ):
        return read_nanogpt(found, file)
    return read_weights_file(file, pytorch.tensors_in(found, file.path), "PyTorch")
