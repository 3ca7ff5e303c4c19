"""Our reader and writer against the format, against the safetensors package, and against damaged files."""

import json
import re

import numpy as np
import pytest
from helpers.mutations import COUNT, memory_at_most, mutated

from npgpt.checkpoints import safetensors as ours
from npgpt.checkpoints.safetensors import open_safetensors, read_safetensors, write_safetensors
from npgpt.checkpoints.shared.blocks import BLOCKS, dequantize, quantize
from npgpt.checkpoints.shared.lazy_tensor import CHUNK, LazyTensor, lazy_array
from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.errors import CheckpointError
from npgpt.kernels.bfloat16 import bf16_to_f32

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


def in_blocks(matrices, stored=None, data=bytes(68)) -> bytes:
    """A file with an U8 matrix "a" of two blocks of Q8_0, and what the metadata says of it."""
    text = matrices if isinstance(matrices, str) else json.dumps(matrices)
    stored = stored or entry("U8", [2, 34], [0, 68])
    return raw({"__metadata__": {"npgpt_blocks": text}, "a": stored}, data)


def entry(dtype="F32", shape=(1,), offsets=(0, 4)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


# Reading and writing


def test_round_trip_bit_for_bit(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, example(), {"note": 'é " \\ \n \x01'})
    arrays, metadata = read_safetensors(path)
    assert_same(arrays, example())
    assert metadata == {"format": "pt", "note": 'é " \\ \n \x01'}


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


def test_arrays_are_aligned(tmp_path):
    for extra in range(9):  # headers of every length modulo 8
        write_safetensors(tmp_path / "a", {**example(), "x" * extra: np.ones(1, np.uint8)})
        arrays, _ = read_safetensors(tmp_path / "a")
        assert all(array.flags.aligned for array in arrays.values())


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


@pytest.mark.parametrize("dtype", ours.BLOCK_TYPES)
@pytest.mark.parametrize("shape", [(5, 64), (3, 70), (2, 1)], ids=str)
def test_blocks_are_those_of_each_row_filled_up_with_zeros(tmp_path, dtype, shape):
    array = np.random.default_rng(0).standard_normal(shape, np.float32)
    rows = np.zeros((shape[0], -(-shape[1] // 32) * 32), np.float32)
    rows[:, : shape[1]] = array
    blocks = quantize(rows, dtype)
    for tensor in (lazy_array(array, dtype), lazy_array(array.T.copy(), dtype).T):
        write_safetensors(tmp_path / "a", {"w": tensor, "v": array[0]}, {"note": "b"})
        tensors, metadata = open_safetensors(MappedFile(tmp_path / "a"))
        assert metadata == {"format": "pt", "note": "b"}
        assert (tensors["w"].dtype, tensors["w"].shape, tensors["v"].dtype) == (dtype, shape, "F32")
        np.testing.assert_array_equal(tensors["w"].numpy(), dequantize(blocks, dtype)[:, : shape[1]])
        assert (tmp_path / "a").read_bytes().endswith(blocks.tobytes())


def test_others_see_bytes_where_blocks_are(tmp_path, reference):
    from safetensors.numpy import load_file, save_file

    blocks = {"w": lazy_array(np.ones((3, 40), np.float32), "Q4_0")}
    write_safetensors(tmp_path / "a", blocks | {"b": np.ones(3, np.uint8)})
    found = load_file(tmp_path / "a")
    assert (found["w"].dtype, found["w"].shape) == (np.uint8, (3, 2 * 18))
    save_file(found, tmp_path / "b", metadata={"format": "pt", "npgpt_blocks": '{"w": ["Q4_0", [3, 40]]}'})
    assert read_safetensors(tmp_path / "b")[0]["w"].shape == (3, 40)


def test_blocks_are_read_and_written_a_piece_at_a_time(tmp_path):
    shape = (8 * CHUNK // 1024, 1024)
    ones = LazyTensor(shape, "Q8_0", lambda first, last: np.ones((last - first, 1024), np.float32))
    out = np.empty(shape, np.float32)
    with memory_at_most(-12 << 20):  # 28 MB, less than the matrix; a piece is one of 4, and a few are in between
        write_safetensors(tmp_path / "a", {"w": ones})
        open_safetensors(MappedFile(tmp_path / "a"))[0]["w"].copy_to(out)
    assert (out == out[0, 0]).all()


@pytest.mark.parametrize(("number", "message"), [(np.nan, "NaN or infinity, which Q8_0"), (1e38, "a number too large")])
def test_what_has_no_place_in_blocks(tmp_path, number, message):
    with pytest.raises(CheckpointError, match=f"a: tensor w: {message}"):
        write_safetensors(tmp_path / "a", {"w": lazy_array(np.full((2, 3), number, np.float32), "Q8_0")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros(2, complex)}, "'a': COMPLEX128 can't be written"),
        ({"a": np.array(["x"])}, "'a': STR32 can't be written"),
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


# Damaged files, each with the place that its message must name

ONE = np.float32(1).tobytes()
BAD_FILES = {
    "empty": (b"", "header length: bytes 0 to 8 of a file of 0"),
    "no header": (raw(b""), "header: not JSON at character 0"),
    "text": (b"Once upon a time there was a model.", "header length: 8,030,.* not safetensors"),
    "header beyond the limit": (raw({}, length=100_000_001), "header length: 100,000,001 bytes"),
    "header longer than the file's data": (
        raw(b"{" + b" " * 1_100_000 + b"}"),
        "header length: 1,100,002 bytes are too many",
    ),
    "name twice": (raw(b'{"a":1,"a":2}'), "header: the key 'a' is there twice"),
    "entry is a list": (raw({"a": ["F32", [1], [0, 4]]}, ONE), "tensor 'a': dtype, shape and data_offsets"),
    "dtype a list": (raw({"a": entry(["F32"])}, ONE), "tensor 'a': dtype, shape and data_offsets were"),
    "shape of booleans": (raw({"a": entry(shape=[True])}, ONE), "tensor 'a': whole numbers of at least 0 were"),
    "shape too large": (raw({"a": entry(shape=[2])}, ONE), "'a': data_offsets: \\[0, 4\\], and F32 \\[2\\] takes 8"),
    "empty shape overflows": (
        raw({"a": entry(shape=[0, 2**62], offsets=[0, 0])}),
        "tensor 'a': shape: .* is too large",
    ),
    "one offset": (raw({"a": entry(offsets=[4])}, ONE), "tensor 'a': dtype, shape and data_offsets were"),
    "offsets huge": (
        raw({"a": entry(offsets=[2**64, 2**64 + 4])}, ONE),
        "tensor 'a': data_offsets: it begins at 184467",
    ),
    "hole between": (
        raw({"a": entry(), "b": entry(offsets=[8, 12])}, ONE * 3),
        "'b': .* begins at 8, and the one",
    ),
    "overlap": (
        raw({"a": entry(), "b": entry("F16", [1], [2, 4])}, ONE),
        "'b': .* begins at 2, and the one",
    ),
    "data cut off": (raw({"a": entry()}, ONE[:3]), "data: 3 bytes, and the header describes 4: it is cut off"),
    "metadata of numbers": (
        raw({"__metadata__": {"step": 1}}),
        "__metadata__: an object of strings",
    ),
    "a list": (raw([]), "header: a JSON object was expected, not \\[\\]"),
    "blocks not JSON": (in_blocks("{"), "__metadata__ npgpt_blocks: not JSON at character 1"),
    "blocks a list": (in_blocks([]), "__metadata__ npgpt_blocks: a JSON object was expected, not \\[\\]"),
    "blocks of another type": (
        in_blocks({"a": ["Q6_K", [2, 32]]}),
        "npgpt_blocks: tensor 'a': type 'Q6_K' is not one of Q8_0, Q4_0",
    ),
    "blocks of no tensor": (in_blocks({"b": ["Q8_0", [2, 32]]}), "npgpt_blocks: tensor 'b' is not there"),
    "blocks of a vector": (in_blocks({"a": ["Q8_0", [64]]}), "tensor 'a': a type and a matrix's shape were expected"),
    "blocks without rows": (
        in_blocks({"a": ["Q8_0", [0, 32]]}, entry("U8", [0, 34], [0, 0]), b""),
        "tensor 'a': a type and a matrix's shape were expected",
    ),
    "blocks' sizes no numbers": (in_blocks({"a": ["Q8_0", [2, True]]}), "'a': a type and a matrix's shape were"),
    "another number of blocks": (
        in_blocks({"a": ["Q8_0", [2, 33]]}),
        "'a': \\['Q8_0', \\[2, 33\\]\\] doesn't fit its U8 of shape \\(2, 34\\)",
    ),
    "a giant's blocks": (in_blocks({"a": ["Q8_0", [2, 10**4299]]}), "'a': .* doesn't fit its U8 of shape"),
    "blocks in floats": (
        in_blocks({"a": ["Q8_0", [2, 32]]}, entry("F16", [2, 17], [0, 68])),
        "doesn't fit its F16 of shape \\(2, 17\\)",
    ),
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


def test_mutations_load_or_are_refused(tmp_path):
    """Damaged files: each gives a CheckpointError or arrays, which the reference reader then reads as we do."""
    try:
        from safetensors import deserialize
    except ImportError:
        deserialize = None  # then it is only checked that nothing else happens
    header = {
        "__metadata__": {"format": "pt", "npgpt_blocks": '{"f": ["Q8_0", [2, 30]], "g": ["Q4_0", [1, 64]]}'},
        "a": entry("F32", [2, 3], [0, 24]),
        "b": entry("BF16", [4], [24, 32]),
        "c": entry("BOOL", [2, 1], [32, 34]),
        "e": entry("U8", [0, 7], [34, 34]),
        "f": entry("U8", [2, 34], [34, 102]),
        "g": entry("U8", [1, 36], [102, 138]),
    }
    good = json.dumps(header).encode()
    path = tmp_path / "a.safetensors"
    refused = 0
    for seed in range(COUNT):
        changed = mutated(good, seed)
        length = None if seed % 4 else len(good)  # in every fourth, the length stays as it was
        data = raw(changed, bytes(range(32)) + b"\0\1" + bytes(range(104)), length)
        path.write_bytes(data)
        try:
            tensors = open_safetensors(MappedFile(path))[0]
            arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        except CheckpointError as error:
            refused += 1
            message = str(error)
            assert message.startswith(f"{path}: "), seed
            continue
        theirs = dict(deserialize(data)) if deserialize else {}
        for name, found in theirs.items():
            values = np.frombuffer(bytes(found["data"]), ours._DTYPES[found["dtype"]]).reshape(found["shape"])
            if found["dtype"] == "BF16":
                values = bf16_to_f32(values)
            if tensors[name].dtype in BLOCKS:
                blocks, dtype = values.view(BLOCKS[tensors[name].dtype]), tensors[name].dtype
                values = dequantize(blocks, dtype)[:, : tensors[name].shape[1]]
            assert (arrays[name].shape, arrays[name].tobytes()) == (values.shape, values.tobytes()), seed
        assert not theirs or theirs.keys() == arrays.keys(), seed
    assert 0.2 * COUNT < refused < COUNT  # else the mutations are too gentle, or too crude
