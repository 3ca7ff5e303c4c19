"""Both forms of torch.save's files, against torch. Bad ones: test_bad_files.py, test_mutations.py."""

import io
import zipfile

import numpy as np
import pytest
from helpers.mutations import memory_at_most
from helpers.torch_bytes import (
    NONE,
    NUMBERS,
    TRUE,
    counted,
    dict_,
    legacy_file,
    read_torch,
    storage,
    tensor,
    zip_file,
    zip_members,
)

from npgpt.checkpoints.pytorch.file import read
from npgpt.checkpoints.shared.lazy_tensor import LazyTensor, equal
from npgpt.checkpoints.shared.mmap_file import MappedFile
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
    if isinstance(value, LazyTensor):
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
    bits = np.arange(2**16, dtype=np.uint16)
    value |= {
        "f16": torch.from_numpy(bits.view(np.float16)),
        "bf16": torch.from_numpy(bits.copy()).view(torch.bfloat16),
    }
    found, _ = read_torch(save(torch, value, tmp_path / "a.pt", form))
    assert_same(arrays(found), value)
    np.testing.assert_array_equal(found["f16"].numpy().view(np.uint16), bits)
    np.testing.assert_array_equal(found["bf16"].numpy().view(np.uint32), bits.astype(np.uint32) << 16)
    assert found["bfloat16"].dtype == "BF16"
    assert [found[name].is_float for name in ("float32", "bfloat16", "bool", "int64")] == [True, True, False, False]


@pytest.mark.parametrize("form", FORMS)
def test_tensors_that_lie_otherwise_in_their_storage(tmp_path, torch, form):
    base = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    value = {
        "all": base,
        "turned": base.T,
        "part": base[1:3, 2:5],
        "turned part": base[1:3, 2:5].T,
        "every other": base[::2, ::3],
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
        rows = range(stored.file_shape[0] if stored.size and stored.shape else 0)
        assert all(np.array_equal(stored.read_rows(i, i + 1)[0], stored.read_rows(0, len(rows))[i]) for i in rows), name


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_training_checkpoint_with_tied_weights(tmp_path, torch, form, protocol):
    model = torch.nn.Sequential(torch.nn.Embedding(3, 3), torch.nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model.register_buffer("mask", torch.ones(2, 2, dtype=torch.bool))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.tensor([1])).sum().backward()
    optimizer.step()
    with torch.no_grad():
        model[0].weight[2, 1] = float("nan")  # equals nothing, but the tensors are still the same
    value = {"model": model.state_dict(), "parameters": dict(model.named_parameters()), "list": [model[0].weight]}
    value["optimizer"] = optimizer.state_dict()
    value["config"] = {"out_dir": "out", "lr": 6e-4, "n": -(10**30), "none": None, "betas": (0.9, 0.95), "iter": 70_000}
    assert value["model"]._metadata
    new = form == "zip"
    torch.save(value, tmp_path / "a.pt", _use_new_zipfile_serialization=new, pickle_protocol=protocol)
    file = MappedFile(tmp_path / "a.pt")
    assert file.format().name == "pytorch"
    found = read(file)
    assert_same(arrays(found), value)
    assert found["model"]["0.weight"] is found["model"]["1.weight"] is found["list"][0]
    assert equal(found["model"]["0.weight"], found["model"]["1.weight"])


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


@pytest.mark.parametrize(("size", "stride"), [((1, 6), (2**62, 1)), ((6, 1), (1, 2**62)), ((0, 6), (2**62, 1))])
def test_strides_that_are_never_used(tmp_path, torch, size, stride):
    (tmp_path / "a").write_bytes(zip_file(dict_({"a": tensor(None, 0, size, stride)})))
    found = arrays(read_torch(tmp_path / "a")[0])
    assert found["a"].reshape(-1).tolist() == ALL.tolist()[: found["a"].size]
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
        for _, rows in found.chunks():
            assert rows.shape == (1, 1 << 20)


# Checksums


def test_a_damaged_number_is_found_when_it_is_used(tmp_path):
    data = bytearray(zip_file(dict_({"a": tensor(), "b": tensor(storage("1"))}), {"0": NUMBERS, "1": NUMBERS}))
    data[data.index(NUMBERS) + 5] ^= 1
    (tmp_path / "a").write_bytes(data)
    found, _ = read_torch(tmp_path / "a")
    for _ in range(2):  # also when it is asked again
        with pytest.raises(CheckpointError, match=r"a: 'x/data/0': damaged: its CRC-32 is another"):
            found["a"].read_rows(0, 1)
    assert found["b"].numpy().tolist() == [[0, 1, 2], [3, 4, 5]]


def test_the_checksum_of_a_storage_of_several_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("npgpt.checkpoints.pytorch.tensors.PIECE_BYTES", 10)
    (tmp_path / "a").write_bytes(zip_file())
    assert arrays(read_torch(tmp_path / "a")[0])["a"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_zip64(tmp_path, torch, monkeypatch):
    """As in a file of more than 4 GB: the numbers in the directory, and its end, have 64 bits."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    with zipfile.ZipFile(tmp_path / "a", "w") as archive:
        for name, content in zip_members().items():
            archive.writestr(name, content)
    assert b"PK\6\6" in (tmp_path / "a").read_bytes()
    found = arrays(read_torch(tmp_path / "a")[0])
    assert found["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert_same(found, torch.load(tmp_path / "a", weights_only=True))
