"""The formats that weights come in, a row each. Imports nothing heavy: ``--help`` answers from this table.

A file is told by how it begins and ends, never by its name. The rules exclude one another, and that is why each is as
long as it is. A safetensors file begins with the length of its header, which may be any up to 100,000,000. So its first
four bytes can be those of another format. What follows can't: the length's upper half is zero, then comes {.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from npgpt.errors import CheckpointError

BEGIN, END = 32, 8  # bytes of a file that the rules look at
MAX_HEADER_BYTES = 100_000_000  # of safetensors; the format's own limit
MAX_ZIP_METHOD = 99  # the largest number that stands for a way to compress
GGUF_MAGIC = b"GGUF"
LLMC_MAGIC = (20240326).to_bytes(4, "little")
TABLE_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
ZIP_MAGIC = b"PK\3\4"
# The number 0x1950A86A20F9469CFC6C, as each protocol of pickle has it; from 4 on in a frame.
_LEGACY_TORCH = re.compile(
    rb"\x80[\2-\5](\x95.{8})?\x8a\x0a" + re.escape((0x1950A86A20F9469CFC6C).to_bytes(10, "little")) + rb"\.", re.DOTALL
)


def _is_safetensors(begin: bytes, end: bytes) -> bool:
    return begin[8:9] == b"{" and int.from_bytes(begin[:8], "little") <= MAX_HEADER_BYTES


def _is_torch(begin: bytes, end: bytes) -> bool:
    is_zip = begin[:4] == ZIP_MAGIC and int.from_bytes(begin[8:10], "little") <= MAX_ZIP_METHOD
    return is_zip or _LEGACY_TORCH.match(begin) is not None


def _is_llmc(begin: bytes, end: bytes) -> bool:
    return begin[:4] == LLMC_MAGIC and any(begin[4:8])  # a version


def _is_gguf(begin: bytes, end: bytes) -> bool:
    return begin[:4] == GGUF_MAGIC  # which is too large for a length


def _is_tensorflow(begin: bytes, end: bytes) -> bool:
    """A table whose first key is "", the header's. Any file may end with the magic number."""
    return end == TABLE_MAGIC and begin[:2] == b"\0\0" and any(begin[4:8])  # the header's record, which isn't zeros


@dataclass(frozen=True)
class Format:
    """One format.

    name        as ``convert --to`` has it
    module      below npgpt.checkpoints. ``read(file: MappedFile) -> Checkpoint``, if there is a rule for files;
                ``write(path, checkpoint, dtype)``, if there are dtypes
    matches     the rule: from a file's first BEGIN and last END bytes. None: it is a folder
    dtypes      that are written, the default first; none if it is only read
    suffix      of the files that are written; "" if it is a folder
    """

    name: str
    module: str
    matches: Callable[[bytes, bytes], bool] | None
    dtypes: tuple[str, ...] = ()
    suffix: str = ""

    def load(self) -> ModuleType:
        """The module, imported when it is needed."""
        return import_module(f"npgpt.checkpoints.{self.module}")

    def check_dtype(self, dtype: str | None) -> str:
        """The dtype, or the default for None. Raises CheckpointError if it isn't written."""
        if dtype is not None and dtype not in self.dtypes:
            raise CheckpointError(f"{self.name} is written with dtype {', '.join(self.dtypes)}, not {dtype[:100]}")
        return dtype or self.dtypes[0]


_FLOATS = ("F32", "F16", "BF16")
FORMATS = (
    Format("safetensors", "runs", _is_safetensors, (*_FLOATS, "Q8_0", "Q4_0"), ".safetensors"),
    Format("huggingface", "huggingface.write", None, _FLOATS),
    Format("tensorflow", "tensorflow.model", _is_tensorflow),
    Format("pytorch", "pytorch.model", _is_torch),
    Format("llm.c", "llmc", _is_llmc, ("F32", "BF16"), ".bin"),
    Format("gguf", "gguf.model", _is_gguf, ("F32", "F16", "Q8_0", "Q4_0"), ".gguf"),
)
WRITTEN = {row.name: row for row in FORMATS if row.dtypes}
DTYPES = tuple(dict.fromkeys(dtype for row in FORMATS for dtype in row.dtypes))


def written(name: str) -> Format:
    """The row of a format that is written. Raises CheckpointError."""
    if name not in WRITTEN:
        raise CheckpointError(f"there is no format {name!r} to write; there are {', '.join(WRITTEN)}")
    return WRITTEN[name]


def by_suffix(suffix: str) -> str | None:
    """The format that is written to files with this suffix; a folder's without one, None for any other.

    >>> by_suffix(".gguf"), by_suffix(""), by_suffix(".pt")
    ('gguf', 'huggingface', None)
    """
    return next((name for name, row in WRITTEN.items() if row.suffix == suffix), None if suffix else "huggingface")


def identify(begin: bytes, end: bytes) -> Format | None:
    """The format of a file with these first BEGIN and last END bytes.

    >>> identify(b"GGUF\\3\\0\\0\\0", b"").name
    'gguf'
    """
    return next((row for row in FORMATS if row.matches and row.matches(begin, end)), None)
