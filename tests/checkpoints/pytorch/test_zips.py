"""ZIP archives that torch.save doesn't write: compressed, overlapping, lying."""

import struct
import zlib

import pytest
from helpers.torch_bytes import GOOD, NONE, NUMBERS, of, pickled, storage, zip_file, zip_members, zipped

from checkpoints.pytorch.test_file import check_refused


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
    "a version of 100 bytes": (with_members(version=b"3" * 200), "'x/version': a word was expected, not 200 bytes"),
    "big-endian": (with_members(byteorder=b"big"), "'x/byteorder' is b'big'; only little is read"),
    "no endian": (with_members(byteorder=b"middle"), "'x/byteorder' is b'middle'"),
    "alignment of text": (with_members(**{".storage_alignment": b"x"}), "'x/.storage_alignment' is b'x', not a number"),
    "an id of text": (
        with_members(**{".data/serialization_id": b"\xff"}),
        r"'x/.data/serialization_id' is b'\\xff', not a number",
    ),
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
