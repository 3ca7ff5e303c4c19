"""Files that are not quite of the form in which torch.save wrote before 1.6."""

import pytest
from helpers.torch_bytes import (
    HOOKS,
    NONE,
    NUMBERS,
    START,
    TRUE,
    call,
    counted,
    dict_,
    global_,
    int_,
    legacy_file,
    list_,
    of,
    pickled,
    storage,
    tensor,
    text,
    tuple_,
)

from checkpoints.pytorch.test_file import check_refused


def viewed(*view: bytes) -> bytes:
    return legacy_file(of(storage(view=tuple_(*view))))


LEGACY_SIZE = len(legacy_file())
BAD_LEGACY = {
    "two bytes": (START, "magic number: byte 2: it is cut off"),
    "only the magic number": (pickled(int_(0x1950A86A20F9469CFC6C)), "protocol: byte 0: it is cut off"),
    "another magic number": (legacy_file(magic=int_(2**70)), "a pickle, but not one of torch.save's"),
    "a magic text": (legacy_file(magic=text("1950a86a20f9469cfc6c")), "a pickle, but not one of torch.save's"),
    "a magic True": (legacy_file(magic=TRUE), "a pickle, but not one of torch.save's"),
    "a state dict alone": (pickled(dict_({"a": int_(1)})), "a pickle, but not one of torch.save's"),
    "protocol 1002": (legacy_file(protocol=int_(1002)), "protocol: torch.save's is 1001"),
    "a pickle of another protocol": (b"\x80\x06" + legacy_file()[2:], "magic number: byte 0: pickle protocol 6"),
    "cut off in the object": (legacy_file()[:150], "object: byte .*: it is cut off"),
    "cut off by a byte": (legacy_file()[:-1], f"storage '0': bytes .* of a file of {LEGACY_SIZE - 1}: it is cut off"),
    "cut off in the numbers": (legacy_file(data=counted(NUMBERS[:10], 6)), "storage '0': bytes"),
    "cut off in the length": (legacy_file(data=b"\6\0\0"), "storage '0': bytes"),
    "no numbers": (legacy_file(data=b""), "storage '0': bytes"),
    "a byte more": (legacy_file() + b"\0", "1 bytes after the last storage"),
    "another length": (legacy_file(data=counted(NUMBERS, 5)), "storage '0': 5 numbers follow, and the pickle says 6"),
    "a huge length": (legacy_file(data=counted(NUMBERS, 2**64 - 1)), "18,446,744,073,709,551,615 numbers follow"),
    "a huge storage": (
        legacy_file(of(storage(count=2**60, view=NONE)), data=counted(NUMBERS, 2**60)),
        "storage '0': bytes .* it is cut off",
    ),
    "no keys": (legacy_file(keys=b"]"), "keys: they are not those of the object's storages"),
    "another key": (legacy_file(keys=list_(text("1"))), "keys: they are not those of the object's storages"),
    "a key twice": (
        legacy_file(keys=list_(text("0"), text("0")), data=counted(NUMBERS, 6) * 2),
        "keys: they are not those of the object's storages, each once",
    ),
    "a key more": (legacy_file(keys=list_(text("0"), text("1"))), "keys: they are not those"),
    "a key that is a number": (legacy_file(keys=list_(int_(0))), "keys: a list of strings was expected"),
    "a key that is a list": (legacy_file(keys=list_(b"]")), "keys: a list of strings was expected"),
    "keys that are text": (legacy_file(keys=text("0")), "keys: a list of strings was expected"),
    "keys that are a dict": (legacy_file(keys=dict_({"0": NONE})), "keys: a list of strings was expected"),
    "keys of a program": (legacy_file(keys=call("os.system", text("true"))), "keys: byte 2: it asks for 'os.system'"),
    "keys of OrderedDicts": (legacy_file(keys=HOOKS), "keys: byte 2: it asks for 'collections.OrderedDict'"),
    "a magic number of a program": (
        legacy_file(magic=call("os.system")),
        "magic number: byte 2: it asks for 'os.system'",
    ),
    "a machine of a bomb": (
        pickled(int_(0x1950A86A20F9469CFC6C)) + pickled(int_(1001)) + pickled(text("x" * 2**20)),
        "machine: byte 2: it is cut off, or too long: 1,048,576 more bytes",
    ),
    "a storage without the view": (legacy_file(of(storage())), "a storage must be named by a tuple of its"),
    "a storage with two views": (
        legacy_file(
            of(tuple_(text("storage"), global_("torch.FloatStorage"), *[text("0")] * 2, int_(6), NONE, NONE) + b"Q")
        ),
        "a storage must be named by a tuple of its",
    ),
    "a module": (
        legacy_file(of(tuple_(text("module"), global_("torch.FloatStorage"), *[text("0")] * 2, int_(6), NONE) + b"Q")),
        "something outside the pickle that is a 'module', not a storage",
    ),
    "a view that is a number": (legacy_file(of(storage(view=int_(0)))), "a view of a storage must have a key"),
    "a view of two fields": (viewed(text("v"), int_(0)), "a view of a storage must have a key"),
    "a view with a key of numbers": (viewed(int_(0), int_(0), int_(6)), "a view of a storage must have a key"),
    "a view with a begin of text": (viewed(text("v"), text("0"), int_(6)), "a view of a storage must have a key"),
    "a view that begins before": (viewed(text("v"), int_(-1), int_(6)), "a view that reaches out of its storage of 6"),
    "a view that ends after": (viewed(text("v"), int_(1), int_(6)), "a view that reaches out of its storage of 6"),
    "a view of -1": (viewed(text("v"), int_(5), int_(-1)), "a view that reaches out of its storage"),
    "a huge view": (viewed(text("v"), int_(2**64), int_(6)), "a view that reaches out of its storage"),
    "a tensor larger than its view": (viewed(text("v"), int_(0), int_(5)), "in a storage of 5 numbers"),
    "a view with the storage's key": (viewed(text("0"), int_(0), int_(5)), "the key '0' is there for two parts"),
    "a view that changes": (
        legacy_file(
            dict_(
                {
                    "a": tensor(storage(view=tuple_(text("v"), int_(0), int_(2))), 0, (2,), (1,)),
                    "b": tensor(storage(view=tuple_(text("v"), int_(1), int_(2))), 0, (2,), (1,)),
                }
            )
        ),
        "the key 'v' is there for two parts of storages",
    ),
}


@pytest.mark.parametrize("case", BAD_LEGACY)
def test_bad_legacy_files(tmp_path, case):
    data, place = BAD_LEGACY[case]
    (tmp_path / "a.pt").write_bytes(data)
    check_refused(tmp_path / "a.pt", place)
