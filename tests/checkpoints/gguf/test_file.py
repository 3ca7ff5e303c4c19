"""The file format against the gguf package."""

import re
import struct

import numpy as np
import pytest
from helpers.gguf_files import TYPES, all_types, assert_reference_agrees, f32, info, open_gguf, raw

from npgpt.checkpoints.gguf.file import write_gguf_file
from npgpt.checkpoints.gguf.metadata import packed_strings
from npgpt.checkpoints.shared.lazy_tensor import lazy_array
from npgpt.errors import CheckpointError


@pytest.fixture(scope="module")
def gguf():
    return pytest.importorskip("gguf", reason="compares with the gguf package, which is not installed")


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "vector": rng.standard_normal(7),
        "matrix": rng.standard_normal((3, 64)),
        "turned": rng.standard_normal((96, 5)).T,
        "four axes": rng.standard_normal((2, 1, 3, 32)),
    }


# Reading


def test_every_type_of_tensor(tmp_path, gguf):
    (tmp_path / "a").write_bytes(all_types())
    tensors, _, _ = open_gguf(tmp_path / "a")
    assert [tensor.dtype for tensor in tensors.values()] == list(TYPES)
    assert_reference_agrees(gguf, tmp_path / "a", tensors)
    for tensor in tensors.values():  # a few rows at a time, too
        rows = [tensor.read_rows(i, i + 1) for i in range(tensor.shape[0] if len(tensor.shape) > 1 else 0)]
        assert not rows or np.array_equal(np.concatenate(rows), tensor.numpy())


def test_what_the_gguf_package_writes(tmp_path, gguf):
    writer = gguf.GGUFWriter(tmp_path / "a", "gpt2")
    rng = np.random.default_rng(0)
    for name in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"):
        type = gguf.GGMLQuantizationType[name]
        for shape in ((5, 64), (32,)):
            numbers = gguf.quants.quantize(rng.standard_normal(shape).astype(np.float32), type)
            writer.add_tensor(f"{name} {shape}", numbers, raw_dtype=type)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tensors, metadata, _ = open_gguf(tmp_path / "a")
    assert len(tensors) == 16
    assert_reference_agrees(gguf, tmp_path / "a", tensors)
    assert metadata.text("general.architecture") == "gpt2"
    assert metadata.strings("tokenizer.ggml.tokens") == (2, packed_strings(["a", "b"]))


def test_values(tmp_path):
    content = all_types()
    (tmp_path / "a").write_bytes(content[:4] + struct.pack("<I", 2) + content[8:])  # version 2, which is read alike
    _, metadata, _ = open_gguf(tmp_path / "a")
    types = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "bool"]
    for number, type in enumerate([*types, None, None, "uint64", "int64", "float64"]):
        if type:
            assert metadata.number(f"number {number}", type) == (3 if type != "bool" else True)
    assert metadata.text("é") == "日本語"
    assert metadata.text("empty") == ""
    assert "é" in metadata
    assert "e" not in metadata
    assert metadata.strings("strings") == (3, packed_strings(["a", "", "日"]))
    for key_, wanted in (
        ("none", "key none is not there"),
        ("é", "key é: uint32 was expected, and it is string"),
        ("strings", "key strings: uint32 was expected, and it is array of string"),
        ("number 0", "key number 0: uint32 was expected, and it is uint8"),
    ):
        with pytest.raises(CheckpointError, match=re.escape(f"{tmp_path / 'a'}: {wanted}")):
            metadata.number(key_, "uint32")


def test_floats_are_the_shortest_decimal(tmp_path):
    (tmp_path / "a").write_bytes(raw([f32("a", 1e-5), f32("b", 3)]))
    _, metadata, _ = open_gguf(tmp_path / "a")
    assert (metadata.number("a", "float32"), metadata.number("b", "float32")) == (1e-5, 3)


def test_gaps_and_any_order_are_read(tmp_path):
    infos = [info("b", (2,), offset=128), info("a", (2,), offset=32)]
    data = bytes(32) + np.float32([1, 2]).tobytes() + bytes(88) + np.float32([3, 4]).tobytes() + b"more"
    (tmp_path / "a").write_bytes(raw([], infos, data))
    tensors, _, _ = open_gguf(tmp_path / "a")
    assert {name: tensor.numpy().tolist() for name, tensor in tensors.items()} == {"b": [3, 4], "a": [1, 2]}


# Writing


@pytest.mark.parametrize("type", ["F32", "F16", "Q8_0", "Q4_0"])
def test_what_we_write_is_read_by_the_gguf_package(tmp_path, gguf, type):
    found = {name: a for name, a in arrays().items() if type[0] != "Q" or a.shape[-1] % 32 == 0}
    metadata = {"general.architecture": "gpt2", "n": 2**32 - 1, "eps": 1e-5, "strings": ["Ġ", ""], "none": []}
    metadata["types"] = np.arange(-2, 3)
    write_gguf_file(tmp_path / "a", metadata, {name: (lazy_array(a), type) for name, a in found.items()})
    reader = gguf.GGUFReader(tmp_path / "a")
    quantize = gguf.quants.quantize
    for tensor, (name, a) in zip(reader.tensors, found.items(), strict=True):
        assert (tensor.name, tensor.tensor_type.name) == (name, type)
        a = np.ascontiguousarray(a, np.float32)
        assert tensor.data.tobytes() == quantize(a, tensor.tensor_type).tobytes()
        assert tensor.shape.tolist() == list(a.shape[::-1])
        assert tensor.data_offset % 32 == 0
    assert {k: field.contents() for k, field in reader.fields.items() if "GGUF" not in k} == {
        **metadata,
        "eps": float(np.float32(1e-5)),
        "types": [-2, -1, 0, 1, 2],
    }
    size = (tmp_path / "a").stat().st_size
    assert size % 32 == 0
    assert size - reader.tensors[-1].data_offset - reader.tensors[-1].n_bytes < 32
    tensors, _, _ = open_gguf(tmp_path / "a")
    assert_reference_agrees(gguf, tmp_path / "a", tensors)


def test_large_tensors_are_written_in_pieces(tmp_path, monkeypatch):
    from npgpt.checkpoints.shared import lazy_tensor as stored

    tensors = {name: (lazy_array(a), "F16") for name, a in arrays().items()}
    write_gguf_file(tmp_path / "a", {}, tensors)
    monkeypatch.setattr(stored, "CHUNK", 70)
    write_gguf_file(tmp_path / "b", {}, tensors)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("type", ["Q8_0", "Q4_0"])
def test_what_blocks_do_not_hold(tmp_path, type):
    array = np.ones((2, 32))
    array[1, 3] = 1e9
    with pytest.raises(CheckpointError, match=re.escape(f"{tmp_path / 'a'}: tensor a: a number too large for {type}")):
        write_gguf_file(tmp_path / "a", {}, {"a": (lazy_array(array), type)})
    assert list(tmp_path.iterdir()) == []


def test_nan_and_infinity_are_written_as_they_are(tmp_path):
    write_gguf_file(tmp_path / "a", {}, {"a": (lazy_array(np.float32([np.nan, -np.inf, 1])), "F16")})
    np.testing.assert_array_equal(open_gguf(tmp_path / "a")[0]["a"].numpy(), [np.nan, -np.inf, 1])
