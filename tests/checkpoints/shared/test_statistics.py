"""Statistics and differences of tensors, checked with arrays whose oddities are known."""

import numpy as np
import pytest
from helpers.models import with_random_parameters

from npgpt import GPT, GPTConfig
from npgpt.checkpoints.shared import lazy_tensor as stored
from npgpt.checkpoints.shared.checkpoint import Checkpoint
from npgpt.checkpoints.shared.lazy_tensor import lazy_array
from npgpt.checkpoints.shared.statistics import difference, survey, warnings

CONFIG = GPTConfig(vocab_size=11, block_size=6, n_layer=2, n_head=2, n_embd=8)


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_survey(monkeypatch, piece):
    monkeypatch.setattr(stored, "CHUNK", piece)
    array = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    array[2] = 0
    found = survey(lazy_array(array))
    assert found.norm == pytest.approx(np.linalg.norm(array))
    assert found.largest == np.abs(array).max()
    assert (found.not_finite, found.zero_rows, found.constant) == (0, 1, None)
    assert found.digest == survey(lazy_array(array.T.copy()).T).digest
    assert found.digest != survey(lazy_array(array.T.copy())).digest
    array[0, :3] = np.nan, np.inf, -np.inf
    found = survey(lazy_array(array))
    assert found.not_finite == 3
    assert found.norm == pytest.approx(np.linalg.norm(array[np.isfinite(array)]))
    assert survey(lazy_array(np.full((3, 2), 0.5))).constant == 0.5
    assert survey(lazy_array(np.full((), 0.5))).constant is None


def of(**changes) -> Checkpoint:
    arrays = with_random_parameters(GPT(CONFIG)).state_dict()
    for name, change in changes.items():
        change(arrays[name.replace("__", ".")])
    return Checkpoint("x", CONFIG, {name: lazy_array(array) for name, array in arrays.items()}, "x")


def odd(checkpoint):
    return warnings(checkpoint, {name: survey(tensor) for name, tensor in checkpoint.tensors.items()})


def fill(value):
    return lambda array: array.fill(value)


def zero_rows(array):
    array[3:5] = 0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"h.0.ln_1.weight": fill(1), "ln_f.weight": fill(1), "h.1.mlp.c_fc.bias": fill(0)}, []),
        ({"h.0.ln_1.weight": fill(0.5)}, ["h.0.ln_1.weight: all its elements are 0.5"]),
        ({"h.1.mlp.c_fc.weight": fill(0)}, ["h.1.mlp.c_fc.weight: all its elements are 0"]),
        ({"wte.weight": zero_rows}, ["wte.weight: 2 of 11 rows are zero"]),
        ({"wpe.weight": fill(np.nan)}, ["wpe.weight: 48 of 48 elements are NaN or infinite"]),
        ({"ln_f.bias": lambda a: a.put(0, 2e4)}, ["ln_f.bias: its largest element is 2e+04"]),
    ],
)
def test_warnings(changes, expected):
    assert odd(of(**changes)) == expected


def test_layers_that_are_the_same():
    checkpoint = of()
    checkpoint.tensors["h.1.attn.c_attn.weight"] = checkpoint.tensors["h.0.attn.c_attn.weight"]
    assert odd(checkpoint) == ["h.1.attn.c_attn.weight: the same elements as h.0.attn.c_attn.weight"]


@pytest.mark.parametrize("piece", [3, 1000])
def test_difference(monkeypatch, piece):
    monkeypatch.setattr(stored, "CHUNK", piece)
    a = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    b = a.copy()
    assert difference(lazy_array(a), lazy_array(b)) is None
    assert difference(lazy_array(a), lazy_array(b.astype(np.float64).T.copy()).T) is None
    b[4, 3] += 0.5
    found = difference(lazy_array(a), lazy_array(b.T.copy()).T)
    assert found.largest == abs(b[4, 3] - np.float64(a[4, 3]))
    assert found.relative == pytest.approx(found.largest / np.linalg.norm(a))
    assert difference(lazy_array(0 * a), lazy_array(b)).relative == np.inf
    a[0, 0] = b[0, 0] = np.nan
    a[0, 1] = b[0, 1] = np.inf
    b[4, 3] = a[4, 3]
    assert difference(lazy_array(a), lazy_array(b)) is None
    for value in (np.nan, np.inf, -np.inf):
        b[4, 3] = value
        assert difference(lazy_array(a), lazy_array(b)).largest == np.inf
        assert difference(lazy_array(b), lazy_array(a)).largest == np.inf
