"""Files that are not quite what torch.save writes: one for each kind of refusal. Damaged ones: test_mutations.py."""

import re

import pytest
from helpers.mutations import refusal
from helpers.torch_bytes import (
    GOOD,
    NUMBERS,
    TRUE,
    as_legacy,
    call,
    counted,
    dict_,
    int_,
    legacy_file,
    list_,
    of,
    read_torch,
    storage,
    tensor,
    text,
    tuple_,
    zip_file,
    zip_members,
    zipped,
)

from checkpoints.pytorch.test_file import FORMS, arrays
from npgpt.checkpoints.pytorch.file import tensors_in
from npgpt.checkpoints.shared.validate import check_shares_nothing
from npgpt.errors import CheckpointError


def check_refused(path, data: bytes, place: str):
    path.write_bytes(data)
    message = refusal(lambda: arrays(read_torch(path)[0]), path)
    assert re.search(place, message or "was read"), message


def shaped(size=(2, 3), stride=(3, 1), offset=0, **changes) -> bytes:
    return dict_({"a": tensor(None, offset, size, stride, **changes)})


BAD_OBJECTS = {
    "os.system": (call("os.system", text("true")), "it asks for 'os.system'"),
    "more elements than there are": (
        shaped((3, 3)),
        r"of size \(3, 3\) and stride \(3, 1\) is beyond its storage of 6",
    ),
    "out by its offset": (shaped(offset=1), "is beyond its storage of 6"),
    "out, without elements": (shaped((0,), (1,), 7), "is beyond its storage of 6"),
    "a negative stride": (shaped(stride=(-3, 1)), "a tensor's stride must be .* whole numbers, not -3, 1"),
    "sizes that overflow": (shaped((2**32, 2**32), (0, 0)), r"size \(4294967296, 4294967296\) is too large"),
    "expanded": (shaped((10**9,), (0,)), "is beyond its storage of 6"),
    "a size too many": (shaped((2, 3, 1)), "an instruction doesn't fit"),
    "33 axes": (shaped((1,) * 33, (1,) * 33), "a tensor's size must be a tuple of up to 32 whole numbers"),
    "a size of booleans": (dict_({"a": tensor(size=tuple_(TRUE, int_(3)))}), "a tensor's size must be .* not True"),
    "a storage that is a dict": (dict_({"a": tensor(b"}")}), "a tensor without a storage"),
    "metadata": (shaped(metadata=dict_({"neg": TRUE})), "a tensor with metadata"),
    "a negative storage": (of(storage(count=-6)), "a storage's length must be .* whole numbers, not -6"),
    "a storage named by text": (of(text("0") + b"Q"), "a storage must be named by a tuple"),
    "a storage of two lengths": (
        dict_({"a": tensor(), "b": tensor(storage(count=5), 0, (5,), (1,))}),
        "is 6 of torch.FloatStorage, then 5 of torch.FloatStorage",
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", BAD_OBJECTS)
def test_bad_objects(tmp_path, case, form):
    value, place = BAD_OBJECTS[case]
    check_refused(tmp_path / "a", zip_file(value) if form == "zip" else legacy_file(as_legacy(value)), place)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (list_(tensor()), "x: a dict of tensors was expected, not a list"),
        (dict_({"state_dict": GOOD}), "x: 'state_dict': a tensor and its name were expected, not a dict"),
        (b"}" + int_(0) + tensor() + b"s", "x: '0': a tensor and its name were expected"),
    ],
)
def test_what_is_not_a_state_dict(tmp_path, value, place):
    (tmp_path / "a").write_bytes(zip_file(value))
    with pytest.raises(CheckpointError, match=place):
        tensors_in(read_torch(tmp_path / "a")[0], "x")


def test_a_small_file_does_not_make_a_large_model(tmp_path):
    """Many tensors that are the same elements: each fits its storage, and all together don't fit the file."""
    value = dict_({f"h.{i}": tensor(storage(count=6000), 0, (6000,), (1,)) for i in range(100)})
    (tmp_path / "a").write_bytes(zip_file(value, {"0": bytes(24_000)}))
    found, file = read_torch(tmp_path / "a")
    with pytest.raises(CheckpointError, match="x: the tensors take 2,400,000 bytes of 3"):
        check_shares_nothing(tensors_in(found, "x"), (file,), "x")
    check_shares_nothing({"a": found["h.0"]}, (file,), "x")


# ZIP


def with_members(**members: bytes) -> bytes:
    return zipped(zip_members() | {f"x/{name}": content for name, content in members.items()})


def last_member(content: bytes = NUMBERS, **lies) -> bytes:
    """An archive whose last member is the storage, about which the archive may lie."""
    members = {name: data for name, data in zip_members().items() if name != "x/data/0"}
    return zipped({**members, "x/data/0": content}, **lies)


BAD_ZIPS = {
    "only the first bytes": (b"PK\3\4", "ZIP directory: .*it is cut off, or damaged"),
    "cut off by a byte": (zip_file()[:-1], "ZIP directory: it is cut off, or damaged"),
    "compressed": (last_member(method=8), "'x/data/0': compressed, encrypted or a folder"),
    "a folder": (last_member(attributes=0x10), "'x/data/0': compressed, encrypted or a folder"),
    "a directory that is most of it": (
        zipped({f"{i}" * 30_000: b"" for i in range(10, 60)}),
        "ZIP directory: .* bytes are too many for a file of",
    ),
    "larger than the file": (last_member(size=2**31, packed=2**31), "'x/data/0': bytes .* it is cut off, or damaged"),
    "smaller than its tensor": (last_member(NUMBERS[:20]), "'x/data/0' has 20 bytes, which 6 of torch.FloatStorage"),
    "a name twice": (with_members(**{"data/0*": NUMBERS}), "ZIP directory: 'x/data/0' is there twice"),
    "a damaged pickle": (zip_file().replace(b"cpu", b"gpu"), "'x/data.pkl': damaged"),
    "damaged elements": (zip_file().replace(NUMBERS, NUMBERS[::-1]), "'x/data/0': damaged"),
    "no pickle": (zipped({"x/version": b"3"}), r"a ZIP archive that is not torch.save's: it has no \*/data.pkl"),
    "big-endian": (with_members(byteorder=b"big"), "big-endian, and only little"),
    "TorchScript": (with_members(**{"constants.pkl": b""}), "TorchScript, a program"),
    "a pickle too long": (zip_file(b"]" * 2**20), r"'x/data.pkl': 1,048,579 bytes are too many for a file of 1,049,\d"),
}


@pytest.mark.parametrize("case", BAD_ZIPS)
def test_bad_zips(tmp_path, case):
    check_refused(tmp_path / "a.pt", *BAD_ZIPS[case])


# Before PyTorch 1.6


BAD_LEGACY = {
    "protocol 1002": (legacy_file(protocol=int_(1002)), "protocol: torch.save's is 1001"),
    "cut off by a byte": (legacy_file()[:-1], "storage '0': bytes .* it is cut off"),
    "another length": (legacy_file(data=counted(NUMBERS, 5)), "storage '0': 5 elements, and not 6"),
    "a key twice": (legacy_file(keys=list_(text("0"), text("0"))), "keys: they are not those of the object's storages"),
    "keys of two kinds": (legacy_file(keys=list_(text("0"), int_(0))), "keys: they are not those of the object's"),
    "keys of a program": (legacy_file(keys=call("os.system")), "keys: byte 2: it asks for 'os.system'"),
    "a view of a storage": (legacy_file(of(storage(view=tuple_(text("v"), int_(0), int_(5))))), "must be named by a"),
}


@pytest.mark.parametrize("case", BAD_LEGACY)
def test_bad_legacy_files(tmp_path, case):
    check_refused(tmp_path / "a.pt", *BAD_LEGACY[case])
