"""JSON from strangers, read without the leniency of Python's parser; a fault is a CheckpointError naming the file."""

import json
from pathlib import Path
from typing import Any

from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.errors import CheckpointError

# A config.json takes some thousand bytes. Parsed, JSON takes up to thirty times its size, so this bounds the memory.
MAX_FILE_BYTES = 1_000_000
MAX_ITEMS = 250_000  # 50 MB


def parse_json(data: bytes | str, source: str, infinity: bool = False, max_items: int = MAX_ITEMS) -> Any:
    """Parse one JSON text. ``source`` begins every message: the file, and the part of it.

    Unlike Python's parser it refuses bytes that are not UTF-8, a key given twice, NaN, and infinity, unless asked.
    Nesting is limited by Python's recursion limit, what memory it takes by ``max_items``.
    """
    if items_at_most(data) > max_items:
        raise CheckpointError(f"{source}: more than {max_items:,} items, so it is not what npgpt or others write")

    def constant(name):
        if infinity and name != "NaN":
            return float(name)
        raise CheckpointError(f"{source}: {name} is there, which JSON does not have")

    def unique(pairs):
        values = {}
        for key, value in pairs:
            if key in values:
                raise CheckpointError(f"{source}: the key {key[:100]!r} is there twice")
            values[key] = value
        return values

    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        return json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{source}: not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{source}: not JSON at character {error.pos}: {error.msg}") from None
    except RecursionError:
        raise CheckpointError(f"{source}: the JSON is nested too deeply") from None
    except CheckpointError:
        raise
    except ValueError:  # int() of more than 4,300 digits
        raise CheckpointError(f"{source}: a number has too many digits") from None


def items_at_most(data: bytes | str) -> int:
    """The most values that the JSON may hold; each takes up to 200 bytes of memory once it is parsed."""
    return sum(map(data.count, ",[{")) if isinstance(data, str) else sum(map(data.count, (b",", b"[", b"{")))


def read_json_object(path: Path, max_bytes: int = MAX_FILE_BYTES) -> dict:
    """Read a file that holds one JSON object, such as a config.json. Raises CheckpointError."""
    file = MappedFile(path)
    if file.size > max_bytes:
        raise CheckpointError(f"{path}: larger than {max_bytes:,} bytes, so it is not what npgpt or others write")
    values = parse_json(file.take(0, file.size, "JSON"), str(path))
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: a JSON object was expected, not {type(values).__name__}")
    return values
