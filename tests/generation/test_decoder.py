"""The decoder: logits of many texts at once, each as if it were alone and computed from its beginning."""

import numpy as np
import pytest
from helpers.texts import CONFIG, each_option, random_model, random_prompts, record
from helpers.tolerances import rounding, rounds_to_bfloat16

from npgpt.errors import ConfigError
from npgpt.generation import Decoder
from npgpt.tensor import is_grad_enabled

EXACT = 1e-12  # float64; logits are around 1


def after(model, *texts) -> np.ndarray:
    """The logits after each text, from one pass over it alone."""
    return np.stack([model([text]).data[0, -1] for text in texts])


def joined(*parts):
    return np.concatenate(parts)


@each_option
def test_prompts_of_unequal_length_in_one_pass(changes):
    model, prompts = random_model(**changes), random_prompts(3, 1, 8, 5)
    decoder = Decoder(model)
    passes = record(model, lambda ids, cache: np.shape(ids))
    cache = decoder.new_cache(6)
    logits = decoder.prefill(prompts, cache, [4, 0, 1, 2])
    assert passes == [(4, 8)]
    assert cache.lengths.tolist() == [1, 8, 5, 0, 3, 0]
    np.testing.assert_allclose(logits, after(model, *prompts), atol=EXACT)


@each_option
def test_steps_of_rows_of_different_lengths(changes):
    model, prompts, new = random_model(**changes), random_prompts(3, 1, 6), np.array([[7, 8], [9, 10], [11, 12]])
    decoder = Decoder(model)
    cache = decoder.new_cache(3)
    decoder.prefill(prompts, cache, [0, 1, 2])
    for rows in ([2, 0, 1], [1, 2], [0]):
        texts = [joined(prompts[row], new[row, : cache.lengths[row] - len(prompts[row]) + 1]) for row in rows]
        logits = decoder.step([text[-1] for text in texts], cache, rows)
        np.testing.assert_allclose(logits, after(model, *texts), atol=EXACT)
    assert cache.lengths.tolist() == [5, 3, 8]


@each_option
def test_several_ids_of_one_row(changes):
    model, (prompt, more) = random_model(**changes), random_prompts(3, 4)
    decoder = Decoder(model)
    cache = decoder.new_cache(2)
    decoder.prefill([prompt], cache, [1])
    logits = decoder.extend(more, cache, 1)
    np.testing.assert_allclose(logits, model([joined(prompt, more)]).data[0, 3:], atol=EXACT)
    assert cache.lengths.tolist() == [0, 7]
    cache.lengths[1] = 5  # back to the middle of them
    np.testing.assert_allclose(decoder.step([2], cache, [1]), after(model, [*prompt, *more[:2], 2]), atol=EXACT)


def test_prompts_behind_what_rows_hold():
    """Rows that hold as much go through the model together; none sees what the padding left behind."""
    model, first, more = random_model(), random_prompts(2, 4, 2), random_prompts(5, 1, 3)
    decoder = Decoder(model)
    cache = decoder.new_cache(3)
    decoder.prefill(first, cache, [0, 1, 2])
    passes = record(model, lambda ids, cache: np.shape(ids))
    logits = decoder.prefill(more, cache, [0, 1, 2])
    assert passes == [(2, 5), (1, 1)]
    np.testing.assert_allclose(logits, after(model, *map(joined, first, more)), atol=EXACT)
    assert cache.lengths.tolist() == [7, 5, 5]


def test_without_rows_prompts_go_to_the_first_ones_in_order():
    model, prompts = random_model(), random_prompts(2, 3)
    decoder = Decoder(model)
    cache = decoder.new_cache(2)
    decoder.prefill(prompts, cache)
    assert cache.lengths.tolist() == [2, 3]


def test_without_a_cache():
    model, prompts = random_model(), random_prompts(3, 1, 8)
    caches = record(model, lambda ids, cache: cache)
    np.testing.assert_allclose(Decoder(model).prefill(prompts), after(model, *prompts), atol=EXACT)
    assert caches[0] is None


@pytest.mark.parametrize(("cache_dtype", "digits"), [("f32", None), ("bf16", 2**-9)])
def test_float32(cache_dtype, digits):
    """bf16: keys and values are off by 2^-9 of their size, and with weights around 1 the logits by a few times that."""
    model, prompts = random_model(dtype=np.float32), random_prompts(3, 1, 6)
    decoder = Decoder(model, cache_dtype=cache_dtype)
    cache = decoder.new_cache(3)
    assert cache.is_bfloat16 == (cache_dtype == "bf16")
    found = [decoder.prefill(prompts, cache, [0, 1, 2]), decoder.step([1, 2, 3], cache, [0, 1, 2])]
    expected = [after(model, *prompts), after(model, *([*p, n] for p, n in zip(prompts, (1, 2, 3), strict=True)))]
    # logits are around 1, and come of a few sums of some 30 terms
    allowed = 10 * digits if digits else 0.05 if rounds_to_bfloat16() else 30 * rounding(np.float32, 30)
    assert found[0].dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=allowed)


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_meanwhile_and_nothing_is_recorded(training):
    model, without = random_model(dropout=0.5).train(training), random_model()
    decoder, plain = Decoder(model), Decoder(without)
    recording = record(model, lambda ids, cache: is_grad_enabled())
    caches = decoder.new_cache(), plain.new_cache()
    for one, other in zip(
        [decoder.prefill([[1, 2]], caches[0]), decoder.extend([3, 4], caches[0], 0), decoder.step([5], caches[0], [0])],
        [plain.prefill([[1, 2]], caches[1]), plain.extend([3, 4], caches[1], 0), plain.step([5], caches[1], [0])],
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    assert model.training is training
    assert recording == [False] * 3
    assert is_grad_enabled()


def test_the_mode_is_restored_after_an_error():
    model = random_model().train()
    with pytest.raises(IndexError):
        Decoder(model).prefill([[1, 99]])
    assert model.training
    assert is_grad_enabled()


def test_what_is_refused():
    decoder = Decoder(random_model())
    cache = decoder.new_cache(2, capacity=4)
    for refused, message in [
        (lambda: decoder.prefill([[1], []], cache, [0, 1]), "at least one id"),
        (lambda: decoder.prefill([[[1]]], cache, [0]), "at least one id"),
        (lambda: decoder.prefill([[1] * 5], cache, [0]), "a cache of 4 positions that holds 0 can't store 5 more"),
        (lambda: decoder.prefill([[1] * 9], decoder.new_cache(), [0]), "9 tokens, and the model's block_size is 8"),
        (lambda: decoder.prefill([[1], [2]], cache, [0, 0]), "distinct"),
    ]:
        with pytest.raises(ValueError, match=message):
            refused()
    assert cache.lengths.tolist() == [0, 0]
    for setting in ("weights", "cache_dtype"):
        with pytest.raises(ConfigError, match=f"^{setting} must be one of f32"):
            Decoder(random_model(), **{setting: "f16"})
    with pytest.raises(ConfigError, match="cache_dtype bf16 goes with a model in float32, not in float64"):
        Decoder(random_model(), cache_dtype="bf16")


@each_option
def test_no_step_goes_beyond_the_models_context(changes):
    """However large the cache is."""
    decoder = Decoder(random_model(dtype=np.float32, **changes))
    cache = decoder.new_cache(1, capacity=CONFIG.block_size + 3)
    decoder.prefill([[1] * CONFIG.block_size], cache)
    with pytest.raises(ValueError, match=r"rows that hold \[8\] of 8 positions can't take one more"):
        decoder.step([1], cache, [0])


def test_the_memory_of_new_caches():
    decoder = Decoder(random_model())
    assert decoder.new_cache().keys.shape == (2, 1, 2, CONFIG.block_size, 4)
    assert decoder.new_cache(3, capacity=5).keys.shape == (2, 3, 2, 5, 4)
    assert decoder.new_cache().keys.dtype == np.float64


def test_as_many_rows_as_texts():
    decoder = Decoder(random_model())
    cache = decoder.new_cache(2)
    for rows in ([0], [0, 1, 1]):
        with pytest.raises(ValueError, match="2 prompts for"):
            decoder.prefill([[1], [2]], cache, rows)
    decoder.prefill([[1], [2]], cache)
    with pytest.raises(ValueError, match="for 2 rows"):
        decoder.step([3], cache, [0, 1])


def test_a_model_that_is_prepared_already_is_taken_as_it_is():
    """Its weights are packed once, and in the form that was asked for."""
    model = random_model()
    decoder = Decoder(model, weights=None)
    assert Decoder.of(decoder) is decoder
    assert Decoder.of(model).config == model.config
