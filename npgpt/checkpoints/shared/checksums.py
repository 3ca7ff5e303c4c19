"""Checksums of a file's tensors and texts, in its own metadata: a bit that the disk has changed is noticed."""

import json
import zlib
from collections.abc import Mapping

import numpy as np

from npgpt.checkpoints.shared.lazy_tensor import LazyTensor
from npgpt.checkpoints.shared.strict_json import parse_json
from npgpt.errors import CheckpointError

KEY = "npgpt_crc32"


def with_checksums(tensors: Mapping[str, np.ndarray | LazyTensor], texts: dict[str, str]) -> dict[str, str]:
    """The metadata ``texts`` and one more: the CRC-32 of each text, and of each tensor's bytes as a file has them.

    A LazyTensor gets none: it would be read twice for it.
    """
    sums = {name: _crc32(array) for name, array in tensors.items() if isinstance(array, np.ndarray)}
    return texts | {KEY: json.dumps({"tensors": sums, "texts": {name: _crc32(text) for name, text in texts.items()}})}


def check_texts(metadata: dict[str, str], path: object) -> dict[str, int]:
    """Compare a file's metadata with its checksums -> those of its tensors, {} if it has none.

    Raises CheckpointError if a text is not the one that was written.
    """
    sums = parse_json(metadata.get(KEY, '{"tensors": {}, "texts": {}}'), f"{path}: __metadata__ {KEY}")
    match sums:
        case {"tensors": dict(tensors), "texts": dict(texts)}:
            pass
        case _:
            raise CheckpointError(f"{path}: __metadata__ {KEY}: checksums were expected")
    for name, expected in texts.items():
        if _crc32(metadata.get(name, "")) != expected:
            raise CheckpointError(f"{path}: __metadata__ {name[:200]!r} is not what was written: the file is damaged")
    return tensors


def check_tensor(name: str, array: np.ndarray, sums: dict[str, int], path: object) -> None:
    """Raise CheckpointError if a tensor's bytes are not those that were written, as far as ``sums`` knows it."""
    if sums and sums.get(name) != _crc32(array):
        raise CheckpointError(f"{path}: tensor {name[:200]!r} is not what was written: the file is damaged")


def _crc32(content) -> int:
    if isinstance(content, str):
        return zlib.crc32(content.encode("utf-8", "surrogatepass"))
    return zlib.crc32(np.ascontiguousarray(content, content.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data)
