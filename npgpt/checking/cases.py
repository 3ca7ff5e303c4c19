"""The cases of ``python -m npgpt.gradcheck``: every option of every operation, and of a small GPT.

A row of OPERATIONS is an operation's name, the option tested, the function of its inputs, and their shapes. The values
are 0.5 to 2 with either sign, so none is near a kink or a pole; in a case named "positive" all are above zero.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from npgpt import ops
from npgpt.config import GPTConfig
from npgpt.gpt import GPT
from npgpt.tensor import Tensor


@dataclass(frozen=True)
class Case:
    """One row of the printed table. f takes the inputs by position; their names are for the report."""

    operation: str
    option: str
    f: Callable[..., Tensor]
    inputs: dict[str, np.ndarray | Tensor]


_rng = np.random.default_rng(0)
CONSTANT = _rng.uniform(0.5, 2, (2, 3))
IDS = np.array([[1, 4, 4], [0, 2, 1]])  # below 6, some of them twice
TARGETS = np.array([[2, 0, 4], [1, 1, 3]])  # below 5
SOME_TARGETS = np.array([[2, -100, 4], [-100, 1, 3]])
PADDING = np.array([[False, True, True, True], [True, True, False, True]])  # the first row begins with padding
MANY_IDS = _rng.integers(0, 50, (4, 40))
MANY_TARGETS = _rng.integers(0, 300, 70)
ATTENTION = partial(ops.causal_self_attention, n_head=2)
LORA = partial(ops.lora, scale=0.5)
HEAD = partial(ops.linear_cross_entropy, targets=TARGETS)

# "large" cases take several of the kernels' blocks and threads; small ones fit into a single block.
OPERATIONS = [
    # Operators and methods of Tensor (tensor.py)
    ("add", "", lambda a, b: a + b, {"a": (2, 3), "b": (2, 3)}),
    ("add", "broadcast", lambda a, b: a + b, {"a": (2, 1, 3), "b": (4, 1)}),
    ("radd", "", lambda a: CONSTANT + a, {"a": (2, 3)}),
    ("sub", "", lambda a, b: a - b, {"a": (2, 3), "b": (2, 3)}),
    ("sub", "broadcast", lambda a, b: a - b, {"a": (3,), "b": (2, 3)}),
    ("rsub", "", lambda a: CONSTANT - a, {"a": (2, 3)}),
    ("mul", "", lambda a, b: a * b, {"a": (2, 3), "b": (2, 3)}),
    ("mul", "broadcast", lambda a, b: a * b, {"a": (2, 3), "b": ()}),
    ("mul", "by itself", lambda a: a * a, {"a": (2, 3)}),
    ("rmul", "", lambda a: CONSTANT * a, {"a": (2, 3)}),
    ("truediv", "", lambda a, b: a / b, {"a": (2, 3), "b": (2, 3)}),
    ("truediv", "broadcast", lambda a, b: a / b, {"a": (3,), "b": (2, 1)}),
    ("rtruediv", "", lambda a: CONSTANT / a, {"a": (2, 3)}),
    ("pow", "3", lambda a: a**3, {"a": (2, 3)}),
    ("pow", "-1", lambda a: a**-1, {"a": (2, 3)}),
    ("pow", "0", lambda a: a**0, {"a": (2, 3)}),
    ("pow", "0.5, positive", lambda a: a**0.5, {"a": (2, 3)}),
    ("neg", "", lambda a: -a, {"a": (2, 3)}),
    ("exp", "", lambda a: a.exp(), {"a": (2, 3)}),
    ("log", "positive", lambda a: a.log(), {"a": (2, 3)}),
    ("matmul", "", lambda a, b: a @ b, {"a": (2, 3), "b": (3, 4)}),
    ("matmul", "a stack and a matrix", lambda a, b: a @ b, {"a": (2, 3, 4), "b": (4, 2)}),
    ("matmul", "broadcast stacks", lambda a, b: a @ b, {"a": (2, 1, 3, 4), "b": (3, 4, 2)}),
    ("matmul", "large", lambda a, b: a @ b, {"a": (70, 65), "b": (65, 130)}),
    ("rmatmul", "", lambda a: CONSTANT @ a, {"a": (3, 4)}),
    ("sum", "", lambda a: a.sum(), {"a": (2, 3)}),
    ("sum", "axis", lambda a: a.sum(axis=1), {"a": (2, 3, 4)}),
    ("sum", "axes, keepdims", lambda a: a.sum(axis=(0, -1), keepdims=True), {"a": (2, 3, 4)}),
    ("mean", "", lambda a: a.mean(), {"a": (2, 3)}),
    ("mean", "axis", lambda a: a.mean(axis=-1), {"a": (2, 3, 4)}),
    ("mean", "axis, keepdims", lambda a: a.mean(axis=0, keepdims=True), {"a": (2, 3, 4)}),
    ("reshape", "", lambda a: a.reshape(3, -1), {"a": (2, 3, 4)}),
    ("transpose", "", lambda a: a.transpose(), {"a": (2, 3, 4)}),
    ("transpose", "axes", lambda a: a.transpose(1, 2, 0), {"a": (2, 3, 4)}),
    ("T", "", lambda a: a.T, {"a": (2, 3)}),
    ("getitem", "an index and a slice", lambda a: a[1, ::2], {"a": (2, 3, 4)}),
    ("getitem", "indices, some twice", lambda a: a[IDS], {"a": (6, 2)}),
    ("getitem", "where true", lambda a: a[PADDING], {"a": (2, 4)}),
    # One operation a file (ops/)
    ("linear", "", ops.linear, {"x": (2, 3, 4), "weight": (4, 5), "bias": (5,)}),
    ("linear", "no bias", ops.linear, {"x": (2, 3, 4), "weight": (4, 5)}),
    ("linear", "large", ops.linear, {"x": (70, 65), "weight": (65, 130), "bias": (130,)}),
    ("lora", "", LORA, {"y": (2, 2, 5), "x": (2, 2, 4), "A": (4, 3), "B": (3, 5)}),
    ("lora", "dropout", partial(LORA, p=0.4, seed=7), {"y": (4, 5), "x": (4, 4), "A": (4, 1), "B": (1, 5)}),
    ("lora", "large", LORA, {"y": (70, 90), "x": (70, 80), "A": (80, 4), "B": (4, 90)}),
    ("relu", "", ops.relu, {"x": (3, 5)}),
    ("gelu", "", ops.gelu, {"x": (3, 5)}),
    ("gelu", "large", ops.gelu, {"x": (50, 101)}),
    ("gelu_tanh", "", ops.gelu_tanh, {"x": (3, 5)}),
    ("gelu_tanh", "large", ops.gelu_tanh, {"x": (50, 101)}),
    ("softmax", "", ops.softmax, {"x": (2, 3, 5)}),
    ("softmax", "large", ops.softmax, {"x": (70, 130)}),
    ("layernorm", "", ops.layernorm, {"x": (2, 3, 5), "weight": (5,), "bias": (5,)}),
    ("layernorm", "no bias", ops.layernorm, {"x": (2, 3, 5), "weight": (5,)}),
    ("layernorm", "eps 0.1", partial(ops.layernorm, eps=0.1), {"x": (4, 5), "weight": (5,), "bias": (5,)}),
    ("layernorm", "large", ops.layernorm, {"x": (70, 130), "weight": (130,), "bias": (130,)}),
    ("embedding", "", partial(ops.embedding, IDS), {"weight": (6, 4)}),
    ("embedding", "large", partial(ops.embedding, MANY_IDS), {"weight": (50, 65)}),
    ("dropout", "", partial(ops.dropout, p=0.4, seed=3), {"x": (5, 6)}),
    ("dropout", "p 0", partial(ops.dropout, p=0, seed=3), {"x": (5, 6)}),
    ("dropout", "large", partial(ops.dropout, p=0.1, seed=3), {"x": (70, 130)}),
    ("rotary", "", partial(ops.rotary, n_head=2), {"qkv": (2, 3, 12)}),
    ("rotary", "from position 5", partial(ops.rotary, n_head=1, first=5), {"qkv": (2, 3, 12)}),
    ("causal_self_attention", "", ATTENTION, {"qkv": (2, 4, 12)}),
    ("causal_self_attention", "scale", partial(ATTENTION, scale=0.3), {"qkv": (2, 4, 12)}),
    ("causal_self_attention", "padding", partial(ATTENTION, padding_mask=PADDING), {"qkv": (2, 4, 12)}),
    ("causal_self_attention", "dropout", partial(ATTENTION, dropout=0.3, seed=5), {"qkv": (2, 4, 12)}),
    ("causal_self_attention", "large", ATTENTION, {"qkv": (2, 70, 102)}),
    ("cross_entropy", "", partial(ops.cross_entropy, targets=TARGETS), {"logits": (2, 3, 5)}),
    ("cross_entropy", "some", partial(ops.cross_entropy, targets=SOME_TARGETS), {"logits": (2, 3, 5)}),
    ("cross_entropy", "no 1", partial(ops.cross_entropy, targets=TARGETS, ignore_index=1), {"logits": (2, 3, 5)}),
    ("cross_entropy", "large", partial(ops.cross_entropy, targets=MANY_TARGETS), {"logits": (70, 300)}),
    ("linear_cross_entropy", "", HEAD, {"x": (2, 3, 4), "weight": (5, 4)}),
    ("linear_cross_entropy", "some", partial(HEAD, targets=SOME_TARGETS), {"x": (2, 3, 4), "weight": (5, 4)}),
    ("linear_cross_entropy", "no 1", partial(HEAD, ignore_index=1), {"x": (2, 3, 4), "weight": (5, 4)}),
    ("linear_cross_entropy", "large", partial(HEAD, targets=MANY_TARGETS), {"x": (70, 65), "weight": (300, 65)}),
]

# A whole GPT: the option, the fields of GPTConfig that differ from TINY, and the function of the model.
TINY = {"vocab_size": 11, "block_size": 6, "n_layer": 2, "n_head": 2, "n_embd": 8}
GPT_IDS = _rng.integers(0, 11, (2, 6))
GPT_TARGETS = _rng.integers(0, 11, (2, 6))
GPT_SOME = np.where(np.arange(6) % 3 == 1, -100, GPT_TARGETS)
GPT_PADDING = np.arange(6) >= np.array([[2], [0]])  # (B, T): the first text begins with two tokens of padding


def _loss(model):
    return model.loss(GPT_IDS, GPT_TARGETS)


GPTS = [
    ("", {}, _loss),
    ("logits", {}, lambda model: model(GPT_IDS)),
    ("sinusoidal positions", {"position": "sinusoidal"}, _loss),
    ("rotary positions", {"position": "rotary"}, _loss),
    ("untied head", {"tie_weights": False}, _loss),
    ("no biases", {"bias": False}, _loss),
    ("qkv_bias only", {"bias": False, "qkv_bias": True}, _loss),
    ("exact gelu", {"activation": "gelu"}, _loss),
    ("relu", {"activation": "relu"}, _loss),
    ("n_inner", {"n_inner": 12}, _loss),
    ("layer_norm_epsilon", {"layer_norm_epsilon": 0.1}, _loss),
    ("scores by layer", {"scale_attn_by_inverse_layer_idx": True}, _loss),
    ("padding", {}, lambda model: model.loss(GPT_IDS, GPT_TARGETS, GPT_PADDING)),
    ("some targets", {}, lambda model: model.loss(GPT_IDS, GPT_SOME)),
    ("dropout", {"dropout": 0.2}, _loss),
]


def cases() -> list[Case]:
    """Make all rows of the table, with their values."""
    return [_operation(*row) for row in OPERATIONS] + [_gpt(*row) for row in GPTS]


def _operation(operation, option, f, shapes) -> Case:
    rng = np.random.default_rng(0)

    def values(shape):
        magnitude = rng.uniform(0.5, 2, shape)
        return magnitude if "positive" in option else magnitude * rng.choice([-1.0, 1.0], shape)

    return Case(operation, option, f, {name: values(shape) for name, shape in shapes.items()})


def _gpt(option, changes, compute) -> Case:
    """A GPT whose weights are far from where training begins: there, biases are 0 and attention nearly uniform."""
    model = GPT(GPTConfig(**{**TINY, **changes}), dtype=np.dtype(np.float64))
    model.train()
    rng = np.random.default_rng(0)
    for name, p in model.named_parameters():
        layernorm_weight = name.endswith("weight") and "ln_" in name
        p.data[...] = layernorm_weight + rng.standard_normal(p.shape) * (1 if name.startswith("w") else 0.3)
    state = model.get_rng_state()

    def f(*_):  # the parameters are the model's own
        model.set_rng_state(state)  # the same dropout every time
        return compute(model)

    return Case("gpt", option, f, dict(model.named_parameters()))
