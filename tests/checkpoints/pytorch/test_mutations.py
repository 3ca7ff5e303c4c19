"""Thousands of damaged files: each is refused, or read as torch reads it."""

import struct

import pytest
from helpers.mutations import COUNT, memory_at_most, mutated
from helpers.torch_bytes import (
    HOOKS,
    NONE,
    NUMBERS,
    TRUE,
    call,
    counted,
    dict_,
    int_,
    legacy_file,
    list_,
    pickled,
    read_torch,
    storage,
    tensor,
    text,
    tuple_,
    zip_members,
    zipped,
)

from checkpoints.pytorch.test_file import arrays, assert_same
from npgpt.errors import CheckpointError


def zip_of(pickle: bytes) -> bytes:
    """With all the members that torch.save writes today."""
    words = {".format_version": b"1", ".storage_alignment": b"64", ".data/serialization_id": b"0123456789" * 4}
    members = zip_members(storages={"0": NUMBERS, "1": bytes(range(16))}) | {"x/data.pkl": pickle}
    return zipped(members | {f"x/{name}": word for name, word in words.items()})


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
