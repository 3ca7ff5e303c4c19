"""Every combination of what a call of the model accepts, against a GPT in plain NumPy: it is right, or refused."""

from contextlib import nullcontext
from itertools import product

import numpy as np
import pytest
from helpers.models import with_random_parameters
from helpers.plain_gpt import plain_logits, plain_loss
from helpers.tolerances import CENTRAL_DIFFERENCE, CENTRAL_DIFFERENCE_STEP, rounding, rounds_to_bfloat16

from npgpt import GPT, GPTConfig, no_grad
from npgpt.config import POSITIONS
from npgpt.generation import KeyValueCache
from npgpt.kernels.precision import set_matmul_precision

B, T, V = 2, 7, 13
IDS, TARGETS = np.random.default_rng(1).integers(V, size=(2, B, T))
MASK = np.array([[False, False, True, True, True, False, True], [True] * 4 + [False] * 2 + [True]])


def model_of(position, dropout, dtype):
    config = GPTConfig(
        vocab_size=V,
        block_size=T,
        n_layer=2,
        n_head=2,
        n_embd=8,
        position=position,
        dropout=0.3 * dropout,
        layer_norm_epsilon=0.1,
        scale_attn_by_inverse_layer_idx=True,
    )
    model = with_random_parameters(GPT.empty(config, dtype))
    model.seed(3)
    return model.train(dropout)


def plain(model, pieces, mask):
    """The logits of one piece after the other, as the plain model has them."""
    past, rng, found = [[] for _ in model.h], np.random.default_rng([3, 1]) if model.training else None, []
    for begin, end in pieces:
        seen = None if mask is None else mask[:, :end]
        found.append(plain_logits(model.state_dict(), model.config, IDS[:, begin:end], seen, past, rng))
    return np.concatenate(found, axis=1)


@pytest.fixture(autouse=True)
def precision_as_before():
    yield
    set_matmul_precision("highest")


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize(
    "pieces", [None, [(0, 7)], [(0, 3), (3, 4), (4, 7)]], ids=["no cache", "cache", "cached pieces"]
)
def test_logits_with_every_combination(position, pieces):
    formats = [("highest", np.float64), ("highest", np.float32), ("medium", np.float32)]
    for masked, dropout, recompute, recording, (precision, dtype) in product(*[[False, True]] * 4, formats):
        said = f"{masked=} {dropout=} {recompute=} {recording=} {precision} {dtype}"
        mask = MASK if masked else None
        model = model_of(position, dropout, dtype)
        model.recompute = recompute
        set_matmul_precision(precision)
        with nullcontext() if recording else no_grad():
            if pieces is None:
                results = [model(IDS, mask)]
            else:
                cache = KeyValueCache(model.config, B, dtype)
                results = [model(IDS[:, a:b], None if mask is None else mask[:, :b], cache) for a, b in pieces]
        # logits are around 1, and come of a few sums of some 30 terms; bfloat16 has 8 bits
        allowed = 0.05 if rounds_to_bfloat16() else 30 * rounding(dtype, 30)
        found = np.concatenate([result.data for result in results], axis=1)
        np.testing.assert_allclose(found, plain(model, pieces or [(0, T)], mask), rtol=0, atol=allowed, err_msg=said)
        for result in results:
            assert result.requires_grad == recording, said
            if not recording or pieces is not None:
                with pytest.raises(RuntimeError, match="key/value cache" if recording else "depends on nothing"):
                    result.sum().backward()


@pytest.mark.parametrize("position", POSITIONS)
def test_gradients_with_every_combination(position):
    """Along a random direction of all parameters, by central differences of the plain model."""
    rng, h = np.random.default_rng(5), CENTRAL_DIFFERENCE_STEP
    for masked, dropout, recompute in product(*[[False, True]] * 3):
        mask = MASK if masked else None
        model = model_of(position, dropout, np.float64)
        model.recompute = recompute
        model.loss(IDS, TARGETS, mask).backward()
        start = {name: p.data for name, p in model.named_parameters()}
        direction = {name: rng.standard_normal(array.shape) / 10 for name, array in start.items()}
        losses = []
        for step in (h, -h):
            for name, p in model.named_parameters():
                p.data = start[name] + step * direction[name]
            losses.append(plain_loss(plain(model, [(0, T)], mask), TARGETS))
        found = sum((p.grad * direction[name]).sum() for name, p in model.named_parameters())
        expected = (losses[0] - losses[1]) / (2 * h)
        assert abs(found - expected) <= CENTRAL_DIFFERENCE * max(1, abs(expected)), (masked, dropout, recompute)


def test_with_a_cache_the_mask_is_for_all_positions_that_are_seen():
    model, cache = model_of("learned", False, np.float64), KeyValueCache(model_of("learned", 0, float).config, B, float)
    model(IDS[:, :3], cache=cache)
    for wrong in (MASK[:, 3:5], MASK[:, :4], MASK[:, :6]):
        with pytest.raises(ValueError, match=r"padding mask must be bool \(2, 5\)"):
            model(IDS[:, 3:5], wrong, cache)
    np.testing.assert_array_equal(model(IDS[:, 3:5], MASK[:, :5], cache).shape, (B, 2, V))
