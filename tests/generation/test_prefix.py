"""A prefix that is kept: what it shares with a prompt, and its file, of which nothing is believed."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.mutations import COUNT, mutated, refusal
from helpers.texts import CONFIG, random_model, random_prompts

from npgpt.checkpoints.safetensors import read_safetensors, write_safetensors
from npgpt.errors import CheckpointError, ConfigError
from npgpt.generation import Decoder, Prefix, generate
from npgpt.generation.prefix import shared_length
from npgpt.gpt import GPT


def decoder_of(cache_dtype="f32", seed=0, dtype=np.float32, **changes):
    return Decoder(random_model(seed, dtype, **changes), cache_dtype=cache_dtype)


(BEGIN,) = random_prompts(5)


def test_a_text_without_ids_shares_nothing():
    assert shared_length(np.array([], int), np.array([1])) == 0


@pytest.mark.parametrize(
    ("prompt", "shared"),
    [
        ([1, 2, 3, 4], 3), ([1, 2, 3, 9, 9], 3), ([1, 2, 3], 2), ([1, 2], 1), ([1], 0), ([2, 2, 3, 4], 0),
        ([1, 9, 3, 4], 1), ([9, 2], 0),
    ],
)  # fmt: skip
def test_what_a_prompt_shares(prompt, shared):
    """All that is equal, but never the prompt's last id: the logits after it are still to be computed."""
    decoder = decoder_of()
    for ids in (prompt, np.array(prompt, np.uint16)):
        assert Prefix.compute(decoder, [1, 2, 3]).shared_with(ids) == shared


def test_what_a_row_of_a_cache_holds():
    decoder = decoder_of(dtype=np.float64)
    cache = decoder.new_cache(2)
    decoder.prefill([[3, 4], BEGIN], cache)
    prefix = Prefix.of_row(cache, 1, BEGIN)
    decoder.step([1], cache, [1])  # the row goes on, and the prefix stays
    expected = Prefix.compute(decoder, BEGIN)
    np.testing.assert_allclose(prefix.cache.keys, expected.cache.keys, atol=1e-13)
    np.testing.assert_allclose(prefix.cache.values, expected.cache.values, atol=1e-13)
    assert prefix.ids.tolist() == BEGIN.tolist()
    for n in (5, 7):
        with pytest.raises(ValueError, match=rf"holds 6 positions, and ids have the shape \({n},\)"):
            Prefix.of_row(cache, 1, np.resize(BEGIN, n))


def test_without_a_cache_there_is_no_use_for_a_prefix():
    decoder = decoder_of()
    for options in ({"prefix": Prefix.compute(decoder, [1])}, {"cache": decoder.new_cache(1)}):
        with pytest.raises(ConfigError, match="use_cache=False goes without a cache and a prefix"):
            generate(decoder, [[1, 2]], 3, use_cache=False, **options)


def test_no_more_than_a_context_of_ids_and_at_least_one():
    decoder = decoder_of()
    assert len(Prefix.compute(decoder, np.ones(8, int)).ids) == 8
    with pytest.raises(ValueError, match="9 tokens, and the model's block_size is 8"):
        Prefix.compute(decoder, np.ones(9, int))
    with pytest.raises(ValueError, match="at least one id"):
        Prefix.compute(decoder, [])


# Files


@pytest.mark.parametrize("n", [1, CONFIG.block_size])
def test_a_file_holds_from_one_id_to_a_whole_context(tmp_path, n):
    decoder = decoder_of()
    (ids,) = random_prompts(n)
    Prefix.compute(decoder, ids).save(tmp_path / "a", decoder)
    np.testing.assert_array_equal(Prefix.load(tmp_path / "a", decoder).ids, ids)


@pytest.mark.parametrize(("cache_dtype", "dtype"), [("f32", np.float32), ("f32", np.float64), ("bf16", np.float32)])
def test_a_file_gives_it_back(tmp_path, cache_dtype, dtype):
    decoder = decoder_of(cache_dtype, dtype=dtype)
    prefix = Prefix.compute(decoder, BEGIN)
    prefix.save(tmp_path / "a", decoder)
    found = Prefix.load(tmp_path / "a", decoder_of(cache_dtype, dtype=dtype, dropout=0.5))  # which changes nothing
    for name in ("keys", "values", "lengths"):
        one, other = getattr(found.cache, name), getattr(prefix.cache, name)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(found.ids, BEGIN)
    prompts = [[*BEGIN, 7], [1, 2]]
    for one, other in zip(
        generate(decoder, prompts, 9, seed=0, prefix=found), generate(decoder, prompts, 9, seed=0), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"cache_dtype": "bf16"}, {"dtype": np.float64}, {"activation": "gelu"}, {"layer_norm_epsilon": 1e-4}],
    ids=str,
)
def test_another_model_is_noticed(tmp_path, other):
    Prefix.compute(decoder_of(), BEGIN).save(tmp_path / "a", decoder_of())
    with pytest.raises(CheckpointError, match="was made with another model"):
        Prefix.load(tmp_path / "a", decoder_of(**other))


@pytest.mark.parametrize(("weights", "tied"), [(None, True), ("f32", True), ("int8", True), ("int8", False)])
def test_one_weight_is_noticed(tmp_path, weights, tied):
    model = random_model(0, np.float32, tie_weights=tied)
    decoder = Decoder(model, weights)
    Prefix.compute(decoder, BEGIN).save(tmp_path / "a", decoder)
    (model.h[1].mlp.c_proj if tied else model.wte).weight.data[3, 5] *= 3
    with pytest.raises(CheckpointError, match="was made with another model"):
        Prefix.load(tmp_path / "a", Decoder(model, weights))


@pytest.mark.parametrize("tied", [True, False])
def test_a_scale_is_noticed(tmp_path, tied):
    """A row of wte times 2 has the same weights in 8 bits, and another scale."""
    model = random_model(0, np.float32, tie_weights=tied)
    decoder = Decoder(model, "int8")
    Prefix.compute(decoder, BEGIN).save(tmp_path / "a", decoder)
    model.wte.weight.data[3] *= 2
    with pytest.raises(CheckpointError, match="was made with another model"):
        Prefix.load(tmp_path / "a", Decoder(model, "int8"))


@pytest.fixture
def stored(tmp_path):
    """(path, arrays, metadata) of a good file."""
    path = tmp_path / "a"
    Prefix.compute(decoder_of(), BEGIN).save(path, decoder_of())
    arrays, metadata = read_safetensors(path)
    return path, {name: np.array(array) for name, array in arrays.items()}, metadata


def changed(arrays, **changes):
    return {name: array for name, array in {**arrays, **changes}.items() if array is not None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: changed(a, keys=None), "is not a saved prefix"),
        (lambda a: changed(a, more=np.ones(2)), "is not a saved prefix"),
        (lambda a: changed(a, ids=a["ids"].astype(np.int32)), r"tensor ids: 1 to 8 ids were expected, not I32 \(5,\)"),
        (lambda a: changed(a, ids=a["ids"][None]), r"tensor ids: 1 to 8 ids were expected, not I64 \(1, 5\)"),
        (lambda a: changed(a, ids=a["ids"][:0]), r"tensor ids: 1 to 8 ids were expected, not I64 \(0,\)"),
        (lambda a: changed(a, ids=np.ones(9, np.int64)), "tensor ids: 1 to 8 ids were expected"),
        (lambda a: changed(a, ids=a["ids"] - 30), "tensor ids: one is outside the vocabulary of 23"),
        (lambda a: changed(a, ids=a["ids"] + 20), "tensor ids: one is outside the vocabulary of 23"),
        (
            lambda a: changed(a, ids=a["ids"][:4]),
            r"keys: F32 \(2, 2, 4, 4\) was expected, not F32 \(2, 2, 5, 4\)",
        ),
        (lambda a: changed(a, values=a["values"].astype(np.float64)), "tensor values: F32 .* was expected, not F64"),
        (lambda a: changed(a, keys=a["keys"][:1]), "tensor keys: F32 .* was expected"),
        (
            lambda a: changed(a, values=np.where(a["values"] > 0.5, np.nan, a["values"])),
            "values: NaN or infinity",
        ),
        (lambda a: changed(a, keys=a["keys"] * np.float32(np.inf)), "tensor keys: NaN or infinity"),
    ],
)
def test_what_a_file_may_not_hold(stored, change, message):
    path, arrays, metadata = stored
    write_safetensors(path, change(arrays), metadata)
    with np.errstate(all="ignore"), pytest.raises(CheckpointError, match=message) as caught:
        Prefix.load(path, decoder_of())
    assert str(caught.value).startswith(str(path))


def test_other_files(stored):
    path, arrays, _ = stored
    decoder = decoder_of()
    with pytest.raises(CheckpointError, match="can't be read: No such file"):
        Prefix.load(path.with_name("nothing"), decoder)
    for name, content in (("npgpt_prefix", "{"), ("npgpt_prefix", "[1]"), ("another", "{}")):
        write_safetensors(path, arrays, {name: content})
        with pytest.raises(CheckpointError, match=str(path)):
            Prefix.load(path, decoder)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=str(path)):
        Prefix.load(path, decoder)
    with pytest.raises(CheckpointError, match="can't be written"):
        Prefix.compute(decoder, BEGIN).save(path / "below" / "a file", decoder)


def test_mutations_load_or_are_refused(stored):
    """A changed number among keys and values is not noticed, as a changed weight would not be. All else is."""
    path, arrays, _ = stored
    good, decoder = path.read_bytes(), decoder_of()
    header = range(8 + int.from_bytes(good[:8], "little") + arrays["ids"].nbytes)  # the ids come first

    def load():
        prefix = Prefix.load(path, decoder)
        assert len(prefix.ids) == 5
        assert 0 <= prefix.ids.min() <= prefix.ids.max() < CONFIG.vocab_size
        assert np.isfinite(prefix.cache.keys).all()

    refused = 0
    for seed in range(COUNT):
        path.write_bytes(mutated(good, seed, header))
        refused += refusal(load, path) is not None
    assert 0.5 * COUNT < refused < COUNT


def test_an_empty_model_has_a_checksum_too(tmp_path):
    """Its parameters have strides of 0, and read-only memory."""
    model = GPT.empty(replace(CONFIG, tie_weights=False))
    for p in model.parameters():
        p.data = np.broadcast_to(np.float32(0.5), p.shape)
    decoder = Decoder(model)
    Prefix.compute(decoder, BEGIN).save(tmp_path / "a", decoder)
    assert Prefix.load(tmp_path / "a", decoder).ids.tolist() == BEGIN.tolist()
