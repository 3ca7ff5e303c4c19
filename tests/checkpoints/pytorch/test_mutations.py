"""Damaged files: each is refused, or read as torch reads it."""

import struct

import pytest
from helpers.mutations import COUNT, mutated, refusal
from helpers.torch_bytes import (
    HOOKS,
    NUMBERS,
    TRUE,
    as_legacy,
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
    zip_members,
    zipped,
)

from checkpoints.pytorch.test_file import arrays, assert_same


def zip_of(pickle: bytes) -> bytes:
    return zipped(zip_members(storages={"0": NUMBERS, "1": bytes(range(16))}) | {"x/data.pkl": pickle})


def value() -> bytes:
    """Tensors of several kinds, and what is around them."""
    turned = tensor(storage(), 0, (3, 2), (1, 3), requires_grad=TRUE)
    items = {
        "a": tensor(storage("1", 2, "torch.LongStorage", "cuda:0"), 1, (), ()),
        "b": call("torch._utils._rebuild_parameter", turned, TRUE, HOOKS),
        "c": tensor(storage(), 1, (3,), (1,)),
        "d": dict_({"n": list_(int_(70_000), int_(-3)), "x": b"G" + struct.pack(">d", 0.5)}),
    }
    return HOOKS + dict_(items)[1:] + dict_({"_metadata": HOOKS}) + b"b"


GOOD_ZIP = zip_of(pickled(value()))
DIRECTORY = range(GOOD_ZIP.index(b"PK\1\2"), len(GOOD_ZIP))
GOOD_LEGACY = legacy_file(
    as_legacy(value()), list_(text("1"), text("0")), counted(bytes(range(16)), 2) + counted(NUMBERS, 6)
)
DAMAGED = {
    "zip": lambda seed: mutated(GOOD_ZIP, seed, DIRECTORY),
    "pickle": lambda seed: zip_of(mutated(pickled(value()), seed)),
    "legacy": lambda seed: mutated(GOOD_LEGACY, seed),
}


@pytest.mark.parametrize("part", DAMAGED)
def test_mutations_are_refused_or_read_as_torch_does(tmp_path, part):
    """Where torch takes the file, too: it refuses more of what stands in ZIP archives."""
    try:
        import torch
    except ImportError:
        torch = None  # then it is only checked that nothing else happens
    path, read, compared = tmp_path / "a", {}, 0
    for seed in range(-1, COUNT):  # the good file first
        path.write_bytes({"legacy": GOOD_LEGACY}.get(part, GOOD_ZIP) if seed < 0 else DAMAGED[part](seed))
        if refusal(lambda: read.update(found=arrays(read_torch(path)[0])), path) is None:
            try:
                theirs = torch and torch.load(path, weights_only=True, map_location="cpu")
            except Exception:  # of a dozen kinds
                assert seed >= 0
                continue
            compared += 1
            if torch:
                assert_same(read["found"], theirs)
        else:
            assert seed >= 0
    assert COUNT / 200 < compared < COUNT / 2
