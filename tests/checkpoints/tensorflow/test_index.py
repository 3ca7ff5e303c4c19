"""TensorFlow's index, a table of records: what is in one, one bad file for each kind of refusal, and damaged copies."""

import re

import pytest
from helpers import mutations
from helpers.openai_folder import DATA, GOOD_DATA, GOOD_INDEX, INDEX, assert_loads, copied, expected
from helpers.tables import block, field, handle, header, record, table, varint

from checkpoints.tensorflow.make_tensorflow_fixture import FOLDER, HPARAMS
from npgpt.checkpoints import open_checkpoint
from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.checkpoints.tensorflow import model as tensorflow
from npgpt.checkpoints.tensorflow.crc32c import crc32c, masked
from npgpt.checkpoints.tensorflow.leveldb import MAX_FILE_BYTES, read_table

A = [(b"", b"header"), (b"apple", b"1"), (b"apricot", b"")]
B = [(b"banana", b"2"), (b"cherry", b"3" * 200)]
GOOD = table((b"az", block(*A)), (b"cherry", block(*B)))
RECORDS = dict(read_table(MappedFile(FOLDER / INDEX)))


@pytest.fixture
def folder(tmp_path):
    return copied(tmp_path)


def test_blocks_and_shared_bytes(tmp_path):
    shared = block((0, b"", b"header"), (0, b"apple", b"1"), (2, b"ricot", b""))
    for first in (block(*A), shared):
        (tmp_path / "a").write_bytes(table((b"az", first), (b"cherry", block(*B)), (b"d", block())))
        assert list(read_table(MappedFile(tmp_path / "a"))) == A + B


def test_as_tensorflow_writes_it():
    """More than sixteen keys, after which the first restart comes."""
    found = [key for key, _ in read_table(MappedFile(FOLDER / "tuned-7.index"))]
    assert found == sorted(set(found))
    assert (found[0], len(found)) == (b"", 34)


def one(*entries, **lies) -> bytes:
    return table((b"z", block(*entries)), **lies)


BAD_TABLES = {
    "empty": (b"", "does not end with the magic number"),
    "cut by a byte": (GOOD[:-1], "does not end with the magic number"),
    "too large": (bytes(MAX_FILE_BYTES) + GOOD, "larger than 1,000,000 bytes"),
    "footer of large numbers": (one(*A, footer=b"\xff" * 40), "footer: a number .* too large"),
    "begins a byte late": (b"\0" + GOOD, "index block: its checksum is not that of its bytes"),
    "a block changed": (b"\1" + GOOD[1:], "block 0: its checksum is not that of its bytes"),
    "compressed": (one(*A, compression=1), "block 0: compressed"),
    "a block beyond the end": (one(*A, index=block((b"z", handle(0, 2**50)))), "block 0: bytes 0 to 1,125"),
    "a block twice": (
        one(*A, index=block(*[(key, handle(0, len(block(*A)))) for key in (b"y", b"z")])),
        "block 1: it begins at byte 0, and the one before ends at 41",
    ),
    "a block without entries twice": (
        table((b"a", block()), index=block(*[(key, handle(0, len(block()))) for key in (b"y", b"z")])),
        "block 1: it begins at byte 0, and the one before ends at",
    ),
    "a key before the last block's": (
        table((b"a", block(*A)), (b"b", block(*A))),
        "block 1: key b'' is not after b'apricot'",
    ),
    "a first key that shares": (one((3, b"a", b"")), "block 0: damaged before byte 3: a key or a value"),
    "keys that grow long": (
        one((b"k" * 200, b""), (200, b"k" * 57, b"")),
        "block 0: damaged before byte 208: a key or a value",
    ),
    "a value beyond the end": (
        table((b"z", b"\0\1\x20abc" + block())),
        "block 0: damaged before byte 3: a key or a value",
    ),
    "a key twice": (one(A[0], A[1], A[1]), "key b'apple' is not after b'apple'"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_tables(tmp_path, case):
    content, place = BAD_TABLES[case]
    (tmp_path / INDEX).write_bytes(content)
    message = mutations.refusal(lambda: list(read_table(MappedFile(tmp_path / INDEX))), tmp_path / INDEX)
    assert re.search(place, message or "was read"), message


# Records


def index(changes: dict) -> bytes:
    """An index like the good one, with some records changed, added, or left out if they are None."""
    records = {**RECORDS, **changes}.items()
    return table((b"z", block(*sorted(record for record in records if record[1] is not None))))


def wte(**changes) -> bytes:
    """model/wte's record, in part another one."""
    good = {"sizes": (17, 8), "offset": len(GOOD_DATA) - 544, "size": 544}
    return index({b"model/wte": record(**{**good, "crc": masked(crc32c(GOOD_DATA[-544:])), **changes})})


def more(name: bytes) -> bytes:
    return index({name: record(size=0, sizes=(0,))})


WTE = "tensor b'model/wte': "
BAD_INDEXES = {
    "no header": (index({b"": None}), "its first key is not the header's"),
    "2 shards, and one there": (index({b"": header(2)}), "data-00000-of-00002: can't be read: No such file"),
    "shards twice": (index({b"": header() * 2}), "header: num_shards is there twice"),
    "big-endian": (index({b"": header(more=field(2, 1))}), "header: big-endian, and only little-endian"),
    "another field": (index({b"": header(more=b"\x20\x01")}), "header: unknown field 4 of type 0"),
    "our own name": (more(b"model/wte.weight"), "has unexpected tensors:.*'model/wte.weight'"),
    "a tensor is missing": (index({b"model/wte": None}), r"lacks the tensors 'wte\.weight'"),
    "no shards": (index({b"": header(0)}), "in shard 0, and there are 0"),
    "int32": (wte(dtype=3), WTE + r"data type 3 is not one of {1: \('F32'"),
    "transposed": (wte(sizes=(8, 17)), r"tensor wte\.weight must have shape \(17, 8\), and has \(8, 17\): it looks"),
    "a row more": (wte(sizes=(18, 8)), WTE + r"544 bytes, and F32 \(18, 8\) takes 576"),
    "-1 rows": (wte(sizes=(-1, 8)), WTE + "the shape .18446744073709551615, 8. can't be"),
    "33 axes": (wte(sizes=(17, 8) + (1,) * 31), WTE + "the shape .* can't be"),
    "in slices": (wte(more=field(7, b"")), WTE + "it is stored in slices"),
    "a number of 70 bits": (wte(more=b"\x18" + b"\xff" * 9 + b"\x7f"), WTE + "a number .* too large"),
    "a length beyond the end": (wte(more=b"\x3a" + varint(2**31)), WTE + "slices takes 2,147,483,648 bytes"),
    "an offset too large": (wte(offset=2**63), "tensor 'model/wte': bytes 9,223,372,036,854,775,808 to"),
    "the same bytes twice": (
        index({f"model/{i}".encode(): RECORDS[b"model/wte"] for i in range(9)}),
        "the tensors take .* several share elements",
    ),
    "another shard": (wte(shard=1), WTE + "in shard 1, and there are 1, from 0 on"),
    "checksum of others": (wte(crc=12345), "00001: tensor 'model/wte': its checksum is not the index's"),
}


@pytest.mark.parametrize("case", BAD_INDEXES)
def test_bad_indexes(folder, case):
    content, place = BAD_INDEXES[case]
    (folder / INDEX).write_bytes(content)
    message = mutations.refusal(lambda: [t.numpy() for t in open_checkpoint(folder).tensors.values()], folder)
    assert re.search(place, message or "was read"), message


@pytest.mark.parametrize("content", [index({}), wte(), index({b"model/wte/Adam": b"\xff", b"note": b""})])
def test_what_the_bad_ones_are_made_from_is_good(folder, content):
    (folder / INDEX).write_bytes(content)
    assert_loads(folder)


# Mutations

BLOCK = GOOD_INDEX[:833]  # the contents of its only data block
DAMAGED = {
    "index": lambda seed: (mutations.mutated(GOOD_INDEX, seed), GOOD_DATA),
    "records": lambda seed: (table((b"z", mutations.mutated(BLOCK, seed))), GOOD_DATA),  # with a right checksum
    "data": lambda seed: (GOOD_INDEX, mutations.mutated(GOOD_DATA, seed)),
}


@pytest.mark.parametrize("where", DAMAGED)
def test_mutations_load_or_are_refused(folder, where):
    """What loads are the fixture's elements; TensorFlow, when it is installed, reads the same ones."""
    try:
        import tensorflow as reference
    except ImportError:
        reference = None
    right, read = {array.tobytes() for array in expected().values()}, {}
    loaded = 0
    for seed in range(-1, mutations.COUNT):  # the good files first
        index_bytes, data = DAMAGED[where](seed) if seed >= 0 else (GOOD_INDEX, GOOD_DATA)
        (folder / INDEX).write_bytes(index_bytes)
        (folder / DATA).write_bytes(data)

        def opened():
            read.update({name: tensor.numpy() for name, tensor in open_checkpoint(folder).tensors.items()})

        if mutations.refusal(opened, folder):
            continue
        loaded += 1
        assert read.keys() == expected().keys()
        assert {array.tobytes() for array in read.values()} <= right, seed
        if reference is not None:
            theirs = reference.train.load_checkpoint(str(folder / "model.ckpt"))
            for pattern, name in tensorflow.NAMES:
                for layer in range(HPARAMS["n_layer"]):
                    array = theirs.get_tensor(pattern.format(layer))
                    assert array.tobytes() == read[name.format(layer)].tobytes(), (seed, name)
    assert 1 <= loaded < mutations.COUNT * 0.3
