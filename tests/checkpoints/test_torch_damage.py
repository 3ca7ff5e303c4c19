"""torch.save's files, damaged in every way that we could think of, and in some thousand that we couldn't."""

import re
import struct
import zlib

import pytest
from mutations import COUNT, memory_at_most, mutated
from test_torch_files import FORMS, arrays, assert_same
from torch_bytes import (
    FALSE,
    GOOD,
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
    ints,
    legacy_file,
    list_,
    pickled,
    storage,
    tensor,
    text,
    tuple_,
    zip_file,
    zip_members,
    zipped,
)

from npgpt.checkpoints.torch_files import check_own_numbers, read_torch, tensors_in
from npgpt.errors import CheckpointError

# What is wrong with a tensor, in either form: the pickled object, the place that the message names


def of(storage_bytes: bytes) -> bytes:
    return dict_({"a": tensor(storage_bytes)})


def shaped(size=(2, 3), stride=(3, 1), offset=0, **changes) -> bytes:
    return dict_({"a": tensor(None, offset, size, stride, **changes)})


def parameter(*arguments: bytes) -> bytes:
    return dict_({"a": call("torch._utils._rebuild_parameter", *arguments)})


HUGE = 2**62
BAD_OBJECTS = {
    "os.system": (call("os.system", text("true")), "it asks for 'os.system'"),
    "a model": (call("__main__.GPT"), "it asks for '__main__.GPT'"),
    "another rebuild": (
        call("torch._utils._rebuild_sparse_tensor"),
        "it asks for 'torch._utils._rebuild_sparse_tensor'",
    ),
    "eval as a storage type": (of(storage(kind="builtins.eval")), "it asks for 'builtins.eval'"),
    "a complex storage": (of(storage(kind="torch.ComplexFloatStorage")), "it asks for 'torch.ComplexFloatStorage'"),
    "too large": (shaped((3, 3)), r"a tensor of size \(3, 3\) and stride \(3, 1\) from number 0 on, in a storage of 6"),
    "too large by one": (shaped((7,), (1,)), r"a tensor of size \(7,\)"),
    "out by its offset": (shaped(offset=1), "from number 1 on, in a storage of 6 numbers"),
    "out by its stride": (shaped(stride=(4, 1)), r"and stride \(4, 1\) from"),
    "out, without axes": (shaped((), (), 6), "from number 6 on"),
    "out, without numbers": (shaped((0,), (1,), 7), "from number 7 on"),
    "a negative offset": (shaped(offset=-1), "a tensor's offset must be a whole number of at least 0, not -1"),
    "a negative size": (shaped((-2, -3)), "a tensor's size must be a whole number of at least 0, not -2"),
    "a negative stride": (shaped(stride=(-3, 1)), "a tensor's stride must be a whole number of at least 0, not -3"),
    "a huge offset": (shaped(offset=2**70), "a tensor's offset must be a whole number of at least 0, not 11805"),
    "a huge size": (shaped((2**63, 1)), "a tensor's size must be a whole number"),
    "a huge stride": (shaped(stride=(2**64, 1)), "a tensor's stride must be a whole number"),
    "a number of 2,000 bits": (
        shaped((2**2000, 1)),
        "a tensor's size must be a whole number of at least 0, not 114813",
    ),
    "sizes that overflow": (
        shaped((2**32, 2**32), (0, 0)),
        r"a tensor of size \(4294967296, 4294967296\) is too large",
    ),
    "empty sizes that overflow": (shaped((0, HUGE), (1, 1)), "is too large"),
    "strides that overflow": (shaped((3, 2), (HUGE, HUGE)), "and stride"),
    "an offset that overflows": (shaped(offset=2**63 - 1), "from number 9223372036854775807 on"),
    "expanded": (shaped((10**9,), (0,)), r"size \(1000000000,\) and stride \(0,\) from number 0 on, in a storage of 6"),
    "expanded by an axis": (shaped((7, 1), (0, 1)), r"a tensor of size \(7, 1\)"),
    "overlapping itself": (shaped((4, 3), (1, 1)), r"a tensor of size \(4, 3\) and stride \(1, 1\)"),
    "a size too many": (shaped((2, 3, 1)), "a tensor of 3 sizes and 2 strides"),
    "33 axes": (shaped((1,) * 33, (1,) * 33), "a tensor's size must be a tuple of up to 32 numbers"),
    "five thousand axes": (shaped((1,) * 5000, (1,) * 5000), "a tensor's size must be a tuple of up to 32"),
    "no size": (dict_({"a": tensor(size=b"")}), "_rebuild_tensor_v2 with 5 arguments"),
    "a size of text": (dict_({"a": tensor(size=tuple_(text("2"), int_(3)))}), "a tensor's size must be .* not '2'"),
    "a size of fractions": (dict_({"a": tensor(size=tuple_(b"G" + bytes(8), int_(3)))}), "size must be .* not 0.0"),
    "a size of booleans": (dict_({"a": tensor(size=tuple_(TRUE, int_(3)))}), "a tensor's size must be .* not True"),
    "a size that is a list": (dict_({"a": tensor(size=list_(int_(2), int_(3)))}), "a tensor's size must be a tuple"),
    "a size that is None": (dict_({"a": tensor(size=NONE)}), "a tensor's size must be a tuple"),
    "an offset that is text": (dict_({"a": tensor(offset=text("0"))}), "a tensor's offset must be a whole number"),
    "an offset that is True": (dict_({"a": tensor(offset=TRUE)}), "a tensor's offset must be .* not True"),
    "a storage that is a dict": (dict_({"a": tensor(b"}")}), "a tensor without a storage"),
    "a storage that is a type": (dict_({"a": tensor(global_("torch.FloatStorage"))}), "a tensor without a storage"),
    "a tensor of a tensor": (dict_({"a": tensor(tensor())}), "a tensor without a storage"),
    "a gradient of integers": (
        dict_({"a": tensor(storage(kind="torch.IntStorage"), requires_grad=TRUE)}),
        "a tensor of I32 with requires_grad = True",
    ),
    "a gradient that is a list": (shaped(requires_grad=b"]"), r"with requires_grad = \[\]"),
    "hooks": (shaped(hooks=HOOKS + text("a") + NONE + b"s"), "a tensor with hooks"),
    "hooks that are text": (shaped(hooks=text("a")), "a tensor with hooks"),
    "metadata": (shaped(metadata=dict_({"neg": TRUE})), "a tensor with metadata"),
    "metadata that is text": (shaped(metadata=text("neg")), "a tensor with metadata"),
    "no arguments": (dict_({"a": call("torch._utils._rebuild_tensor_v2")}), "_rebuild_tensor_v2 with 0 arguments"),
    "nine arguments": (shaped(a=NONE, b=NONE, c=NONE), "_rebuild_tensor_v2 with 9 arguments"),
    "a parameter of nothing": (parameter(), "a parameter without a tensor"),
    "a parameter of text": (parameter(text("a"), FALSE, HOOKS), "a parameter without a tensor"),
    "a parameter of a storage": (parameter(storage(), FALSE, HOOKS), "a parameter without a tensor"),
    "a parameter of integers": (
        parameter(tensor(storage(kind="torch.LongStorage", count=3), 0, (3,), (1,)), TRUE, HOOKS),
        "a tensor of I64 with requires_grad",
    ),
    "a parameter with hooks": (parameter(tensor(), TRUE, text("a")), "a tensor with hooks"),
    "a negative storage": (of(storage(count=-6)), "a storage's length must be a whole number of at least 0, not -6"),
    "a huge storage": (of(storage(count=2**80)), "a storage's length must be a whole number"),
    "a storage of True": (of(tuple_(text("storage"), NONE) + b"Q"), "a storage must be named by a tuple"),
    "a storage named by text": (of(text("0") + b"Q"), "a storage must be named by a tuple"),
    "a storage named by a number": (of(int_(0) + b"Q"), "a storage must be named by a tuple"),
    "a storage named by nothing": (of(b")Q"), "a storage must be named by a tuple"),
    "a storage of two types": (
        dict_({"a": tensor(), "b": tensor(storage(kind="torch.IntStorage"))}),
        "is 6 of torch.FloatStorage at first, then 6 of torch.IntStorage",
    ),
    "a storage of two lengths": (
        dict_({"a": tensor(), "b": tensor(storage(count=5), 0, (5,), (1,))}),
        "is 6 of torch.FloatStorage at first, then 5 of torch.FloatStorage",
    ),
    "a dict in itself": (b"}q\0" + text("a") + b"h\0s", "a dict is inside itself"),
    "protocol 4": (b"\x80\x04" + GOOD, "not a pickle: one begins, and only begins"),
    "two objects": (GOOD + GOOD, "more than one object"),
}


def as_legacy(value: bytes) -> bytes:
    """The same object with the legacy form's persistent ids, which have one more field."""
    return value.replace(b"tQ", NONE + b"tQ")


def check_refused(path, place: str):
    with pytest.raises(CheckpointError) as caught, memory_at_most(path.stat().st_size):
        arrays(read_torch(path)[0])
    message = str(caught.value)
    assert re.search(place, message), message
    assert message.startswith(f"{path}: ")
    assert len(message) < 400 + len(str(path))
    assert message.isprintable()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", BAD_OBJECTS)
def test_bad_objects(tmp_path, case, form):
    value, place = BAD_OBJECTS[case]
    data = zip_file(value) if form == "zip" else legacy_file(as_legacy(value))
    (tmp_path / "a.pt").write_bytes(data)
    check_refused(tmp_path / "a.pt", place)


# What is wrong with a ZIP file


def both(**says) -> dict:
    """What the header and the directory's entry of a member both say."""
    return {"header": says, "entry": says}


def lying(member: str, **change) -> bytes:
    return zip_file(changes={f"x/{member}": change})


def ending(**tail) -> bytes:
    return zip_file(tail=tail)


def without(name: str) -> bytes:
    return zipped({key: value for key, value in zip_members().items() if key != f"x/{name}"})


def with_members(**members: bytes) -> bytes:
    return zipped(zip_members() | {f"x/{name}": content for name, content in members.items()})


PLACES = {name: zip_file().index(name.encode()) - 30 for name in zip_members()}
SIZE = len(zip_file())
COMPRESSED = zlib.compressobj(wbits=-15)
DEFLATED = COMPRESSED.compress(NUMBERS) + COMPRESSED.flush()
BAD_ZIPS = {
    "only the first bytes": (b"PK\3\4", "ZIP directory: its end is not at the file's end"),
    "nothing but zeros": (b"PK\3\4" + bytes(1000), "ZIP directory: its end is not at the file's end"),
    "cut off by a byte": (zip_file()[:-1], "its end is not at the file's end"),
    "cut off in the middle": (zip_file()[: SIZE // 2], "its end is not at the file's end"),
    "a byte more": (zip_file() + b"\0", "its end is not at the file's end"),
    "a byte before": (b"PK\3\4" + zip_file(), r"ZIP directory: \d+ bytes at \d+, and it must end at"),
    "a byte missing inside": (zip_file()[:100] + zip_file()[101:], "and it must end at"),
    "a comment": (ending(comment=b"hello"), "its end is not at the file's end"),
    "a comment that looks like an end": (ending(comment=zip_file()[-22:]), "and it must end at|a comment"),
    "no members": (b"PK\3\4" + zipped({}, tail={"offset": 4}), "a ZIP archive that is not torch.save's"),
    "a member more than there is": (ending(count=5), "ZIP directory: no entry at byte"),
    "a member less": (ending(count=3), r"ZIP directory: \d+ bytes after its last member"),
    "65,535 members": (ending(count=65535), "ZIP directory: 65,535 members are too many for"),
    "the directory elsewhere": (ending(offset=0), "and it must end at"),
    "the directory outside": (ending(offset=2**32 - 1), "and it must end at"),
    "the directory longer": (ending(size=2**31), r"2,147,483,648 bytes at"),
    "the directory of nothing": (ending(size=0), "0 bytes at"),
    "zip64 far away": (ending(end64={}, locator=2**63), "the zip64 record is not where its end says"),
    "zip64 in a member": (ending(end64={}, locator=64), "the zip64 record is not where its end says"),
    "zip64 with another count": (ending(end64={"count": 3}), "the zip64 record says other things than"),
    "zip64 with another size": (ending(end64={"size": 2**63}), "the zip64 record says other things than"),
    "zip64 with another offset": (ending(end64={"offset": 0}), "the zip64 record says other things than"),
    "zip64 with a huge offset": (ending(offset=2**32 - 1, end64={"offset": 2**64 - 1}), "and it must end at"),
    "zip64 with a huge count": (
        ending(count=65535, end64={"count": 2**63}),
        "9,223,372,036,854,775,808 members are too",
    ),
    "compressed": (lying("data/0", entry={"method": 8, "size": 100}), "'x/data/0': it is compressed .method 8."),
    "compressed for real": (
        zipped(
            zip_members(storages={"0": DEFLATED}),
            {"x/data/0": both(method=8, size=24, crc=zlib.crc32(NUMBERS))},
        ),
        "'x/data/0': it is compressed",
    ),
    "compressed, the header says": (
        lying("data/0", header={"method": 8}),
        "'x/data/0': the ZIP header before it is an",
    ),
    "the pickle compressed": (lying("data.pkl", entry={"method": 8}), "'x/data.pkl': it is compressed"),
    "encrypted": (lying("data/0", entry={"flags": 1}), "'x/data/0': ZIP flags 0x0001: it is encrypted"),
    "encrypted, the header says": (lying("data/0", header={"flags": 0x801}), "the ZIP header before it is another"),
    "another disk": (lying("data/0", entry={"disk": 1}), "'x/data/0': it is in another part"),
    "a folder": (lying("data/0", entry={"attributes": 0x10}), "'x/data/0': it says that it is a folder"),
    "packed otherwise": (lying("data/0", entry={"packed": 23}), "'x/data/0': 24 bytes in 23"),
    "larger than it is": (lying("data/0", entry={"size": 25, "packed": 25}), "before it has another size"),
    "larger, in both places": (
        lying("data/0", **both(size=80, packed=80)),
        "'x/data/0': it overlaps what follows it",
    ),
    "larger than the file": (
        lying("version", **both(size=2**31, packed=2**31)),
        "'x/version': it overlaps what follows it",
    ),
    "smaller": (
        lying("data/0", **both(size=20, packed=20)),
        "'x/data/0' has 20 bytes, which 6 of torch.FloatStorage are not",
    ),
    "64 bits that are not there": (
        lying("data/0", entry={"size": 2**32 - 1}),
        "'x/data/0': a zip64 number is not there",
    ),
    "64 bits that are cut off": (
        lying("data/0", entry={"size": 2**32 - 1}, extra=struct.pack("<2HI", 1, 4, 24)),
        "'x/data/0': a zip64 number is not there",
    ),
    "64 bits that lie": (
        lying(
            "data/0", entry={"size": 2**32 - 1, "packed": 2**32 - 1}, extra=struct.pack("<2H2Q", 1, 16, 2**63, 2**63)
        ),
        "'x/data/0': the ZIP header before it has another size",
    ),
    "64 bits of offset that lie": (
        lying("data/0", entry={"offset": 2**32 - 1}, extra=struct.pack("<2HQ", 1, 8, 2**64 - 30)),
        "'x/data/0': ZIP header: bytes 18,446,744,073,709,551,586 to",
    ),
    "elsewhere": (lying("data/0", entry={"offset": 1}), "the ZIP header before it is another"),
    "at the end": (lying("data/0", entry={"offset": SIZE - 10}), "'x/data/0': ZIP header: bytes"),
    "in another's place": (
        lying("data/0", entry={"offset": PLACES["x/version"]}),
        "the ZIP header before it is another",
    ),
    "a header inside another": (
        lying("data/0", name=b"x/data/1", entry={"offset": PLACES["x/data/0"]}),
        "'x/data/1': the ZIP header before it has another name",
    ),
    "the same place twice": (
        zipped(zip_members() | {"x/data/0*": NUMBERS}, {"x/data/0*": {"entry": {"offset": PLACES["x/data/0"]}}}),
        "ZIP directory: 'x/data/0' is there twice",
    ),
    "a name twice": (with_members(**{"data/0*": NUMBERS}), "ZIP directory: 'x/data/0' is there twice"),
    "a name twice, in capitals": (with_members(**{"DATA/0": NUMBERS}), "ZIP directory: 'x/DATA/0' is there twice"),
    "two pickles": (with_members(**{"data.pkl*": pickled(GOOD)}), "ZIP directory: 'x/data.pkl' is there twice"),
    "another name in the header": (
        lying("data/0", name=b"x/data/9"),
        "'x/data/9': the ZIP header before it has another name",
    ),
    "a name not UTF-8": (lying("data/0", name=b"x/data/\xff"), "ZIP directory: a name in no known code"),
    "a name of 300 bytes": (with_members(**{"a" * 300: b""}), "ZIP directory: a name of 302 bytes"),
    "an extra field of 60,000": (
        lying("data/0", extra=bytes(60_000)),
        "ZIP directory: a name of 8 bytes, 60,008 in all",
    ),
    "a damaged pickle": (lying("data.pkl", **both(crc=1)), "'x/data.pkl': damaged"),
    "damaged numbers": (lying("data/0", **both(crc=1)), "'x/data/0': damaged"),
    "checksums that differ": (lying("data/0", header={"crc": 1}), "before it has another size or CRC-32"),
    "no pickle": (without("data.pkl"), r"a ZIP archive that is not torch.save's: it has no \*/data.pkl"),
    "no storage": (without("data/0"), "the storage 'x/data/0' is not in the file"),
    "no version": (without("version"), "'x/version' is b'', and torch.save writes 3"),
    "another version": (with_members(version=b"11"), "'x/version' is b'11'"),
    "another version beside it": (with_members(**{".data/version": b"0"}), "'x/version' is b'0'"),
    "a version of text": (with_members(version=b"three"), "'x/version' is b'three'"),
    "a version of 100 bytes": (with_members(version=b"3" * 100), "'x/version': a word was expected, not 100 bytes"),
    "big-endian": (with_members(byteorder=b"big"), "'x/byteorder' is b'big'; only little is read"),
    "no endian": (with_members(byteorder=b"middle"), "'x/byteorder' is b'middle'"),
    "alignment of text": (with_members(**{".storage_alignment": b"x"}), "'x/.storage_alignment' is b'x', not a number"),
    "TorchScript": (with_members(**{"constants.pkl": b""}), "TorchScript, a program"),
    "the pickle in another folder": (zipped({"y/a": b"", **zip_members()}), r"it has no \*/data.pkl"),
    "a pickle of nothing": (zipped(zip_members() | {"x/data.pkl": b""}), "'x/data.pkl': byte 0: it is cut off"),
    "a pickle that is cut off": (zipped(zip_members() | {"x/data.pkl": pickled(GOOD)[:-1]}), "it is cut off"),
    "something after the pickle": (
        zipped(zip_members() | {"x/data.pkl": pickled(GOOD) + NONE}),
        "'x/data.pkl': 1 bytes after the pickle",
    ),
    "a pickle too long": (
        zipped(zip_members() | {"x/data.pkl": pickled(b"]" * 2**20)}),
        r"'x/data.pkl': 1,048,579 bytes are too many for a file of 1,049,\d+",
    ),
    "a storage key that goes up": (zip_file(of(storage("../data.pkl"))), r"the storage 'x/data/../data.pkl' is not in"),
    "a storage key of 100,000": (zip_file(of(storage("k" * 10**5))), "the storage 'x/data/kkkkkk"),
    "a storage with a view": (zip_file(of(storage(view=NONE))), "a storage must be named by a tuple of its"),
    "doubles that are floats": (
        zip_file(of(storage(kind="torch.DoubleStorage"))),
        "'x/data/0' has 24 bytes, which 6 of torch.DoubleStorage are not",
    ),
}


@pytest.mark.parametrize("case", BAD_ZIPS)
def test_bad_zips(tmp_path, case):
    data, place = BAD_ZIPS[case]
    (tmp_path / "a.pt").write_bytes(data)
    check_refused(tmp_path / "a.pt", place)


# What is wrong with a file of the form before


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
    "a pickle of another protocol": (b"\x80\x05" + legacy_file()[2:], "magic number: byte 0: pickle protocol 5"),
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


# What is wrong with the object that was read


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (list_(tensor()), "x: a dict of tensors was expected, not a list"),
        (tensor(), "x: a dict of tensors was expected, not a Stored"),
        (dict_({"state_dict": GOOD}), "x: 'state_dict': a tensor was expected, not a dict"),
        (dict_({"a": storage()}), "x: 'a': a tensor was expected, not a "),
        (b"}" + int_(0) + tensor() + b"s", "x: the name of a tensor was expected, not '0'"),
        (dict_({"n" * 2000: tensor()}), "x: the name of a tensor was expected, not 'nnnnn"),
        (dict_({"n" * 500: NONE}), "x: 'n{100}': a tensor was expected, not a NoneType"),
    ],
)
def test_what_is_not_a_state_dict(tmp_path, value, place):
    (tmp_path / "a").write_bytes(zip_file(value))
    with pytest.raises(CheckpointError, match=place):
        tensors_in(read_torch(tmp_path / "a")[0], "x")


def test_a_small_file_does_not_make_a_large_model(tmp_path):
    """Many tensors that are the same numbers: each fits its storage, and all together don't fit the file."""
    value = dict_({f"h.{i}": tensor(storage(count=6000), 0, (6000,), (1,)) for i in range(100)})
    (tmp_path / "a").write_bytes(zip_file(value, {"0": bytes(24_000)}))
    found, file = read_torch(tmp_path / "a")
    assert len(set(map(id, found.values()))) == 1
    with pytest.raises(CheckpointError, match="x: the tensors take 2,400,000 bytes, and there are 38,"):
        check_own_numbers(tensors_in(found, "x"), (file,), "x")
    check_own_numbers({"a": found["h.0"]}, (file,), "x")


@pytest.mark.parametrize("form", FORMS)
def test_memory_for_many_tensors(tmp_path, form):
    """For those too, 90 bytes for each byte of the pickle, as in test_pickles.py. All are different ones."""
    many = [b"h\0(h\1K" + bytes([i % 256]) + ints(i // 256) + b"h\2\x89h\3tR" for i in range(4000)]
    before = global_("torch._utils._rebuild_tensor_v2") + b"q\0" + storage(count=2**16) + b"q\1"
    value = tuple_(before, ints(1), b"q\2", HOOKS, b"q\3", *many)
    numbers = bytes(2**18)
    data = zip_file(value, {"0": numbers})
    if form == "legacy":
        data = legacy_file(as_legacy(value), data=counted(numbers, 2**16))
    (tmp_path / "a").write_bytes(data)
    with memory_at_most((90 * len(value) - (64 << 20)) / 3):
        assert len(read_torch(tmp_path / "a")[0]) == 4004


# Mutations


def zip_of(pickle: bytes) -> bytes:
    return zipped(zip_members(storages={"0": NUMBERS, "1": bytes(range(16))}) | {"x/data.pkl": pickle})


def fuzzed(legacy: bool) -> bytes:
    """Tensors of several kinds, and what is around them."""
    view = {"view": NONE} if legacy else {}
    integers = tensor(storage("1", 2, "torch.LongStorage", "cuda:0", **view), 1, (), ())
    turned = tensor(storage(**view), 0, (3, 2), (1, 3), requires_grad=TRUE)
    parameter_ = call("torch._utils._rebuild_parameter", turned, TRUE, HOOKS)
    part = tensor(storage(view=tuple_(text("v"), int_(2), int_(4))) if legacy else storage(), 1, (3,), (1,))
    other = dict_({"n": list_(int_(70_000), int_(-3)), "x": b"G" + struct.pack(">d", 0.5)})
    value = (
        HOOKS
        + b"("
        + b"".join(text(name) + item for name, item in {"a": integers, "b": parameter_, "c": part, "d": other}.items())
    )
    value += b"u" + dict_({"_metadata": HOOKS}) + b"b"
    return value


def check_accepted(torch, path, data) -> bool:
    """Whether our reader takes the file; then torch must take it too, and find the same."""
    path.write_bytes(data)
    try:
        with memory_at_most(len(data)):
            found = arrays(read_torch(path)[0])
    except CheckpointError as error:
        message = str(error)
    else:
        message = None
    if message is not None:
        assert message.startswith(f"{path}: ")
        assert len(message) < 500 + len(str(path))
        return False
    if torch is not None:
        assert_same(found, torch.load(path, weights_only=True, map_location="cpu"))
    return True


@pytest.fixture(scope="module")
def maybe_torch():
    """torch; without it, only that a mutation is read or refused is tested."""
    try:
        import torch
    except ImportError:
        return None
    return torch


def test_mutated_zips(tmp_path, maybe_torch):
    good = zip_of(pickled(fuzzed(legacy=False)))
    assert check_accepted(maybe_torch, tmp_path / "a", good)
    directory = range(good.index(b"PK\1\2"), len(good))
    accepted = sum(check_accepted(maybe_torch, tmp_path / "a", mutated(good, seed, directory)) for seed in range(COUNT))
    assert accepted < COUNT / 2


def test_mutated_pickles_in_zips(tmp_path, maybe_torch):
    good = pickled(fuzzed(legacy=False))
    accepted = 0
    for seed in range(COUNT):
        accepted += check_accepted(maybe_torch, tmp_path / "a", zip_of(mutated(good, seed)))
    assert COUNT / 200 < accepted < COUNT / 2


def test_mutated_legacy_files(tmp_path, maybe_torch):
    keys, data = list_(text("1"), text("0")), counted(bytes(range(16)), 2) + counted(NUMBERS, 6)
    good = legacy_file(fuzzed(legacy=True), keys, data)
    assert check_accepted(maybe_torch, tmp_path / "a", good)
    accepted = sum(check_accepted(maybe_torch, tmp_path / "a", mutated(good, seed)) for seed in range(COUNT))
    assert COUNT / 200 < accepted < COUNT / 2
