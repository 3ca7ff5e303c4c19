"""Weights from wherever people have them. Each format is read to one ``Checkpoint``, and written from one.

    reading.py, writing.py    load, open_checkpoint, make_model; save, write_checkpoint
    formats.py       the table of formats, and how a file's is told from its bytes
    shared/          what all readers and writers use: Checkpoint, tensors that are still in the file, validation
    runs.py          our own run folders and their files; safetensors.py is the format of these
    run_states.py    which of a run's files is the newest that is whole
    huggingface/     transformers' folders, read and written; hub.py finds models by name
    nanogpt.py       nanoGPT's ckpt.pt, in a file of pytorch/; shared/nanogpt_meta.py reads its meta.pkl
    llmc.py, gguf/, tensorflow/

A new format is one row of the table and a module with ``read`` and perhaps ``write``. Names are imported at first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the same names, for type checkers, which don't run __getattr__
    from npgpt.checkpoints.reading import find_checkpoint as find_checkpoint
    from npgpt.checkpoints.reading import load as load
    from npgpt.checkpoints.reading import make_model as make_model
    from npgpt.checkpoints.reading import open_checkpoint as open_checkpoint
    from npgpt.checkpoints.writing import check_can_write as check_can_write
    from npgpt.checkpoints.writing import save as save
    from npgpt.checkpoints.writing import write_checkpoint as write_checkpoint

_HOME = {
    **dict.fromkeys(("load", "open_checkpoint", "find_checkpoint", "make_model"), "reading"),
    **dict.fromkeys(("save", "write_checkpoint", "check_can_write"), "writing"),
}
__all__ = [*_HOME]


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
