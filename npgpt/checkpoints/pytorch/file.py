"""Files that PyTorch's ``torch.save`` writes, read with NumPy alone.

There are two forms. In both, the object is pickled; each storage (the memory of tensors) is left out, named by a key.

    ZIP, since PyTorch 1.6      NAME/data.pkl       the pickle
                                NAME/data/KEY       each storage, at a multiple of 64 bytes
                                NAME/byteorder      "little" or "big"; not in old files, which are little-endian
                                NAME/version        3
    before                      five pickles, one after the other: 0x1950a86a20f9469cfc6c, 1001, about the machine, the
                                object, the keys in the order in which the storages follow; then for each its length,
                                in elements, as 8 bytes, and the elements, little-endian on every machine

The pickles are read by shared/pickles.py, so nothing that one asks for is run. Storages stay in the file. The checksum
of one in a ZIP file is looked at when its elements are first used; a damaged file is not loaded (torch.load doesn't
look).

Source: torch/serialization.py (_save, _load, _legacy_save, _legacy_load), torch/_utils.py (_rebuild_tensor_v2).
"""

from pathlib import Path

from npgpt.checkpoints.formats import ZIP_MAGIC
from npgpt.checkpoints.pytorch.tensors import Storage, Tensors
from npgpt.checkpoints.pytorch.zips import checked_bytes, read_directory
from npgpt.checkpoints.shared.lazy_tensor import LazyTensor
from npgpt.checkpoints.shared.mmap_file import Cursor, MappedFile
from npgpt.checkpoints.shared.pickles import read_pickle
from npgpt.errors import CheckpointError

MAX_PICKLE_BYTES = 4 << 20  # a tensor takes about 200 bytes; this many take some seconds to read
_LEGACY_PROTOCOL = 1001


def read(file: MappedFile) -> object:
    """Return the object that was saved.

    It is made of dicts, lists, tuples, strings, numbers, None, and a ``LazyTensor`` for each tensor or parameter, the
    same one where two share all elements. It may be nested deeply, or in itself. Raises CheckpointError.
    """
    return _read_zip(file) if file.take(0, min(4, file.size), "first bytes") == ZIP_MAGIC else _read_legacy(file)


def tensors_in(found: object, source: str | Path) -> dict[str, LazyTensor]:
    """The object as a state dict, {name: tensor}. Raises CheckpointError if it is another thing."""
    if not isinstance(found, dict):
        raise CheckpointError(f"{source}: a dict of tensors was expected, not a {type(found).__name__}")
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, LazyTensor):
            name, kind = str(name)[:100], type(tensor).__name__
            raise CheckpointError(f"{source}: {name!r}: a tensor and its name were expected, not a {kind}")
    return dict(found)


def _read_pickle_at(file: MappedFile, position: int, what: str, tensors: Tensors | None = None) -> tuple[object, int]:
    """-> the object, and where its pickle ends."""
    length = max(0, min(file.size, _max_pickle_bytes(file)) - position)
    data = file.array(position, "u1", length, what).data
    functions = (tensors.allowed, tensors.load_storage) if tensors else ()
    found, length = read_pickle(data, f"{file.path}: {what}", *functions)
    return found, position + length


def _max_pickle_bytes(file: MappedFile) -> int:
    """Limits unpickled objects (up to 90 bytes per byte) to 48 MB and 3x the file size."""
    return min((512 << 10) + file.size // 32, MAX_PICKLE_BYTES)


# ZIP


def _read_zip(file: MappedFile) -> object:
    members = read_directory(file)
    folder = next(iter(members), "").partition("/")[0]
    pickle = f"{folder}/data.pkl"
    if f"{folder}/constants.pkl" in members:
        raise CheckpointError(f"{file.path}: TorchScript, a program; save the model's state_dict with torch.save")
    if pickle not in members:
        raise CheckpointError(f"{file.path}: a ZIP archive that is not torch.save's: it has no */data.pkl")
    order = members.get(f"{folder}/byteorder")
    if order is not None and checked_bytes(file, f"{folder}/byteorder", order) != b"little":
        raise CheckpointError(f"{file.path}: big-endian, and only little-endian files are read")
    size = members[pickle].size
    if size > _max_pickle_bytes(file):
        raise CheckpointError(f"{file.path}: {pickle!r}: {size:,} bytes are too many for a file of {file.size:,}")

    def new_storage(key: str, kind: str, count: int) -> Storage:
        name = f"{folder}/data/{key}"
        if name not in members:
            raise CheckpointError(f"the storage {name[:100]!r} is not in the file")
        member = members[name]
        storage = Storage(file, repr(name), kind, count, member.begin, member.crc)
        if storage.nbytes != member.size:
            raise CheckpointError(f"{name!r} has {member.size:,} bytes, which {count:,} of {kind} are not")
        return storage

    tensors = Tensors(new_storage)
    data = checked_bytes(file, pickle, members[pickle])
    return read_pickle(data, f"{file.path}: {pickle!r}", tensors.allowed, tensors.load_storage)[0]


# Before PyTorch 1.6


def _read_legacy(file: MappedFile) -> object:
    tensors = Tensors(lambda key, kind, count: Storage(file, f"storage {key[:100]!r}", kind, count))
    _, position = _read_pickle_at(file, 0, "magic number")
    protocol, position = _read_pickle_at(file, position, "protocol")
    if protocol != _LEGACY_PROTOCOL:
        raise CheckpointError(f"{file.path}: protocol: torch.save's is {_LEGACY_PROTOCOL}")
    _, position = _read_pickle_at(file, position, "machine")
    found, position = _read_pickle_at(file, position, "object", tensors)
    keys, position = _read_pickle_at(file, position, "keys")
    storages = tensors.storages
    if not isinstance(keys, list) or {*map(type, keys), str} != {str} or sorted(keys) != sorted(storages):
        raise CheckpointError(f"{file.path}: keys: they are not those of the object's storages, each once")
    cursor = Cursor(file, position)
    for storage in (storages[key] for key in keys):
        count = cursor.number("<u8", storage.place)
        if count != storage.count:
            raise CheckpointError(f"{file.path}: {storage.place}: {count:,} elements, and not {storage.count:,}")
        storage.begin = cursor.position
        cursor.array("u1", storage.nbytes, storage.place)
    return found
