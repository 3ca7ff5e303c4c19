"""One sentence through a model, forward and backward: all that the page shows, as JSON."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from npgpt.config import GPTConfig
from npgpt.errors import ConfigError, DataError
from npgpt.gpt import GPT
from npgpt.teaching.arrays import ALL, Arrays
from npgpt.teaching.inside import attention_heads, inside_of_loss, logits_of
from npgpt.teaching.slopes import Slope, Slopes
from npgpt.teaching.sources import describe
from npgpt.teaching.story import adamw_step, lens, predictions, stages
from npgpt.teaching.tokens import ranks_of, shown, token_steps
from npgpt.teaching.trace import Operation, Trace, Value, trace
from npgpt.text.batches import IGNORED
from npgpt.text.tokenizers import Tokenizer

MOST_TOKENS = 64  # of a sentence; the pictures of more would be too small to read


def encode_prompt(prompt: str, tokenizer: Tokenizer, config: GPTConfig) -> np.ndarray:
    """The sentence's ids (T,). Raises DataError if they are fewer than two, or more than page or model take."""
    if not prompt.strip():
        raise DataError("the prompt is empty: give a short sentence")
    ids = tokenizer.encode(prompt).astype(np.int64)
    most = min(MOST_TOKENS, config.block_size)
    if len(ids) > most:
        raise DataError(f"the prompt has {len(ids):,} tokens, and at most {most} can be shown: give a shorter one")
    if len(ids) < 2:
        raise DataError("the prompt has one token, and the loss needs a next one to predict: give a longer one")
    return ids


def run(model: GPT, ids: np.ndarray) -> tuple[Trace, np.ndarray]:
    """The forward and backward pass of the ids (T,), each predicting the next -> the trace, the targets (T,)."""
    targets = np.append(ids[1:], IGNORED)
    with trace(model) as record:
        model.loss(ids[None], targets[None]).backward()
    return record, targets


def explain(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str,
    name: str,
    slopes: bool = True,
    progress: Callable[[int, int], None] = lambda done, all: None,
) -> dict[str, Any]:
    """What the page shows. The model is changed: it has gradients, and then takes a step of AdamW.

    name        what the page calls the model
    slopes      run the model twice more for each gradient
    progress    called with how many slopes are done, and of how many

    Raises DataError on a prompt that can't be shown, ConfigError if a parameter is frozen, FloatingPointError if one of
    the numbers is NaN or infinite.
    """
    ids = encode_prompt(prompt, tokenizer, model.config)
    if not all(p.requires_grad for p in model.parameters()):
        raise ConfigError("a parameter of the model is frozen, and the page shows the gradients of all of them")
    model.eval()
    model.recompute = False
    for p in model.parameters():
        p.grad = None
    record, targets = run(model, ids)
    if not all(np.isfinite(x).all() for v in record.values for x in (v.data, v.gradient) if x is not None):
        raise FloatingPointError("NaN or infinity comes out, forward or backward: the weights are too large")
    checked = _slopes(record, Slopes(model, ids[None], targets[None]), progress) if slopes else {}
    numbers = sum(v.data.size + (0 if v.gradient is None else v.gradient.size) for v in record.values)
    arrays = Arrays(thin=numbers > ALL)
    values = _values(record, arrays, checked)
    last = record.operations[-1]
    logits = logits_of(last)
    guesses, layers = predictions(logits, targets), lens(model, record)
    ranks = ranks_of(tokenizer)
    chosen = _largest(record)
    attentions = _attentions(model, record)
    return {
        "model": {"name": name, "parameters": model.num_parameters(), **model.config.to_dict()},
        "prompt": prompt,
        "thinned": arrays.thin,
        "numbers": numbers,
        "tokens": [token_steps(tokenizer, i, ranks) for i in ids.tolist()],
        "merges": bool(ranks),
        "loss": float(last.result.data),
        "operations": _operations(record, arrays, _inside(record, targets, attentions)),
        "functions": _functions(record),
        "values": values,
        "stages": [[stage, o.index] for stage, o in stages(record)],
        "attention": _pictures(attentions, arrays),
        "lens": layers,
        "predictions": guesses,
        "logits": arrays.add(logits),
        "vocabulary": _words(tokenizer, guesses, layers),
        "adamw": adamw_step(model, ids[None], targets[None], *chosen),
        "arrays": arrays.stored,
    }


def _slopes(record, slopes, progress) -> dict[int, Slope]:
    """{place in the record's values: slope}"""
    wanted = [i for i, v in enumerate(record.values) if v.gradient is not None and (v.parameter or v.made_by)]
    found = {}
    for done, i in enumerate(wanted):
        progress(done, len(wanted))
        found[i] = slopes.at(record.values[i])
    return found


def _values(record, arrays, checked):
    """Each value with its gradient; where both come from, as places of operations."""
    found = []
    for i, value in enumerate(record.values):
        slope = checked.get(i)
        index = slope.index if slope else None
        entry = {
            "parameter": value.parameter,
            "made_by": None if value.made_by is None else value.made_by.index,
            "used_by": [[operation.index, which] for operation, which in value.used_by],
            "data": arrays.add(value.data, index),
            "gradient": None if value.gradient is None else arrays.add(value.gradient, index),
            "norm": None if value.gradient is None else _norm(value.gradient),
        }
        if slope:
            entry["slope"] = asdict(slope) | {"index": list(slope.index), "slope": slope.slope}
        found.append(entry)
    return found


def _operations(record, arrays, inside):
    places = {id(value): i for i, value in enumerate(record.values)}
    found = []
    for o in record.operations:
        entry: dict[str, Any] = {}
        shares = []  # stored apart only if the gradient is a sum of several: else it is the gradient itself
        for value, gradient in zip(o.inputs, o.gradients, strict=True):
            several = value is not None and gradient is not None and len(value.used_by) > 1
            shares.append(arrays.add(gradient) if several else None)
        if o.index in inside:
            entry["inside"] = {
                way: [[name, arrays.add(x, whole=x.shape[-1] <= MOST_TOKENS)] for name, x in parts.items()]
                for way, parts in inside[o.index].items()
            }
        found.append(entry | {
            "name": o.name, "path": o.path, "function": o.code.co_qualname, "order": o.order,
            "inputs": [None if v is None else places[id(v)] for v in o.inputs],
            "result": places[id(o.result)], "shares": shares,
        })  # fmt: skip
    return found


def _attentions(model, record) -> list[tuple[Operation, float, dict[str, np.ndarray]]]:
    """Of each block: the operation that attention is, its scale, and what is inside of it."""
    pairs = zip(model.h, record.find("", "causal_self_attention"), strict=True)
    return [(o, block.attn.scale, attention_heads(o, model.config.n_head, block.attn.scale)) for block, o in pairs]


def _inside(record, targets, attentions) -> dict[int, dict[str, dict[str, np.ndarray]]]:
    """{operation: {"forward": {name: matrix}, "backward": ...}} of those that are several in one."""
    last = record.operations[-1]
    P, dlogits = inside_of_loss(last, targets)
    found = {last.index: {"forward": {"probabilities, softmax(logits)": P}, "backward": {"dlogits": dlogits}}}
    for o, _, heads in attentions:
        found[o.index] = {
            "forward": {f"P of head {i + 1}": P for i, P in enumerate(heads["P"])},
            "backward": {f"dS of head {i + 1}": dS for i, dS in enumerate(heads["dS"])},
        }
    return found


def _functions(record):
    found = {}
    for o in record.operations:
        if o.code.co_qualname not in found:
            found[o.code.co_qualname] = describe(o)
    return found


def _pictures(attentions, arrays):
    found = []
    for o, scale, heads in attentions:
        shown = heads | {"S": np.where(np.isneginf(heads["S"]), 0, heads["S"])}  # the page leaves out what is hidden
        parts = {name: arrays.add(shown[name], whole=True) for name in ("q", "k", "v", "S", "P")}
        found.append({"operation": o.index, "scale": scale, **parts})
    return found


def _words(tokenizer, guesses, layers):
    """{id: text} of every token that is named in the predictions."""
    named = [row for guess in guesses for row in guess["top"]]
    named += [row for stage in layers for kind in ("top", "rose") for position in stage[kind] for row in position]
    ids = sorted({row[0] for row in named} | {guess["target"][0] for guess in guesses if guess["target"]})
    return {str(i): shown(tokenizer.token_bytes(i)) if i < tokenizer.vocab_size else f"<{i}>" for i in ids}


def _largest(record) -> tuple[str, tuple[int, ...]]:
    """The parameter of the first block's attention, and its element, with the largest gradient."""
    value: Value = next(v for v in record.values if v.parameter == "h.0.attn.c_attn.weight")
    place = np.abs(value.gradient).argmax()  # type: ignore[arg-type]
    return value.parameter, tuple(int(i) for i in np.unravel_index(place, value.data.shape))


def _norm(x):
    return float(np.sqrt(np.sum(np.square(x, dtype=np.float64))))
