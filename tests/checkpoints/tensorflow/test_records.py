"""TensorFlow's indexes whose records are wrong, and damaged copies of all that is in OpenAI's folder."""

import re

import pytest
from helpers import mutations
from helpers.openai_folder import DATA, GOOD_DATA, GOOD_INDEX, INDEX, assert_loads, copied, expected
from helpers.tables import block, field, header, record, shape, table, varint

from checkpoints.tensorflow.make_tensorflow_fixture import FOLDER, HPARAMS
from npgpt.checkpoints import load, open_checkpoint
from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.checkpoints.tensorflow import model as tensorflow
from npgpt.checkpoints.tensorflow.crc32c import crc32c, masked
from npgpt.checkpoints.tensorflow.leveldb import read_table
from npgpt.errors import CheckpointError

GOOD_BLOCK_BYTES = 833  # of its only data block
RECORDS = dict(read_table(MappedFile(FOLDER / INDEX)))


@pytest.fixture
def folder(tmp_path):
    return copied(tmp_path)


def index(change=None, *, replaced: bytes | None = None, more=(), top: bytes | None = None) -> bytes:
    """An index like the good one: one record changed, or replaced (model/wte's), or some more, or another header."""
    records = dict(RECORDS)
    if change or replaced is not None:
        records[b"model/wte"] = change(records[b"model/wte"]) if change else replaced
    if top is not None:
        records[b""] = top
    records |= dict(more)
    return table((b"z", block(*sorted(records.items()))))


def wte(**changes) -> bytes:
    """model/wte's record, in part another one."""
    good = {"sizes": (17, 8), "offset": len(GOOD_DATA) - 544, "size": 544}
    return index(replaced=record(**{**good, "crc": masked(crc32c(GOOD_DATA[-544:])), **changes}))


WTE = "tensor b'model/wte': "
MANY = [(b"x%05d" % i, b"") for i in range(20_000)]
BAD_INDEXES = {
    "no records": (table((b"z", block())), "its first key is not the header's"),
    "no header": (table((b"z", block(*sorted(RECORDS.items())[1:]))), "its first key is not the header's"),
    "the header alone": (table((b"z", block((b"", header())))), "0 layers in the file, 2 in its configuration"),
    "an empty header": (index(top=b""), "header: 0 shards; 1 to 1000"),
    "no shards": (index(top=header(shards=None)), "header: 0 shards"),
    "0 shards": (index(top=header(0)), "header: 0 shards"),
    "1001 shards": (index(top=header(1001)), "header: 1,001 shards"),
    "-1 shards": (index(top=header(-1)), "header: 18,446,744,073,709,551,615 shards"),
    "2 shards, and one there": (index(top=header(2)), "data-00000-of-00002: can't be read: No such file"),
    "shards twice": (index(top=header() + header()), "header: num_shards is there twice"),
    "big-endian": (index(top=header(endianness=1)), "header: endianness 1: only little-endian"),
    "endianness 7": (index(top=header(endianness=7)), "header: endianness 7"),
    "for later readers": (index(top=header(version=b"\x08\x02\x10\x02")), "header: it is for readers of version 2"),
    "bad readers": (index(top=header(version=b"\x08\x01\x1a\x01\x01")), "header: version: unknown field 3 of type 2"),
    "a version that is a number": (index(top=b"\x08\x01\x18\x01"), "header: unknown field 3 of type 0"),
    "another field in the header": (index(top=header(more=b"\x20\x01")), "header: unknown field 4"),
    "header cut off": (index(top=header()[:-1]), "header: version takes 2 bytes, and 1 are left"),
    "header of text": (index(top=b"num_shards: 1"), "header: unknown field 13 of type 6"),
    # Names
    "a name of bytes": (index(more=[(b"model/\xff", record())]), r"tensor b'model/\\xff': a name was expected"),
    "a name with a space": (index(more=[(b"model/a b", record())]), "tensor b'model/a b': a name was expected"),
    "a name with a bell": (index(more=[(b"global\x07", b"")]), r"tensor b'global\\x07': a name was expected"),
    "a name with NUL": (index(more=[(b"model/wte\0", record())]), r"tensor b'model/wte\\x00': a name was expected"),
    "a name of two lines": (index(more=[(b"model/wte\n", record())]), r"tensor b'model/wte\\n': a name was expected"),
    "an unknown name": (index(more=[(b"model/wtx", record(size=0, sizes=(0,)))]), "has no place for,.*'model/wtx'"),
    "our own name": (
        index(more=[(b"model/wte.weight", record(size=0, sizes=(0,)))]),
        "has no place for,.*'model/wte.weight'",
    ),
    "layer 02": (
        index(more=[(b"model/h02/ln_1/g", record(size=0, sizes=(0,)))]),
        "has no place for,.*'model/h02/ln_1/g'",
    ),
    "layer 2": (index(more=[(b"model/h2/ln_1/g", record(size=0, sizes=(0,)))]), "3 layers in the file, 2 in its"),
    "layer 10**9": (index(more=[(b"model/h1000000000/ln_1/g", record(size=0, sizes=(0,)))]), "has no place for"),
    "path-like name": (
        index(more=[(b"model/../../x", record(size=0, sizes=(0,)))]),
        r"has no place for,.*'model/\.\./",
    ),
    "a tensor is missing": (
        table((b"z", block(*[r for r in sorted(RECORDS.items()) if r[0] != b"model/wte"]))),
        r"lacks the tensors 'wte\.weight'",
    ),
    "too many tensors": (index(more=MANY), "more than 20,000 tensors"),
    # Data types
    "no data type": (wte(dtype=None), WTE + r"data type 0 is not one of 1 \(F32\), 2 \(F64\), 14"),
    "data type 0": (wte(dtype=0), WTE + "data type 0"),
    "int32": (wte(dtype=3), WTE + "data type 3"),
    "text": (wte(dtype=7), WTE + "data type 7"),
    "a reference to float32": (wte(dtype=101), WTE + "data type 101"),
    "data type -1": (wte(dtype=-1), WTE + "data type 18446744073709551615"),
    "half of the bytes are float16": (wte(dtype=19), WTE + r"544 bytes, and F16 \(17, 8\) takes 272"),
    "float64 of too few bytes": (wte(dtype=2), WTE + r"544 bytes, and F64 \(17, 8\) takes 1,088"),
    "bfloat16 of too many bytes": (wte(dtype=14), WTE + r"544 bytes, and BF16 \(17, 8\) takes 272"),
    # Shapes
    "no shape": (wte(sizes=()), WTE + r"544 bytes, and F32 \(\) takes 4"),
    "transposed": (wte(sizes=(8, 17)), r"tensor wte\.weight must have shape \(17, 8\), and has \(8, 17\): it looks"),
    "flat": (wte(sizes=(136,)), r"tensor wte\.weight must have shape \(17, 8\), and has \(136,\)"),
    "wte as a convolution": (wte(sizes=(1, 17, 8)), r"wte\.weight must have shape \(17, 8\), and has \(1, 17, 8\)"),
    "a row more": (wte(sizes=(18, 8)), WTE + r"544 bytes, and F32 \(18, 8\) takes 576"),
    "a row less": (wte(sizes=(16, 8)), WTE + r"544 bytes, and F32 \(16, 8\) takes 512"),
    "a row less, and its bytes": (wte(sizes=(16, 8), size=512), "a vocabulary of 16 in the file, of 17 in its conf"),
    "no rows": (wte(sizes=(0, 8), size=0), r"wte\.weight must have shape \(17, 8\), and has \(0, 8\)"),
    "-1 rows": (wte(sizes=(-1, 8)), WTE + "the shape .18446744073709551615, 8. can't be"),
    "-17 rows, -8 columns": (wte(sizes=(-17, -8)), WTE + "the shape .* can't be"),
    "2**62 rows": (wte(sizes=(2**62, 8)), WTE + "the shape .* can't be"),
    "2**62 rows and none": (wte(sizes=(2**62, 0), size=0), WTE + "the shape .* can't be"),
    "sizes whose product is 2**64": (wte(sizes=(2**32, 2**32), size=0), WTE + "the shape .* can't be"),
    "sizes whose product is 136 in 64 bits": (wte(sizes=(17 * 2**61 + 17, 8)), WTE + "the shape .* can't be"),
    "33 axes": (wte(sizes=(17, 8) + (1,) * 31), WTE + "the shape .* can't be"),
    "10,000 axes": (wte(sizes=(1,) * 10_000), WTE + "the shape .* can't be"),
    "a shape of numbers": (wte(sizes=b"\x10\x11\x10\x08"), WTE + "shape: unknown field 2 of type 0"),
    "a size of two numbers": (wte(sizes=field(2, b"\x08\x11\x08\x08")), WTE + "shape: size is there twice"),
    "an axis with a name": (wte(sizes=field(2, b"\x08\x11\x12\x01a")), WTE + "shape: unknown field 2 of type 2"),
    "of unknown shape": (wte(sizes=shape(17, 8) + b"\x18\x01"), WTE + "shape: unknown field 3 of type 0"),
    "a shape cut off": (wte(sizes=shape(17, 8)[:-1]), WTE + "shape: dim takes 2 bytes, and 1 are left"),
    "a size cut off": (wte(sizes=field(2, b"\x08\x80")), WTE + "shape: a number is cut off"),
    "in slices": (wte(more=field(7, b"")), WTE + "it is stored in slices"),
    "in two slices": (wte(more=field(7, b"\x0a\x00") + field(7, b"\x0a\x00")), WTE + "it is stored in slices"),
    # Where the numbers are
    "no size": (wte(size=None), WTE + r"0 bytes, and F32 \(17, 8\) takes 544"),
    "size 543": (wte(size=543), WTE + "543 bytes, and F32"),
    "size -544": (wte(size=-544), WTE + "18,446,744,073,709,551,072 bytes, and F32"),
    "size 2**40": (wte(size=2**40), WTE + "1,099,511,627,776 bytes, and F32"),
    "no offset": (wte(offset=None), "tensor 'model/h0/attn/c_attn/b': it begins at 0, within another|within another"),
    "offset later": (wte(offset=len(GOOD_DATA) - 543), "tensor 'model/wte': bytes 7,233 to 7,777 of a file of 7,776"),
    "offset earlier": (wte(offset=len(GOOD_DATA) - 545), "tensor 'model/wte': it begins at 7,231, within another"),
    "offset at the end": (wte(offset=len(GOOD_DATA)), "tensor 'model/wte': bytes 7,776 to 8,320 of a file of"),
    "offset -544": (wte(offset=-544), "tensor 'model/wte': bytes 18,446,744,073,709,551,072 to"),
    "offset 2**63 - 1": (wte(offset=2**63 - 1), "tensor 'model/wte': bytes 9,223,372,036,854,775,807 to"),
    "shard 1": (wte(shard=1), WTE + "in shard 1, and there are 1, from 0 on"),
    "shard -1": (wte(shard=-1), WTE + "in shard 18,446,744,073,709,551,615, and there are 1"),
    "two tensors in one place": (
        index(more=[(b"model/wpe", RECORDS[b"model/wpe"]), (b"model/ln_f/g", RECORDS[b"model/ln_f/b"])]),
        "tensor 'model/ln_f/g': it begins at .* within another",
    ),
    "one's bytes within another's": (wte(sizes=(3, 8), size=96, offset=7000), "within another"),
    "checksum of others": (wte(crc=12345), "data-00000-of-00001: tensor 'model/wte': its checksum is not the index's"),
    "no checksum": (wte(crc=None), "data-00000-of-00001: tensor 'model/wte': its checksum is not the index's"),
    "checksum not masked": (wte(crc=crc32c(GOOD_DATA[-544:])), "tensor 'model/wte': its checksum is not"),
    "two tensors exchanged": (
        index(more=[(b"model/ln_f/g", RECORDS[b"model/ln_f/b"]), (b"model/ln_f/b", RECORDS[b"model/ln_f/g"])]),
        None,  # nothing in the files says which is which
    ),
    # The record as a message
    "an empty record": (index(replaced=b""), WTE + "data type 0"),
    "a record of zeros": (index(replaced=bytes(9)), WTE + "unknown field 0"),
    "a record of 255": (index(replaced=b"\xff" * 9), WTE + "unknown field 31"),
    "cut off": (index(lambda r: r[:-1]), WTE + "crc32c takes 4 bytes, and 3 are left"),
    "cut off in the shape": (index(lambda r: r[:6]), WTE + "shape takes .* bytes, and 2 are left"),
    "a byte more": (index(lambda r: r + b"\0"), WTE + "unknown field 0 of type 0"),
    "twice": (index(lambda r: r + r), WTE + "dtype is there twice"),
    "a size twice": (wte(more=field(5, 544)), WTE + "size is there twice"),
    "an unknown field": (wte(more=b"\x40\x01"), WTE + "unknown field 8 of type 0"),
    "a field of another type": (wte(more=b"\x1d\1\2\3\4"), WTE + "unknown field 3 of type 5"),
    "a group": (wte(more=b"\x43\x44"), WTE + "unknown field 8 of type 3"),
    "a number of 11 bytes": (wte(more=b"\x18" + b"\x80" * 10 + b"\0"), WTE + "a number .* too large"),
    "a number without end": (wte(more=b"\x18" + b"\xff" * 30), WTE + "a number .* too large"),
    "a length beyond the end": (wte(more=b"\x3a" + varint(2**31 - 1)), WTE + "slices takes 2,147,483,647 bytes"),
}


@pytest.mark.parametrize("case", BAD_INDEXES)
def test_bad_indexes(folder, case):
    content, place = BAD_INDEXES[case]
    (folder / INDEX).write_bytes(content)
    with mutations.memory_at_most(len(content) + len(GOOD_DATA)):
        if place is None:
            assert open_checkpoint(folder)
            return
        with pytest.raises(CheckpointError) as caught:
            load(folder)
    message = str(caught.value)
    assert re.search(place, message), message
    assert message.startswith(str(folder))
    assert len(message) < 400 + len(str(folder))


def test_there_are_enough_bad_indexes():
    assert len(BAD_INDEXES) >= 60


@pytest.mark.parametrize("content", [index(), wte(), index(more=[(b"model/wte/Adam", b"\xff"), (b"note", b"")])])
def test_what_the_bad_ones_are_made_from_is_good(folder, content):
    (folder / INDEX).write_bytes(content)
    assert_loads(folder)


# Mutations


BLOCK = block(*sorted(RECORDS.items()))  # as the fixture's, but that its keys share nothing


def changed_files(where: str, seed: int) -> tuple[bytes, bytes]:
    """The index and the data, one of them changed; "records": with a checksum that is right for what is there."""
    if where == "index":
        return mutations.mutated(GOOD_INDEX, seed), GOOD_DATA
    if where == "records":
        return table((b"z", mutations.mutated(GOOD_INDEX[:GOOD_BLOCK_BYTES] if seed % 2 else BLOCK, seed))), GOOD_DATA
    return GOOD_INDEX, mutations.mutated(GOOD_DATA, seed)


@pytest.mark.parametrize("where", ["index", "records", "data"])
def test_mutations_load_or_are_refused(folder, where):
    """What loads are the fixture's numbers; TensorFlow, when it is installed, reads the same ones."""
    try:
        import tensorflow as reference
    except ImportError:
        reference = None
    right = {array.tobytes() for array in expected().values()}
    loaded = 0
    for seed in range(mutations.COUNT):
        index_bytes, data = changed_files(where, seed)
        (folder / INDEX).write_bytes(index_bytes)
        (folder / DATA).write_bytes(data)
        try:
            found = open_checkpoint(folder)
            arrays = {name: tensor.numpy() for name, tensor in found.tensors.items()}
        except CheckpointError as error:
            message = str(error)
            assert message.startswith(f"{folder}/"), seed
            assert len(message) < 800 + len(str(folder)), seed
            continue
        loaded += 1
        assert where == "records" or (index_bytes == GOOD_INDEX and data.startswith(GOOD_DATA)), seed
        assert arrays.keys() == expected().keys()
        assert {array.tobytes() for array in arrays.values()} <= right, seed
        if reference is not None:
            theirs = reference.train.load_checkpoint(str(folder / "model.ckpt"))
            for pattern, name in tensorflow.NAMES:
                for layer in range(HPARAMS["n_layer"]):
                    array = theirs.get_tensor(pattern.format(layer))
                    assert array.tobytes() == arrays[name.format(layer)].tobytes(), (seed, name)
    assert loaded < mutations.COUNT * 0.3
    assert loaded or where != "records"
