"""Both forms of torch.save's files, against torch. Damaged ones: test_torch_objects, _legacy, _mutations, test_zips."""

import io
import os
import re
import struct
import zipfile
import zlib

import numpy as np
import pytest
from helpers.mutations import memory_at_most
from helpers.torch_bytes import (
    NONE,
    NUMBERS,
    TRUE,
    counted,
    dict_,
    int_,
    legacy_file,
    read_torch,
    storage,
    tensor,
    text,
    tuple_,
    zip_file,
    zip_members,
)

from npgpt.checkpoints.shared.lazy_tensor import Stored, equal
from npgpt.errors import CheckpointError

FORMS = ["zip", "legacy"]
ALL = np.arange(6, dtype=np.float32)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="compares with torch, which is not installed")


def save(torch, value, path, form="zip"):
    torch.save(value, path, _use_new_zipfile_serialization=form == "zip")
    return path


def arrays(value):
    """What was read, with arrays where it has tensors, so that all of the file is looked at."""
    if isinstance(value, Stored):
        return value.numpy()
    if isinstance(value, dict):
        return {key: arrays(item) for key, item in value.items()}
    return type(value)(map(arrays, value)) if isinstance(value, list | tuple) else value


def assert_same(found, theirs):
    """``found``: of ``arrays``; theirs: what torch has or loads."""
    if isinstance(found, np.ndarray):
        theirs = theirs.detach()
        theirs = (theirs.float() if str(theirs.dtype) == "torch.bfloat16" else theirs).contiguous().numpy()
        assert (found.dtype, found.shape) == (theirs.dtype, theirs.shape)
        same = np.array_equal(found, theirs, equal_nan=theirs.dtype.kind == "f")  # signalling NaN may be quieted
        assert same or found.tobytes() == theirs.tobytes()
    elif isinstance(found, dict):
        assert list(found) == list(theirs)
        for key, item in found.items():
            assert_same(item, theirs[key])
    elif isinstance(found, list | tuple):
        assert type(found) is type(theirs)
        assert len(found) == len(theirs)
        for ours, item in zip(found, theirs, strict=True):
            assert_same(ours, item)
    else:
        assert type(found) is type(theirs)
        assert found == theirs or found != found


def check_refused(path, place: str):
    with pytest.raises(CheckpointError) as caught, memory_at_most(path.stat().st_size):
        arrays(read_torch(path)[0])
    message = str(caught.value)
    assert re.search(place, message), message
    assert message.startswith(f"{path}: ")
    assert len(message) < 400 + len(str(path))
    assert message.isprintable()


# What torch writes


@pytest.mark.parametrize("form", FORMS)
def test_every_type_of_numbers(tmp_path, torch, form):
    generator = torch.Generator().manual_seed(0)
    value = {}
    for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"):
        numbers = 9 * torch.randn(3, 5, generator=generator)
        value[name] = numbers.to(getattr(torch, name))
        value[f"{name} none"] = value[name][:0].clone()
        value[f"{name} scalar"] = value[name][0, 0].clone()
    found, file = read_torch(save(torch, value, tmp_path / "a.pt", form))
    assert_same(arrays(found), value)
    assert found["bfloat16"].dtype == "BF16"
    assert [found[name].is_float for name in ("float32", "bfloat16", "bool", "int64")] == [True, True, False, False]
    assert file.path == tmp_path / "a.pt"


@pytest.mark.parametrize("form", FORMS)
def test_special_numbers_bit_for_bit(tmp_path, torch, form):
    bits = np.arange(2**16, dtype=np.uint16)
    value = {"f16": torch.from_numpy(bits.view(np.float16)), "bf16": torch.from_numpy(bits.copy()).view(torch.bfloat16)}
    found, _ = read_torch(save(torch, value, tmp_path / "a.pt", form))
    np.testing.assert_array_equal(found["f16"].numpy().view(np.uint16), bits)
    np.testing.assert_array_equal(found["bf16"].numpy().view(np.uint32), bits.astype(np.uint32) << 16)


@pytest.mark.parametrize("form", FORMS)
def test_tensors_that_lie_otherwise_in_their_storage(tmp_path, torch, form):
    base = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    value = {
        "all": base,
        "turned": base.T,
        "part": base[1:3, 2:5],
        "turned part": base[1:3, 2:5].T,
        "every other": base[::2, ::3],
        "row": base[2],
        "column": base[:, 3],
        "one": base[3, 5],
        "none": base[:0],
        "three axes": base.view(2, 2, 6).permute(2, 0, 1),
        "an axis of 1": base[:1].T.unsqueeze(1),
        "repeated": base[0, :2].expand(3, 2),
    }
    found, _ = read_torch(save(torch, value, tmp_path / "a.pt", form))
    assert_same(arrays(found), value)
    assert found["turned"].transposed  # its pieces are then in the file's order
    for name, stored in found.items():
        out = np.empty(stored.shape, np.float64)
        stored.copy_to(out)
        np.testing.assert_array_equal(out, value[name].numpy())


@pytest.mark.parametrize("form", FORMS)
def test_parameters_tied_weights_and_metadata(tmp_path, torch, form):
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.wte = torch.nn.Embedding(5, 4)
            self.head = torch.nn.Linear(4, 5, bias=False)
            self.head.weight = self.wte.weight
            self.register_buffer("mask", torch.ones(2, 2, dtype=torch.bool))

    model = Tied()
    with torch.no_grad():
        model.wte.weight[2, 3] = float("nan")  # equals nothing, but the tensors are still the same
    value = {"state": model.state_dict(), "parameters": dict(model.named_parameters()), "list": [model.wte.weight]}
    assert value["state"]._metadata
    found, _ = read_torch(save(torch, value, tmp_path / "a.pt", form))
    assert_same(arrays(found), value)
    assert found["state"]["wte.weight"] is found["state"]["head.weight"] is found["list"][0]
    assert equal(found["state"]["wte.weight"], found["state"]["head.weight"])


@pytest.mark.parametrize("form", FORMS)
def test_a_whole_training_checkpoint(tmp_path, torch, form):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    config = {
        "out_dir": "out",
        "lr": 6e-4,
        "compile": True,
        "n": -(10**30),
        "none": None,
        "betas": (0.9, 0.95),
        "l": [],
    }
    value = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "config": config, "iter_num": 70_000}
    value["best_val_loss"] = torch.tensor(3.25)
    found, _ = read_torch(save(torch, value, tmp_path / "a.pt", form))
    assert_same(arrays(found), value)


def test_zip_files_from_other_hands(tmp_path, torch):
    """Saved to a buffer (the folder is named "archive"), with zipfile, without checksums, without alignment."""
    value = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(3, dtype=torch.bfloat16)}
    buffer = io.BytesIO()
    torch.save(value, buffer)
    (tmp_path / "a").write_bytes(buffer.getvalue())
    assert_same(arrays(read_torch(tmp_path / "a")[0]), value)
    with zipfile.ZipFile(buffer) as archive, zipfile.ZipFile(tmp_path / "b", "w") as copy:
        for name in archive.namelist():
            copy.writestr(name, archive.read(name))
    assert_same(arrays(read_torch(tmp_path / "b")[0]), value)


def test_zip_files_without_checksums(tmp_path, torch):
    config = pytest.importorskip("torch.utils.serialization").config
    with config.patch("save.compute_crc32", False):
        save(torch, {"a": torch.arange(6.0)}, tmp_path / "a")
    assert read_torch(tmp_path / "a")[0]["a"].numpy().tolist() == ALL.tolist()


@pytest.mark.parametrize("form", FORMS)
def test_hand_made_files_are_as_torch_reads_them(tmp_path, torch, form):
    """What the bad files below are made of."""
    (tmp_path / "a").write_bytes(zip_file() if form == "zip" else legacy_file())
    found = arrays(read_torch(tmp_path / "a")[0])
    np.testing.assert_array_equal(found["a"], ALL.reshape(2, 3))
    assert_same(found, torch.load(tmp_path / "a", weights_only=True))


@pytest.mark.parametrize(("size", "stride"), [((1, 6), (2**62, 1)), ((6, 1), (1, 2**62)), ((0, 6), (2**62, 1))])
def test_strides_that_are_never_used(tmp_path, torch, size, stride):
    (tmp_path / "a").write_bytes(zip_file(dict_({"a": tensor(None, 0, size, stride)})))
    found = arrays(read_torch(tmp_path / "a")[0])
    assert found["a"].reshape(-1).tolist() == ALL.tolist()[: found["a"].size]
    assert_same(found, torch.load(tmp_path / "a", weights_only=True))


def test_legacy_views_of_storages(tmp_path, torch):
    """PyTorch 0.3's views of a storage have keys of their own."""
    view = storage(view=tuple_(text("view"), int_(2), int_(3)))
    value = dict_({"a": tensor(view, 1, (2,), (1,)), "b": tensor(storage(view=NONE), 0, (6,), (1,))})
    (tmp_path / "a").write_bytes(legacy_file(value))
    found = arrays(read_torch(tmp_path / "a")[0])
    assert {name: array.tolist() for name, array in found.items()} == {"a": [3, 4], "b": [0, 1, 2, 3, 4, 5]}
    assert_same(found, torch.load(tmp_path / "a", weights_only=True))


@pytest.mark.parametrize("form", FORMS)
def test_numbers_stay_in_the_file(tmp_path, form):
    path = tmp_path / "a"
    path.write_bytes(zip_file() if form == "zip" else legacy_file())
    tensor = read_torch(path)[0]["a"]
    array = tensor.numpy()
    assert not array.flags.writeable
    assert not array.flags.owndata
    path.unlink()
    assert array.tolist() == tensor.numpy().tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("form", FORMS)
def test_reading_a_large_file_takes_little_memory(tmp_path, form):
    path, numbers = tmp_path / "a", bytes(64 << 20)
    of = storage(count=16 << 20, view=NONE if form == "legacy" else None)
    value = dict_({"a": tensor(of, 0, (16, 1 << 20), (1 << 20, 1), requires_grad=TRUE)})
    data = counted(numbers, 16 << 20)
    path.write_bytes(zip_file(value, {"0": numbers}) if form == "zip" else legacy_file(value, data=data))
    del numbers, data
    with memory_at_most(-(60 << 20) / 3):  # 4 MB
        found = read_torch(path)[0]["a"]
        for _, rows in found.pieces():
            assert rows.shape == (1, 1 << 20)


# Checksums


def test_a_damaged_number_is_found_when_it_is_used(tmp_path):
    data = bytearray(zip_file(dict_({"a": tensor(), "b": tensor(storage("1"))}), {"0": NUMBERS, "1": NUMBERS}))
    data[data.index(NUMBERS) + 5] ^= 1
    (tmp_path / "a").write_bytes(data)
    found, _ = read_torch(tmp_path / "a")
    for _ in range(2):  # also when it is asked again
        with pytest.raises(CheckpointError, match=r"a: 'x/data/0': damaged: its CRC-32 is not"):
            found["a"].rows(0, 1)
    assert found["b"].numpy().tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_checksum_is_computed_once(tmp_path, monkeypatch):
    value = dict_({"a": tensor(), "b": tensor(None, 1, (3,), (1,)), "c": tensor(storage("1"))})
    (tmp_path / "a").write_bytes(zip_file(value, {"0": NUMBERS, "1": NUMBERS}))
    found, _ = read_torch(tmp_path / "a")
    computed = []
    monkeypatch.setattr(
        zlib, "crc32", lambda data, crc=0, real=zlib.crc32: computed.append(len(data)) or real(data, crc)
    )
    for _ in range(3):
        assert found["a"].numpy().size == 6
        assert found["b"].numpy().tolist() == [1, 2, 3]
    assert computed == [24]


def test_the_checksum_of_a_storage_of_several_pieces(tmp_path):
    numbers = np.arange(10 << 20, dtype="<f4")
    value = dict_({"a": tensor(storage(count=10 << 20), 0, (10 << 20,), (1,))})
    for damaged in (False, True):
        data = bytearray(zip_file(value, {"0": numbers.tobytes()}))
        if damaged:
            data[len(data) // 2] ^= 128
        (tmp_path / "a").write_bytes(data)
        found = read_torch(tmp_path / "a")[0]["a"]
        if damaged:
            with pytest.raises(CheckpointError, match="damaged"):
                found.numpy()
        else:
            np.testing.assert_array_equal(found.numpy(), numbers)


# 64-bit ZIP files


def sparse_zip(path, count: int):
    """As torch writes one with more than 4 GB: a storage of zeros, then one of NUMBERS whose place takes 64 bits."""
    giant = 4 * count
    value = dict_({"big": tensor(storage("0", count), 0, (count,), (1,)), "a": tensor(storage("1"))})
    small = zip_members(value, {"1": NUMBERS})
    with open(path, "wb") as file:
        entries = []

        def add(name, content, size):
            offset, wide = file.tell(), b""
            lengths = struct.pack("<5I", 0, min(size, 2**32 - 1), min(size, 2**32 - 1), 0, 0)[:12]
            file.write(
                struct.pack("<4s5H", b"PK\3\4", 0, 0, 0, 0, 0) + lengths + struct.pack("<2H", len(name), 0) + name
            )
            file.write(content) if content else file.seek(size, 1)
            for number in (size, size, offset):
                wide += struct.pack("<Q", number) if number >= 2**32 - 1 else b""
            extra = struct.pack("<2H", 1, len(wide)) + wide if wide else b""
            head = struct.pack("<4s6H", b"PK\1\2", 0, 0, 0, 0, 0, 0) + lengths
            tail = struct.pack("<5H2I", len(name), len(extra), 0, 0, 0, 0, min(offset, 2**32 - 1))
            entries.append(head + tail + name + extra)

        for name, content in small.items():
            if name == "x/data/1":
                add(b"x/data/0", b"", giant)
            add(name.encode(), content, len(content))
        begin, directory = file.tell(), b"".join(entries)
        file.write(directory)
        size, n = len(directory), len(entries)
        file.write(struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 0, 0, 0, 0, n, n, size, begin))
        file.write(struct.pack("<4sIQI", b"PK\6\7", 0, begin + size, 1))
        file.write(struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, n, n, size, min(begin, 2**32 - 1), 0))


def test_more_than_4_gb(tmp_path, torch):
    path = tmp_path / "a"
    sparse_zip(path, 2**30 + 1000)
    if os.stat(path).st_blocks * 512 > 100 << 20:
        pytest.skip("needs a file system that leaves holes in files")
    found, _ = read_torch(path)
    assert found["a"].numpy().tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["big"].shape == (2**30 + 1000,)
    assert not found["big"].rows(2**30, 2**30 + 1000).any()
    theirs = torch.load(path, weights_only=True, mmap=True)
    assert theirs["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
