"""Files that PyTorch's ``torch.save`` writes, read with NumPy alone.

There are two forms. In both, the object is pickled, and each storage (the memory that tensors are views of) is left out
there and named by a key.

    ZIP, since PyTorch 1.6      NAME/data.pkl       the pickle
                                NAME/data/KEY       each storage, at a multiple of 64 bytes
                                NAME/byteorder      "little" or "big"; not in old files, which are little-endian
                                NAME/version        3
    before                      five pickles, one after the other: 0x1950a86a20f9469cfc6c, 1001, about the machine, the
                                object, the keys in the order in which the storages follow; then for each its length,
                                in numbers, as 8 bytes, and the numbers, little-endian on every machine

The pickles are read by pickles.py, so nothing that one asks for is run. Storages stay in the file: a tensor is a
``Stored`` with views of it. The checksum of a storage in a ZIP file is looked at when its numbers are first used. It
takes a quarter of a second for 1 GB, which opening should not; and then a damaged file is not loaded (torch.load
doesn't look).

Source: torch/serialization.py (_save, _load, _legacy_save, _legacy_load), torch/_utils.py (_rebuild_tensor_v2).
"""

import re

from npgpt.checkpoints.pytorch.pickles import read_pickle
from npgpt.checkpoints.pytorch.tensors import STORAGE_TYPES, Storage, Tensors
from npgpt.checkpoints.pytorch.zips import checked_bytes, read_directory
from npgpt.checkpoints.shared.lazy_tensor import Stored
from npgpt.checkpoints.shared.mmap_file import Cursor, MappedFile
from npgpt.errors import CheckpointError

MAX_PICKLE_BYTES = 4 << 20  # a tensor takes about 200 bytes; this many take some seconds to read
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
# The magic number as protocols 2 to 5 pickle it, those from 4 on in a frame. Two bytes would not do: a safetensors file
# begins with a length, which may be b"\x80\5...".
_LEGACY_BEGIN = re.compile(
    rb"\x80[\2-\5](\x95.{8})?" + re.escape(b"\x8a\n" + _LEGACY_MAGIC.to_bytes(10, "little") + b"."), re.DOTALL
)
_SERIALIZATION_ID = ".data/serialization_id"  # of the bytes; 40 digits
MAX_KEY_LENGTH = 1000


def matches(file: MappedFile) -> bool:
    """True if the file begins like one of the two forms: as a ZIP archive, or with the pickled magic number."""
    return _is_zip(file) or _LEGACY_BEGIN.match(file.take(0, min(24, file.size), "first bytes")) is not None


def read(file: MappedFile) -> object:
    """Return the object that was saved.

    The object is made of dicts, lists, tuples, strings, numbers, True, False and None, nowhere more than 100 deep and
    nothing inside itself; where it has tensors or parameters, there are ``Stored``, the same one where two share all
    their numbers. Raises CheckpointError.
    """
    return _read_zip(file) if _is_zip(file) else _read_legacy(file)


def _is_zip(file: MappedFile) -> bool:
    return file.take(0, min(4, file.size), "first bytes") == b"PK\3\4"


def tensors_in(found: object, source) -> dict[str, Stored]:
    """The object as a state dict, {name: tensor}. Raises CheckpointError if it is another thing."""
    if not isinstance(found, dict):
        raise CheckpointError(f"{source}: a dict of tensors was expected, not a {type(found).__name__}")
    for name, tensor in found.items():
        if not isinstance(name, str) or len(name) > MAX_KEY_LENGTH:
            raise CheckpointError(f"{source}: the name of a tensor was expected, not {str(name)[:100]!r}")
        if not isinstance(tensor, Stored):
            raise CheckpointError(f"{source}: {name[:100]!r}: a tensor was expected, not a {type(tensor).__name__}")
    return dict(found)


def check_own_numbers(tensors: dict[str, Stored], files: tuple[MappedFile, ...], source) -> None:
    """Raise CheckpointError if the weights take more bytes than the files have: if several are the same numbers.

    A file can say that all the layers are one. Such a small file would make a large model.
    """
    itemsizes = {name: dtype.itemsize for name, dtype in STORAGE_TYPES.values()}
    needed = sum(tensor.size * itemsizes.get(tensor.dtype, 0) for tensor in tensors.values())
    size = sum(file.size for file in files)
    if needed > size:
        raise CheckpointError(
            f"{source}: the tensors take {needed:,} bytes, and there are {size:,}: several are the same numbers"
        )


def _max_pickle_bytes(file: MappedFile) -> int:
    """So that objects, of which a byte makes up to 90 bytes, take less than 48 MB and 3 times the file."""
    return min((512 << 10) + file.size // 32, MAX_PICKLE_BYTES)


# ZIP


def _read_zip(file: MappedFile):
    members = read_directory(file)
    folder = next(iter(members), "").partition("/")[0]
    pickle = f"{folder}/data.pkl"
    if f"{folder}/constants.pkl" in members:
        raise CheckpointError(f"{file.path}: TorchScript, a program; save the model's state_dict with torch.save")
    if pickle not in members:
        raise CheckpointError(f"{file.path}: a ZIP archive that is not torch.save's: it has no */data.pkl")
    _check_header(file, folder, members)
    size = members[pickle].size
    if size > _max_pickle_bytes(file):
        raise CheckpointError(f"{file.path}: {pickle!r}: {size:,} bytes are too many for a file of {file.size:,}")

    storages = {}

    def load_storage(kind: str, key: str, count: int, view) -> tuple[Storage, int, int]:
        name = f"{folder}/data/{key}"
        if name not in members:
            raise CheckpointError(f"the storage {name[:100]!r} is not in the file")
        if key not in storages:
            member = members[name]
            storages[key] = Storage(file, repr(name), kind, count, member.begin, member.crc)
            if storages[key].nbytes != member.size:
                raise CheckpointError(f"{name!r} has {member.size:,} bytes, which {count:,} of {kind} are not")
        storages[key].check_same(kind, count)
        return storages[key], 0, count

    tensors = Tensors(load_storage, fields=4)
    data = checked_bytes(file, pickle, members[pickle])
    found, length = read_pickle(data, f"{file.path}: {pickle!r}", tensors.allowed, tensors.load_storage)
    if length != size:
        raise CheckpointError(f"{file.path}: {pickle!r}: {size - length:,} bytes after the pickle")
    return found


def _check_header(file: MappedFile, folder: str, members: dict) -> None:
    """Check the small members, which say how to read the others; torch.load reads all of them."""
    texts = {}
    for short in ("version", ".data/version", "byteorder", ".format_version", ".storage_alignment", _SERIALIZATION_ID):
        name = f"{folder}/{short}"
        if name in members:
            if members[name].size > 100:
                raise CheckpointError(f"{file.path}: {name!r}: a word was expected, not {members[name].size:,} bytes")
            texts[short] = bytes(checked_bytes(file, name, members[name]))
    version = texts.get(".data/version", texts.get("version", b"")).strip()
    if version not in [b"%d" % number for number in range(1, 11)]:
        raise CheckpointError(f"{file.path}: {folder + '/version'!r} is {version!r}, and torch.save writes 3")
    if texts.get("byteorder", b"little") != b"little":
        raise CheckpointError(f"{file.path}: {folder + '/byteorder'!r} is {texts['byteorder']!r}; only little is read")
    for short in (".format_version", ".storage_alignment", _SERIALIZATION_ID):
        if not texts.get(short, b"1").isdigit():
            raise CheckpointError(f"{file.path}: {folder + '/' + short!r} is {texts[short]!r}, not a number")


# Before PyTorch 1.6


def _read_legacy(file: MappedFile):
    storages = {}
    parts = {}  # {key: (key of its storage, begin, length)}, of storages and of views, which have keys of the same kind

    def load_storage(kind: str, key: str, count: int, view) -> tuple[Storage, int, int]:
        if key not in storages:
            storages[key] = Storage(file, f"storage {key[:100]!r}", kind, count)
        storages[key].check_same(kind, count)
        part = _check_view(view, count) if view is not None else (key, 0, count)
        for name, begin, length in ((key, 0, count), part):
            if parts.setdefault(name, (key, begin, length)) != (key, begin, length):
                raise CheckpointError(f"the key {name[:100]!r} is there for two parts of storages")
        return storages[key], *part[1:]

    tensors = Tensors(load_storage, fields=5)
    position = 0

    def read_next(what, *functions):
        nonlocal position
        length = min(file.size, _max_pickle_bytes(file)) - position
        data = memoryview(file.array(position, "u1", max(length, 0), what))
        found, length = read_pickle(data, f"{file.path}: {what}", *functions)
        position += length
        return found

    if read_next("magic number") != _LEGACY_MAGIC:
        raise CheckpointError(f"{file.path}: a pickle, but not one of torch.save's: its magic number is missing")
    if read_next("protocol") != _LEGACY_PROTOCOL:
        raise CheckpointError(f"{file.path}: protocol: torch.save's is {_LEGACY_PROTOCOL}")
    read_next("machine")
    found = read_next("object", tensors.allowed, tensors.load_storage)
    keys = read_next("keys")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise CheckpointError(f"{file.path}: keys: a list of strings was expected")
    if len(keys) != len(storages) or set(keys) != storages.keys():
        raise CheckpointError(f"{file.path}: keys: they are not those of the object's storages, each once")
    _place(file, position, [storages[key] for key in keys])
    return found


def _check_view(view, count: int) -> tuple[str, int, int]:
    """A view's key, and where in its storage of ``count`` numbers it begins and how long it is."""
    if not isinstance(view, tuple) or [type(part) for part in view] != [str, int, int]:
        raise CheckpointError("a view of a storage must have a key, a begin and a length")
    _, begin, length = view
    if not 0 <= begin <= begin + length <= count:
        raise CheckpointError(f"a view that reaches out of its storage of {count:,} numbers")
    return view


def _place(file: MappedFile, position: int, storages: list[Storage]) -> None:
    """Find the storages, which stand one after the other from ``position`` to the end, each after its length."""
    cursor = Cursor(file, position)
    for storage in storages:
        count = cursor.number("<u8", storage.place)
        if count != storage.count:
            raise CheckpointError(
                f"{file.path}: {storage.place}: {count:,} numbers follow, and the pickle says {storage.count:,}"
            )
        storage.begin = cursor.position
        cursor.array("u1", storage.nbytes, storage.place)
    if cursor.position != file.size:
        raise CheckpointError(f"{file.path}: {file.size - cursor.position:,} bytes after the last storage")
