"""The step for all layers: its plain version is the model, its compiled one the plain one; and the barrier in it."""

import copy
import pickle
import threading
from dataclasses import replace

import numba
import numpy as np
import pytest
from helpers.tolerances import rounding

from npgpt import GPT, GPTConfig, no_grad
from npgpt.generation.packed_model import PackedGPT
from npgpt.kernels import decode
from npgpt.kernels.decode import decode_step_numba, decode_step_numpy
from npgpt.kernels.jit import parallel_jit
from npgpt.kernels.machine.barrier import meet, wait
from npgpt.kernels.packed import FORMATS
from npgpt.ops.rotary import rotary_angles

SMALL = {"vocab_size": 50, "block_size": 12, "n_layer": 2, "n_head": 2, "n_embd": 48}
MODELS = {
    "GPT-2": {},
    "rotary, no biases": {"position": "rotary", "bias": False, "activation": "relu"},
    "sinusoidal, untied": {"position": "sinusoidal", "tie_weights": False, "activation": "gelu", "n_inner": 70},
    "wide, scores scaled by layer": {"n_embd": 160, "n_head": 5, "scale_attn_by_inverse_layer_idx": True},
}
ROWS = np.array([3, 0, 2])  # of a cache of 4


def model_of(options):
    model = GPT(GPTConfig(**{**SMALL, **options}), seed=1)
    rng = np.random.default_rng(0)
    for p in model.parameters():  # peaked attention, and biases that are not 0
        p.data = (p.data + 0.2 * rng.standard_normal(p.shape)).astype(np.float32)
    return model


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS)
def model(request):
    return model_of(request.param)


def empty_cache(config, dtype=np.float32):
    shape = (config.n_layer, 4, config.n_head, config.block_size, config.head_size)
    return np.full(shape, 99, dtype), np.full(shape, 99, dtype)


def steps(step, packed, ids, keys, values, lengths):
    """The logits of each of ids' columns, for texts that hold ``lengths`` positions before the first."""
    weights, config, found = packed.decode_weights(), packed.config, []
    for column in ids.T:
        with no_grad():
            x = packed.embed(column, lengths).data
        angles = None
        if config.position == "rotary":
            angles = rotary_angles(lengths, config.head_size, np.float32)
        found.append(step(weights, x, keys, values, ROWS, lengths, angles))
        lengths = lengths + 1
    return np.stack(found, axis=1)


def close(found, expected, magnitude=1.0, terms=200):
    scale = magnitude * max(1.0, float(abs(expected).max()))
    np.testing.assert_allclose(found, expected, rtol=0, atol=rounding(np.float32, terms) * 10 * scale)


def test_steps_are_the_model(model):
    """In float32, one position after the other gives what the model gives for all at once."""
    ids = np.random.default_rng(1).integers(0, model.config.vocab_size, (3, 10))
    with no_grad():
        expected = model(ids).data
    for step in (decode_step_numpy, decode_step_numba):
        found = steps(step, PackedGPT(model, "f32"), ids, *empty_cache(model.config), np.zeros(3, np.int64))
        close(found, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.uint16], ids=["f32 cache", "bf16 cache"])
@pytest.mark.parametrize("format", FORMATS)
def test_the_compiled_step_is_the_plain_one(format, dtype):
    """Texts of different lengths; both begin with the same cache, and leave the other rows alone."""
    packed = PackedGPT(model_of(MODELS["GPT-2"]), format)
    rng, lengths = np.random.default_rng(2), np.array([0, 5, 2])
    ids, caches = rng.integers(0, 50, (3, 1)), []
    for _ in range(2):
        keys, values = empty_cache(packed.config, dtype)
        for x in (keys, values):
            content = np.random.default_rng(3).standard_normal((2, 3, 2, 12, 24), np.float32)
            x[:, ROWS] = (content.view(np.uint32) >> 16).astype(np.uint16) if dtype == np.uint16 else content
        caches.append((keys, values))
    begin = [x.copy() for x in caches[0]]
    plain = steps(decode_step_numpy, packed, ids, *caches[0], lengths)
    compiled = steps(decode_step_numba, packed, ids, *caches[1], lengths)
    # 8 and 4 bits round x, bf16 the new keys and values: a last bit may decide which way
    close(compiled, plain, magnitude=100 if format in ("int8", "int4") or dtype == np.uint16 else 1)
    for a, b, before in zip(*caches, begin, strict=True):
        changed = np.argwhere((b != before).any(axis=(0, 2, 4)))
        assert {tuple(x) for x in changed} == set(zip(ROWS, lengths, strict=True)), "not the new positions alone"
        if dtype == np.float32:
            close(b, a, magnitude=100)


@pytest.mark.parametrize("format", FORMATS)
def test_a_text_has_the_same_bits_alone_and_beside_others_and_on_any_number_of_threads(format):
    packed = PackedGPT(model_of(MODELS["wide, scores scaled by layer"]), format)
    assert packed.decode_weights().nbytes > decode._WORTH_THREADS, "too small for threads"
    ids = np.random.default_rng(4).integers(0, 50, (3, 4))
    together = steps(decode_step_numba, packed, ids, *empty_cache(packed.config), np.zeros(3, np.int64))
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        keys, values = empty_cache(packed.config)
        weights = packed.decode_weights()
        for t in range(4):
            with no_grad():
                x = packed.embed(ids[1:2, t], np.array([t])).data
            alone = decode_step_numba(weights, x, keys, values, np.array([2]), np.array([t]))
            np.testing.assert_array_equal(alone[0], together[1, t])
    finally:
        numba.set_num_threads(before)


def test_wrong_arguments_are_refused():
    packed = PackedGPT(model_of(MODELS["GPT-2"]), "f32")
    weights, x = packed.decode_weights(), np.zeros((2, 48), np.float32)
    keys, values = empty_cache(packed.config)
    one = np.array([0, 1])
    with pytest.raises(ValueError, match="different rows"):
        decode_step_numba(weights, x, keys, values, np.array([1, 1]), one)
    for rows, lengths in ((np.array([0, 4]), one), (np.array([-1, 0]), one), (one, np.array([0, 12]))):
        with pytest.raises(ValueError, match="not in a cache of 4 rows and 12 positions"):
            decode_step_numba(weights, x, keys, values, rows, lengths)
    with pytest.raises(ValueError, match="not of this model"):
        decode_step_numba(weights, x, keys[:1], values[:1], one, one)
    with pytest.raises(ValueError, match=r"angles must be two arrays of \(2, 12\)"):
        decode_step_numba(weights, x, keys, values, one, one, (np.zeros((2, 24)), np.zeros((2, 24))))
    with pytest.raises(ValueError, match="don't fit each other"):
        replace(weights, head=PackedGPT(model_of(MODELS["GPT-2"]), "bf16").head.matrix)
    with pytest.raises(ValueError, match="don't fit each other"):
        replace(weights, ln_f=replace(weights.ln_f, bias=np.zeros(48)))
    assert decode_step_numba(weights, x[:0], keys, values, one[:0], one[:0]).shape == (0, 50)
    with pytest.raises(TypeError, match="float32 or uint16"):
        decode_step_numba(weights, x, keys.astype(np.float64), values.astype(np.float64), one, one)
    wide = np.repeat(keys, 2, axis=-1)  # every other number of it is not where compiled code looks
    for given in ((wide[..., ::2], values), (keys, wide[..., ::2])):
        with pytest.raises(ValueError, match="must be contiguous"):
            decode_step_numba(weights, x, *given, one, one)


def test_a_copy_has_arrays_of_its_own():
    weights = PackedGPT(model_of(MODELS["GPT-2"]), "int8").decode_weights()
    for copied in (copy.deepcopy(weights), pickle.loads(pickle.dumps(weights))):
        assert not set(copied.addresses.ravel()) & set(weights.addresses.ravel()) - {0}
        np.testing.assert_array_equal(copied.head.weights, weights.head.weights)


def test_threads_that_do_not_meet_leave_it_to_one(monkeypatch):
    """A threading layer may run the parts one after the other. Here a barrier waits for one thread too many.

    After some such steps one thread is enough for a while. Then several are tried again.
    """
    packed = PackedGPT(model_of(MODELS["wide, scores scaled by layer"]), "f32")
    ids = np.array([[1], [2], [3]])
    expected = steps(decode_step_numba, packed, ids, *empty_cache(packed.config), np.zeros(3, np.int64))
    monkeypatch.setattr(decode, "_misses", decode.MOST_MISSES - 1)
    monkeypatch.setattr(decode, "STEPS_ALONE", 1)
    threads, too_many = decode._parts, numba.config.NUMBA_NUM_THREADS + 1
    monkeypatch.setattr(decode, "_parts", lambda weights: too_many)
    keys, values = empty_cache(packed.config)
    found = steps(decode_step_numba, packed, ids, keys, values, np.zeros(3, np.int64))
    assert (keys[:, ROWS, :, 0] != 99).all(), "nothing was computed"
    np.testing.assert_array_equal(found, expected)
    assert (decode._misses, decode._alone) == (0, 1), "tried again for each token"
    monkeypatch.setattr(decode, "_parts", threads)
    assert decode._parts(packed.decode_weights()) == 1
    steps(decode_step_numba, packed, ids, *empty_cache(packed.config), np.zeros(3, np.int64))
    assert decode._parts(packed.decode_weights()) == numba.get_num_threads()


@parallel_jit
def _take_turns(barrier, numbers, parts):
    for part in numba.prange(parts):
        me = np.int64(part)
        if meet(barrier, parts):
            for turn in range(2000):
                if turn % parts == me:
                    numbers[0] = numbers[0] * 3 % 1000003 + me + 1
                wait(barrier, parts)


def test_a_barrier_orders_what_threads_do():
    """Each turn changes one number, which is right in the end only if no turn begins before the last one has ended."""
    parts = min(4, numba.config.NUMBA_NUM_THREADS)
    if parts < 2:
        pytest.skip("Numba has one thread here (one core, or NUMBA_NUM_THREADS=1)")
    expected = 1
    for turn in range(2000):
        expected = expected * 3 % 1000003 + turn % parts + 1
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(parts)
        numbers = np.ones(1, np.int64)
        _take_turns(np.zeros(2, np.int64), numbers, parts, work=1 << 20)
    finally:
        numba.set_num_threads(before)
    assert numbers[0] == expected


def test_a_waiting_thread_lets_others_run():
    """Two texts at once from two Python threads on two cores: four threads that wait for each other in pairs."""
    packed = PackedGPT(model_of(MODELS["wide, scores scaled by layer"]), "int8")
    ids, results = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]]), {}

    def run(name):
        results[name] = steps(decode_step_numba, packed, ids, *empty_cache(packed.config), np.zeros(3, np.int64))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    np.testing.assert_array_equal(results[0], results[1])
