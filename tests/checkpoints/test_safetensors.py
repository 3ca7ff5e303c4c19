"""Our reader and writer against the format, against the safetensors package, and against damaged files."""

import json
import os
import random
import re

import numpy as np
import pytest
from helpers.mutations import COUNT

from npgpt.checkpoints import safetensors as ours
from npgpt.checkpoints.safetensors import read_safetensors, write_safetensors
from npgpt.errors import CheckpointError

DTYPES = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?")


@pytest.fixture(scope="module")
def reference():
    return pytest.importorskip("safetensors", reason="compares with the safetensors package, which is not installed")


def example() -> dict[str, np.ndarray]:
    """Arrays of every dtype and of awkward shapes, filled with random bits (NaN with payloads, -0.0, subnormals)."""
    rng = np.random.default_rng(0)
    arrays = {}
    for dtype in DTYPES:
        for shape in [(3, 5), (1,), (), (0, 4), (2, 0), (2, 1, 3)]:
            bits = rng.integers(0, 2 if dtype == "?" else 256, (*shape, np.dtype(dtype).itemsize), np.uint8)
            arrays[f'{dtype}.{len(arrays)} é"\\\n'] = bits.view(dtype).reshape(shape)
    return arrays


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]):
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name


def raw(header, data: bytes = b"", length: int | None = None) -> bytes:
    """A file of any header: an object to be written as JSON, or the bytes themselves."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


def entry(dtype="F32", shape=(1,), offsets=(0, 4)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


# Reading and writing


def test_round_trip_bit_for_bit(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, example(), {"note": 'é " \\ \n \x01'})
    arrays, metadata = read_safetensors(path)
    assert_same(arrays, example())
    assert metadata == {"format": "pt", "note": 'é " \\ \n \x01'}


def test_no_arrays(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {})
    assert read_safetensors(path) == ({}, {"format": "pt"})


def test_bytes_are_those_of_the_reference_writer(tmp_path, reference):
    from safetensors.numpy import save_file

    ours_path, theirs_path = tmp_path / "ours", tmp_path / "theirs"
    for arrays in (example(), {}, {"a": np.ones(3, np.uint8)}):
        write_safetensors(ours_path, arrays)
        save_file(arrays, theirs_path, metadata={"format": "pt"})
        assert ours_path.read_bytes() == theirs_path.read_bytes()


def test_reference_reads_ours_and_we_read_theirs(tmp_path, reference):
    from safetensors.numpy import load_file, save_file

    write_safetensors(tmp_path / "ours", example(), {"b": "2", "a": "1"})
    assert_same(load_file(tmp_path / "ours"), example())
    with reference.safe_open(tmp_path / "ours", "np") as file:
        assert file.metadata() == {"format": "pt", "a": "1", "b": "2"}
    save_file(example(), tmp_path / "theirs")
    arrays, metadata = read_safetensors(tmp_path / "theirs")
    assert_same(arrays, example())
    assert metadata == {}


def test_same_input_same_bytes_in_any_order(tmp_path):
    arrays, metadata = example(), {"a": "1", "b": "2"}
    write_safetensors(tmp_path / "1", arrays, metadata)
    write_safetensors(tmp_path / "2", dict(reversed(arrays.items())), dict(reversed(metadata.items())))
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_arrays_are_aligned(tmp_path):
    for extra in range(9):  # headers of every length modulo 8
        write_safetensors(tmp_path / "a", {**example(), "x" * extra: np.ones(1, np.uint8)})
        arrays, _ = read_safetensors(tmp_path / "a")
        assert all(array.flags.aligned for array in arrays.values())


def test_an_unaligned_file_is_read_too(tmp_path):
    header = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]} }'
    (tmp_path / "a").write_bytes(raw(header, np.float32([1, 2]).tobytes()))
    arrays, _ = read_safetensors(tmp_path / "a")
    assert not arrays["a"].flags.aligned
    assert arrays["a"].tolist() == [1, 2]


def test_arrays_are_read_only_views_of_the_file(tmp_path):
    write_safetensors(tmp_path / "a", example())
    arrays, _ = read_safetensors(tmp_path / "a")
    for array in arrays.values():
        assert not array.flags.writeable
        assert array.size == 0 or not array.flags.owndata


def test_views_keep_their_values_when_the_file_is_replaced(tmp_path):
    write_safetensors(tmp_path / "a", {"a": np.arange(1000)})
    arrays, _ = read_safetensors(tmp_path / "a")
    write_safetensors(tmp_path / "a", {"b": np.zeros(3)})
    assert (arrays["a"] == np.arange(1000)).all()
    write_safetensors(tmp_path / "a", arrays)  # onto the file that it is a view of
    assert read_safetensors(tmp_path / "a")[0]["a"][-1] == 999


def test_layouts_in_memory_do_not_matter(tmp_path):
    matrix = np.arange(24, dtype=np.float32).reshape(4, 6)
    arrays = {"T": matrix.T, "step": matrix[::2, ::3], "reversed": matrix[::-1], "big-endian": matrix.astype(">f4")}
    arrays["broadcast"] = np.broadcast_to(np.float32(1), (2, 3))
    write_safetensors(tmp_path / "a", arrays)
    found, _ = read_safetensors(tmp_path / "a")
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_bf16_is_widened_exactly(tmp_path):
    bits = np.arange(2**16, dtype=np.uint16).reshape(256, 256)  # every bfloat16 there is
    (tmp_path / "a").write_bytes(raw({"a": entry("BF16", (256, 256), (0, 2**17))}, bits.tobytes()))
    array = read_safetensors(tmp_path / "a")[0]["a"]
    assert array.dtype == np.float32
    assert not array.flags.writeable
    np.testing.assert_array_equal(array.view(np.uint32), bits.astype(np.uint32) << 16)
    assert array[0x3F, 0x80] == 1.0
    assert array[0xC0, 0x49] == -3.140625


def test_bf16_as_torch_writes_it(tmp_path, reference):
    torch = pytest.importorskip("torch", reason="compares with torch, which is not installed")
    from safetensors.torch import save_file

    tensor = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).bfloat16()
    tensors = {"a": tensor, "empty": tensor[:0].clone(), "scalar": tensor[0, 0].clone()}
    save_file(tensors, tmp_path / "a")
    arrays, _ = read_safetensors(tmp_path / "a")
    for name, expected in tensors.items():
        np.testing.assert_array_equal(arrays[name], expected.float().numpy())


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros(2, complex)}, "'a': complex128 can't be written"),
        ({"a": np.array(["x"])}, "'a': <U1 can't be written"),
        ({"__metadata__": np.zeros(1)}, "can't be named __metadata__"),
    ],
)
def test_what_can_not_be_written(tmp_path, arrays, message):
    with pytest.raises(CheckpointError, match=message):
        write_safetensors(tmp_path / "a", arrays)
    assert list(tmp_path.iterdir()) == []


def test_a_header_that_we_would_not_read_is_not_written(tmp_path):
    with pytest.raises(CheckpointError, match="header length"):
        write_safetensors(tmp_path / "a", {}, {"state": "x" * 2_000_000})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match=r"none/a: can't be written: No such file"):
        write_safetensors(tmp_path / "none" / "a", {})


# Damaged files, each with the place that its message must name

ONE = np.float32(1).tobytes()
BAD_FILES = {
    "empty": (b"", "shorter than the 8 bytes"),
    "seven bytes": (b"1234567", "shorter than the 8 bytes"),
    "no header": (raw(b""), "header: it begins with b''"),
    "text": (b"Once upon a time there was a model.", "header length: 8,030,.* not safetensors"),
    "zip": (b"PK\x03\x04" + bytes(100), "header length: 67,324,752 bytes, in .* not safetensors"),
    "header beyond the end": (raw({}, length=3), "header length: 3 bytes, in a file of 10"),
    "header beyond the limit": (raw({}, length=100_000_001), "header length: 100,000,001 bytes"),
    "header of 2**64 - 1": (raw({}, length=2**64 - 1), "header length: 18,446,744,073,709,551,615"),
    "header cut off": (raw({"a": entry()}, ONE, length=20), "header: not JSON at character"),
    "header longer than the file's data": (
        raw(b"{" + b" " * 1_100_000 + b"}"),
        "header length: 1,100,002 bytes are too many",
    ),
    "header not UTF-8": (raw(b'{"\xff":1}'), "header: not UTF-8 at byte 2"),
    "header in UTF-16": (raw('{"a": 1}'.encode("utf-16")), "header: it begins with"),
    "space before the header": (raw(b' {"a":1}'), "header: it begins with b' '"),
    "list": (raw(b"[]"), "header: it begins with b'\\['"),
    "nul after the header": (raw(b"{}\0\0\0\0\0\0"), "header: not JSON at character 2"),
    "two objects": (raw(b"{}{}"), "header: not JSON at character 2"),
    "comma": (raw(b"{,}"), "header: not JSON at character 1"),
    "nested": (raw(b'{"a":' * 100_000), "header: the JSON is nested too deeply"),
    "name twice": (raw(b'{"a":1,"a":2}'), "header: the key 'a' is there twice"),
    "field twice": (raw(b'{"a":{"dtype":"F32","dtype":"F16"}}'), "header: the key 'dtype' is there twice"),
    "NaN": (raw(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', ONE), "header: NaN"),
    "Infinity": (raw(b'{"a":{"dtype":"F32","shape":[Infinity],"data_offsets":[0,4]}}', ONE), "header: Infinity"),
    "huge number": (
        raw(b'{"a":{"dtype":"F32","shape":[1e400],"data_offsets":[0,4]}}', ONE),
        "header: the number 1e400",
    ),
    "many digits": (raw(b'{"a":' + b"9" * 5000 + b"}"), "header: a number has too many digits"),
    "minus zero": (raw(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[-0,4]}}', ONE), "header: -0"),
    "entry is a number": (raw({"a": 1}), "tensor 'a': dtype, shape and data_offsets were expected, not 1"),
    "entry is a list": (raw({"a": ["F32", [1], [0, 4]]}, ONE), "tensor 'a': dtype, shape and data_offsets"),
    "entry is null": (raw({"a": None}), "tensor 'a': dtype, shape and data_offsets"),
    "no dtype": (raw({"a": {"shape": [1], "data_offsets": [0, 4]}}, ONE), "tensor 'a': dtype, shape and data_off"),
    "no shape": (raw({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, ONE), "tensor 'a': dtype, shape and data_off"),
    "no offsets": (raw({"a": {"dtype": "F32", "shape": [1]}}, ONE), "tensor 'a': dtype, shape and data_offsets"),
    "another field": (raw({"a": {**entry(), "stride": [1]}}, ONE), "tensor 'a': dtype, shape and data_offsets"),
    "dtype unknown": (raw({"a": entry("F31")}, ONE), "tensor 'a': dtype 'F31' is not one of U64, I64"),
    "dtype in small letters": (raw({"a": entry("f32")}, ONE), "tensor 'a': dtype 'f32'"),
    "dtype a list": (raw({"a": entry(["F32"])}, ONE), "tensor 'a': dtype \\['F32'\\]"),
    "dtype null": (raw({"a": entry(None)}, ONE), "tensor 'a': dtype None"),
    "shape a number": (raw({"a": {**entry(), "shape": 1}}, ONE), "tensor 'a': shape: up to 32 whole numbers"),
    "shape of text": (raw({"a": entry(shape=["1"])}, ONE), "tensor 'a': shape: up to 32 whole numbers"),
    "shape of fractions": (raw({"a": entry(shape=[1.0])}, ONE), "tensor 'a': shape: up to 32 whole numbers"),
    "shape of booleans": (raw({"a": entry(shape=[True])}, ONE), "tensor 'a': shape: up to 32 whole numbers"),
    "shape negative": (raw({"a": entry(shape=[-1, -1])}, ONE), "tensor 'a': shape: up to 32 whole numbers"),
    "shape too small": (
        raw({"a": entry(shape=[2], offsets=[0, 12])}, ONE * 3),
        "'a': data_offsets: .* 12 bytes, and F32",
    ),
    "shape too large": (raw({"a": entry(shape=[2])}, ONE), "'a': data_offsets: .* 4 bytes, and F32 \\[2\\] takes 8"),
    "shape of 33 axes": (raw({"a": entry(shape=[1] * 33)}, ONE), "tensor 'a': shape: up to 32 whole numbers"),
    "shape overflows": (raw({"a": entry(shape=[2**32, 2**32], offsets=[0, 0])}), "tensor 'a': shape: .* is too large"),
    "empty shape overflows": (
        raw({"a": entry(shape=[0, 2**62], offsets=[0, 0])}),
        "tensor 'a': shape: .* is too large",
    ),
    "offsets a number": (raw({"a": {**entry(), "data_offsets": 4}}, ONE), "tensor 'a': data_offsets: \\[begin, end\\]"),
    "one offset": (raw({"a": entry(offsets=[4])}, ONE), "tensor 'a': data_offsets: \\[begin, end\\]"),
    "three offsets": (raw({"a": entry(offsets=[0, 4, 4])}, ONE), "tensor 'a': data_offsets: \\[begin, end\\]"),
    "offsets negative": (raw({"a": entry(offsets=[-4, 0])}, ONE), "tensor 'a': data_offsets: \\[begin, end\\]"),
    "offsets reversed": (raw({"a": entry(offsets=[4, 0])}, ONE), "tensor 'a': data_offsets: .* is -4 bytes"),
    "offsets huge": (
        raw({"a": entry(offsets=[2**64, 2**64 + 4])}, ONE),
        "tensor 'a': data_offsets: it begins at 184467",
    ),
    "hole at the start": (raw({"a": entry(offsets=[4, 8])}, ONE * 2), "tensor 'a': .* not at 0, so it leaves a hole"),
    "hole between": (raw({"a": entry(), "b": entry(offsets=[8, 12])}, ONE * 3), "tensor 'b': .* leaves a hole"),
    "hole at the end": (raw({"a": entry()}, ONE * 2), "data: 8 bytes, and the header describes 4: it is longer"),
    "overlap": (raw({"a": entry(), "b": entry("F16", [1], [2, 4])}, ONE), "tensor 'b': .* so it overlaps another"),
    "the same bytes twice": (raw({"a": entry(), "b": entry()}, ONE), "tensor 'b': .* so it overlaps another"),
    "data cut off": (raw({"a": entry()}, ONE[:3]), "data: 3 bytes, and the header describes 4: it is cut off"),
    "data without a header entry": (raw({}, ONE), "data: 4 bytes, and the header describes 0"),
    "metadata a list": (raw({"__metadata__": []}), "__metadata__: an object was expected, not \\[\\]"),
    "metadata null": (raw({"__metadata__": None}), "__metadata__: an object was expected, not None"),
    "metadata of numbers": (raw({"__metadata__": {"step": 1}}), "__metadata__ 'step': a string was expected, not 1"),
    "metadata of objects": (raw({"__metadata__": {"a": {}}}), "__metadata__ 'a': a string was expected"),
    "metadata of half characters": (raw(b'{"__metadata__":{"a":"\\ud800"}}'), "__metadata__ 'a': half of a surrogate"),
    "name of half a character": (raw(b'{"\\ud800":{}}'), "tensor '.ud800': half of a surrogate"),
    "BOOL of 2": (raw({"a": entry("BOOL", [2], [0, 2])}, b"\1\2"), "tensor 'a': a BOOL that is neither 0 nor 1"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files(tmp_path, case):
    content, place = BAD_FILES[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_safetensors(path)
    message = str(caught.value)
    assert re.search(place, message), message
    assert message.startswith(f"{path}: ")
    assert len(message) < 300 + len(str(path))
    assert "\n" not in message


def test_what_is_not_a_file(tmp_path):
    with pytest.raises(CheckpointError, match="none: can't be read: No such file"):
        read_safetensors(tmp_path / "none")
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path))):
        read_safetensors(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")  # opening it in the usual way waits for a writer
        with pytest.raises(CheckpointError, match="pipe: not a regular file"):
            read_safetensors(tmp_path / "pipe")


# Mutations

TOKENS = [b"0", b"1", b"-1", b"4", b"8", b"99999999999999999999", b"1e2", b"1.0", b"true", b"null", b"[]", b"{}", b'""']
TOKENS += [
    b'"F32"',
    b'"BF16"',
    b'"BOOL"',
    b'"U8"',
    b'"F8_E4M3"',
    b'"shape"',
    b'"dtype"',
    b'"\\ud800"',
    b"\xff",
    b",",
    b" ",
]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One or two changes, most of them in the header, where a change can do more than alter a value."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2])):
        if len(data) < 8:
            break
        end = min(len(data), 8 + int.from_bytes(data[:8], "little"))
        where = rng.randrange(end, len(data)) if rng.random() < 0.4 and end < len(data) else rng.randrange(end)
        match rng.randrange(10):
            case 0 | 1 | 2:
                data[where] ^= 1 << rng.randrange(8)
            case 3:
                data[where] = rng.randrange(256)
            case 4:
                del data[where : where + rng.choice([1, 1, 4, 40])]
            case 5:
                data[where:where] = data[where : where + rng.choice([1, 4, 40])]
            case 6:
                data = data[: rng.randrange(len(data) + 1)]
            case 7:
                length = int.from_bytes(data[:8], "little") + rng.choice([-8, -1, 1, 8, 2**40])
                data[:8] = (length % 2**64).to_bytes(8, "little")
            case _:  # one word of the header for another, with the header's length put right, so that it is read
                words = [match.span() for match in re.finditer(rb'"[^"]*"|-?\d+|[\[\]{},:]', data[8:end])]
                if words:
                    begin, stop = rng.choice(words)
                    another = data[slice(*(8 + place for place in rng.choice(words)))]
                    header = data[8 : 8 + begin] + rng.choice([*TOKENS, another]) + data[8 + stop : end]
                    data[:end] = len(header).to_bytes(8, "little") + header
    return bytes(data)


def read_or_refuse(path) -> dict[str, np.ndarray] | CheckpointError:
    try:
        return read_safetensors(path)[0]
    except CheckpointError as error:
        return error


def test_mutations_load_or_are_refused(tmp_path):
    """Damaged files: each gives a CheckpointError or arrays, which the reference reader then reads as we do."""
    try:
        from safetensors import deserialize
    except ImportError:
        deserialize = None  # then it is only checked that nothing else happens
    header = {
        "__metadata__": {"format": "pt"},
        "a": entry("F32", [2, 3], [0, 24]),
        "b": entry("BF16", [4], [24, 32]),
        "c": entry("BOOL", [2, 1], [32, 34]),
        "d": entry("I16", [], [34, 36]),
        "e": entry("U8", [0, 7], [36, 36]),
    }
    good = raw(header, bytes(range(32)) + b"\0\1" + bytes(2))
    path = tmp_path / "a.safetensors"
    path.write_bytes(good)
    assert len(read_or_refuse(path)) == 5
    rng = random.Random(0)
    refused = 0
    for number in range(COUNT):
        data = mutate(good, rng)
        path.write_bytes(data)
        arrays = read_or_refuse(path)
        if isinstance(arrays, CheckpointError):
            refused += 1
            assert str(arrays).startswith(f"{path}: "), number
        elif deserialize is not None:
            theirs = dict(deserialize(data))
            assert sorted(theirs) == sorted(arrays), number
            for name, array in arrays.items():
                shape, dtype = theirs[name]["shape"], theirs[name]["dtype"]
                values = np.frombuffer(bytes(theirs[name]["data"]), ours._DTYPES[dtype]).reshape(shape)
                if dtype == "BF16":
                    values = (values.astype(np.uint32) << 16).view(np.float32)
                assert (array.shape, array.dtype, array.tobytes()) == (tuple(shape), values.dtype, values.tobytes())
    assert 0.2 * COUNT < refused < 0.9 * COUNT  # else the mutations are too gentle, or too crude
