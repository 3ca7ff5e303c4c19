"""What the page shows: the arrays of an untraced run, slopes, attention's inside, tokens, formulas, a step of AdamW."""

import base64
import json

import numpy as np
import pytest
from helpers.models import with_random_parameters

from npgpt import GPT, GPTConfig
from npgpt.errors import ConfigError, DataError
from npgpt.explain import PROMPT, SHIPPED
from npgpt.kernels import adamw, attention
from npgpt.teaching.arrays import COLUMNS, ROWS, Arrays
from npgpt.teaching.explanation import encode_prompt, explain, run
from npgpt.teaching.formulas import formulas, typeset
from npgpt.teaching.inside import attention_heads, inside_of_loss
from npgpt.teaching.page import page
from npgpt.teaching.slopes import Slopes
from npgpt.teaching.story import adamw_step, lens, predictions, probabilities
from npgpt.teaching.tokens import ranks_of, token_steps
from npgpt.text.batches import IGNORED
from npgpt.text.byte_pairs import BPETokenizer
from npgpt.text.tokenizers import ByteTokenizer

PROMPT_BYTES = "a b c"


def make(**options):
    config = {"vocab_size": 257, "block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 8} | options
    return with_random_parameters(GPT(GPTConfig(**config)))


@pytest.fixture(scope="module")
def data():
    return explain(make(), ByteTokenizer(), PROMPT_BYTES, "a model")


def stored(data, place):
    entry = data["arrays"][place]
    return np.frombuffer(base64.b64decode(entry["data"]), "<f4").reshape(entry["shape"])


def test_the_page_s_arrays_are_those_of_an_untraced_run_bit_for_bit(data):
    model, ids = make(), ByteTokenizer().encode(PROMPT_BYTES).astype(np.int64)
    hidden = model.hidden_states(ids[None])
    targets = np.append(ids[1:], IGNORED)
    loss = model.loss(ids[None], targets[None])
    loss.backward()
    assert data["loss"] == loss.item()
    parameters = {v["parameter"]: v for v in data["values"] if v["parameter"]}
    assert parameters.keys() == dict(model.named_parameters()).keys()
    for name, p in model.named_parameters():
        assert np.array_equal(stored(data, parameters[name]["data"]), p.data), name
        assert np.array_equal(stored(data, parameters[name]["gradient"]), p.grad), name
    last = data["operations"][-1]
    assert np.array_equal(stored(data, data["values"][last["inputs"][0]]["data"]), hidden.data)
    assert np.array_equal(stored(data, data["logits"]), model.logits(hidden).data[0])


@pytest.mark.parametrize(
    "options", [{}, {"position": "rotary", "tie_weights": False, "activation": "relu"}, {"bias": False}]
)
def test_every_gradient_has_a_slope_that_agrees(options):
    found = explain(make(**options), ByteTokenizer(), PROMPT_BYTES, "a model")
    with_gradient = [v for v in found["values"] if v["gradient"] is not None]
    assert len(with_gradient) == sum("slope" in v for v in found["values"]) > 30
    for value in with_gradient:
        slope = value["slope"]
        index = tuple(slope["index"])
        gradient = stored(found, value["gradient"])
        assert slope["gradient"] == gradient[index]
        assert slope["x"] == stored(found, value["data"])[index]
        assert slope["slope"] == pytest.approx(slope["gradient"], rel=1e-4, abs=1e-6)
        assert abs(slope["gradient"]) == np.abs(gradient).max()


def test_slopes_come_from_the_model_and_not_from_the_gradient():
    model, ids = make(), np.array([1, 2, 3])
    record, targets = run(model, ids)
    value = next(v for v in record.values if v.parameter == "ln_f.bias")
    value.gradient[:] = np.arange(8) - 9  # the largest is negative
    model.ln_f.bias.data[0] = value.data[0] = 100
    slope = Slopes(model, ids[None], targets[None]).at(value)
    right = slope.slope
    assert slope.index == (0,)
    assert slope.h == pytest.approx(2.0 ** (-52 / 3) * max(1, abs(slope.x)), rel=1e-12)
    value.gradient *= 2
    assert Slopes(model, ids[None], targets[None]).at(value).slope == right
    value.gradient = None
    with pytest.raises(ValueError, match="has a gradient"):
        Slopes(model, ids[None], targets[None]).at(value)


def test_attention_s_inside_is_the_kernel_s():
    model, ids = make(), np.array([1, 2, 3, 4])
    record, targets = run(model, ids)
    operation = record.find("h.1", "causal_self_attention")[0]
    heads = attention_heads(operation, 2, model.h[1].attn.scale)
    np.testing.assert_allclose(heads["P"].sum(-1), 1, rtol=1e-6)
    assert not heads["P"][:, ~np.tri(4, dtype=bool)].any()
    q, k, v = (heads[name].transpose(1, 0, 2)[None] for name in "qkv")
    _, m, z = attention.attention_forward_numpy(q, k, v, model.h[1].attn.scale)
    P = np.exp(heads["S"] - m[0][..., None]) / z[0][..., None]
    np.testing.assert_allclose(heads["P"], P, rtol=1e-5)
    with pytest.raises(ArithmeticError, match="doesn't lead to its result"):
        attention_heads(operation, 2, 2 * model.h[1].attn.scale)
    probabilities, dlogits = inside_of_loss(record.operations[-1], targets)
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(dlogits.sum(-1), 0, atol=1e-6)
    assert not dlogits[-1].any()
    with pytest.raises(ArithmeticError, match="the loss"):
        inside_of_loss(record.operations[-1], np.roll(targets, 1))


def test_adamw_s_numbers_are_those_of_its_formulas(data):
    step = data["adamw"]
    p, g = np.array([[step["before"]]], np.float32), np.array([[step["g"]]], np.float32)
    m, v = np.zeros_like(p), np.zeros_like(p)
    rest = step["lr"], *step["betas"], step["eps"], [step["weight_decay"]], 1
    adamw.adamw_step_numpy([p], [g], [m], [v], *rest)
    found = [step[name] for name in ("after", "m", "v")]
    assert found == pytest.approx([p.item(), m.item(), v.item()], rel=1e-6)
    assert step["loss_after"] != step["loss_before"] == data["loss"]


def test_lens_and_predictions(data):
    model, ids = make(), ByteTokenizer().encode(PROMPT_BYTES).astype(np.int64)
    logits = model(ids[None]).data[0].astype(np.float64)
    P = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert [row["top"][0][0] for row in data["predictions"]] == P.argmax(-1).tolist()
    assert [position[0][0] for position in data["lens"][-1]["top"]] == P.argmax(-1).tolist()
    assert [stage["name"] for stage in data["lens"]] == [
        "embedding", "h.0 attention", "h.0 mlp", "h.1 attention", "h.1 mlp",
    ]  # fmt: skip
    target = data["predictions"][0]["target"]
    assert target[1] == pytest.approx(P[0, ids[1]], rel=1e-4)
    assert target[2] == pytest.approx(-np.log(P[0, ids[1]]), rel=1e-4)
    assert data["predictions"][-1]["target"] is None


@pytest.mark.parametrize("position", ["learned", "rotary"])
def test_what_rose_from_layer_to_layer(position):
    """Rotary positions are not added, so the stream begins with the embedding itself."""
    model, ids = make(position=position), np.array([1, 2, 3, 4])
    record, _ = run(model, ids)
    found = lens(model, record)
    steps = [record.operations[stage["operation"]] for stage in found]
    assert [step.path for step in steps[1:]] == ["h.0", "h.0", "h.1", "h.1"]
    assert steps[0].path == ("" if position == "learned" else "wte")
    P = [probabilities(model, step.result.data[0]) for step in steps]
    assert found[0]["rose"] == []
    for stage, before, after in zip(found[1:], P, P[1:], strict=False):
        for t, rows in enumerate(stage["rose"]):
            assert rows[0][0] == (after - before)[t].argmax()
            assert rows[0][1:] == pytest.approx([(after - before)[t].max(), after[t, rows[0][0]]])


def test_of_equally_likely_tokens_the_first_are_shown():
    found = predictions(np.array([[0.0, 1, 1, 1, 0]]), np.array([IGNORED]))
    assert [id for id, _, _ in found[0]["top"]] == [1, 2, 3, 0, 4]
    assert found[0]["target"] is None


def test_weights_decay_where_they_do():
    for name, index, decay in (("ln_f.bias", (0,), 0.0), ("wpe.weight", (0, 1), 0.1)):
        model, ids, targets = make(), np.array([[1, 2, 3]]), np.array([[2, 3, 4]])
        model.loss(ids, targets).backward()
        assert adamw_step(model, ids, targets, name, index)["weight_decay"] == decay


def test_sources_are_the_code_itself(data):
    linear = data["functions"]["linear"]
    assert linear["forward"]["file"] == "npgpt/ops/linear.py"
    assert linear["forward"]["text"].startswith("def linear(x: Tensor")
    assert linear["backward"]["text"].startswith("def backward(dy, needs):")
    assert [kernel["name"] for kernel in linear["kernels"]] == ["matmul_numpy", "sum_rows_numpy"]
    assert linear["formulas"]["Forward"]
    assert linear["formulas"]["Backward"]
    for name, function in data["functions"].items():
        assert function["docstring"], name
        assert function["formulas"].keys() == {"Forward", "Backward"}, name


def test_formulas_of_docstrings():
    assert typeset("b^2 sum_j x_{j + 1}") == [
        "mrow", ["msup", ["mi", "b"], ["mn", "2"]], ["mspace"], ["msub", ["mo", "∑"], ["mi", "j"]], ["mspace"],
        ["msub", ["mi", "x"], ["mrow", ["mi", "j"], ["mo", "+"], ["mn", "1"]]],
    ]  # fmt: skip
    assert typeset("1 / sqrt(x)")[-1] == ["msqrt", ["mrow", ["mi", "x"]]]
    assert formulas("""A title.

    Forward     y = x       over all rows
                z = y
    Backward    dx = dy

    y = not this one
    """) == {
        "Forward": [[typeset("y = x"), "over all rows"], [typeset("z = y")]],
        "Backward": [[typeset("dx = dy")]],
    }
    assert formulas("No formula.") == {}


def test_tokens_show_their_merges():
    tokenizer = BPETokenizer(["t h", "Ġ th", "Ġth e"])
    steps = token_steps(tokenizer, 258, ranks_of(tokenizer))
    assert steps == {
        "id": 258, "text": " the", "bytes": [32, 116, 104, 101],
        "steps": [[" ", "t", "h", "e"], [" ", "th", "e"], [" th", "e"], [" the"]],
    }  # fmt: skip
    of_two = BPETokenizer(["a a", "aa a"])
    assert token_steps(of_two, 257, ranks_of(of_two))["steps"] == [["a", "a", "a"], ["aa", "a"], ["aaa"]]
    assert token_steps(ByteTokenizer(), 195)["text"] == "<C3>"
    whole = token_steps(tokenizer, tokenizer.end_of_text, ranks_of(tokenizer))
    assert (whole["text"], whole["steps"]) == ("<|endoftext|>", [list("<|endoftext|>")])  # not made by merges


def test_large_models_are_thinned_and_keep_the_element_with_the_slope():
    arrays = Arrays(thin=True)
    matrix = np.arange(300 * 500, dtype=np.float32).reshape(300, 500)
    entry = arrays.stored[arrays.add(matrix, (123, 457))]
    assert 123 in entry["rows"]
    assert 457 in entry["columns"]
    assert (len(entry["rows"]), len(entry["columns"])) == (ROWS, COLUMNS)
    for places, size in ((entry["rows"], 300), (entry["columns"], 500)):
        assert (places[0], places[-1], places) == (0, size - 1, sorted(places))  # the nearest one makes room
    kept = np.frombuffer(base64.b64decode(entry["data"]), "<f4").reshape(ROWS, COLUMNS)
    assert np.array_equal(kept, matrix[np.ix_(entry["rows"], entry["columns"])])
    assert arrays.add(matrix, (123, 457)) == 0
    assert "rows" not in arrays.stored[arrays.add(matrix, whole=True)]


def test_what_a_model_was_doing_before_changes_nothing():
    """Neither gradients that it has, nor that it was in training, nor the recomputation of activations."""
    fresh, used = make(dropout=0.5), make(dropout=0.5)
    fresh.eval()
    used.train()
    used.recompute = True
    for p in used.parameters():
        p.grad = np.ones_like(p.data)
    pages = [explain(model, ByteTokenizer(), PROMPT_BYTES, "a model", slopes=False) for model in (fresh, used)]
    assert pages[0] == pages[1]


def test_ids_without_a_token_and_scores_that_are_hidden_can_be_shown():
    found = explain(make(vocab_size=1000), ByteTokenizer(), PROMPT_BYTES, "a model", slopes=False)
    padding = {id: text for id, text in found["vocabulary"].items() if int(id) > 256}
    assert padding
    assert padding == {id: f"<{id}>" for id in padding}
    assert all(np.isfinite(stored(found, picture["S"])).all() for picture in found["attention"])


def test_a_page_made_twice_is_the_same_and_hostile_prompts_stay_text():
    nasty = "</script><!--&{{data}}"
    pages = []
    for _ in range(2):
        model = make(block_size=32, n_layer=1)
        pages.append(page(explain(model, ByteTokenizer(), nasty, "</title><b>", slopes=False)))
    assert pages[0] == pages[1]
    assert nasty not in pages[0]
    assert pages[0].count("</script>") == 2
    assert "<b>" not in pages[0].split("<style>")[0]
    inside = pages[0].split('id="data">')[1].split("</script>")[0]
    assert not set("<>&") & set(inside)
    assert json.loads(inside)["prompt"] == nasty


def test_prompts_that_cannot_be_shown():
    tokenizer, config = ByteTokenizer(), GPTConfig(vocab_size=257, block_size=8, n_layer=1, n_head=1, n_embd=2)
    for prompt, words in (("", "empty"), (" \n", "empty"), ("a", "longer"), ("a" * 9, "at most 8")):
        with pytest.raises(DataError, match=words):
            encode_prompt(prompt, tokenizer, config)
    frozen = make()
    frozen.wpe.weight.requires_grad = False
    with pytest.raises(ConfigError, match="frozen"):
        explain(frozen, tokenizer, "ab", "a model")


def test_the_shipped_model_is_small_and_reads_its_prompt():
    from npgpt.checkpoints import open_checkpoint

    checkpoint = open_checkpoint(SHIPPED)
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 1.5e6
    ids = encode_prompt(PROMPT, checkpoint.require_tokenizer(), checkpoint.config)
    assert 10 <= len(ids) <= 16
