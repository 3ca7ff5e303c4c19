"""One new token of each of R texts through all layers of a model: the step that makes text, as one kernel.

    for each layer      x += attention(layernorm(x)) W + b, over the cached keys and values and the new ones
                        x += activation(layernorm(x) W + b) W + b
    logits = layernorm(x) W

It is GPT.hidden_states for one position, written out, because what costs nothing there costs much here: a layer's
work for one token takes some tens of microseconds, and each call of a kernel and each Tensor takes several.
"""

import numba
import numpy as np
from numba import prange

from npgpt.kernels.bfloat16 import bf16_to_f32, f32_to_bf16
from npgpt.kernels.cached_attention import attend, store, turn
from npgpt.kernels.decode_weights import DecodeWeights
from npgpt.kernels.gelu import gelu_forward_numpy, gelu_tanh, gelu_tanh_forward_numpy
from npgpt.kernels.jit import jit, parallel_jit
from npgpt.kernels.layernorm import forward_row, layernorm_forward_numpy
from npgpt.kernels.machine.addresses import array_at
from npgpt.kernels.machine.barrier import meet, wait
from npgpt.kernels.normal_cdf import normal_cdf
from npgpt.kernels.packed import PANEL
from npgpt.kernels.packed_product import multiply_panels, packed_matmul_numpy

ACTIVATIONS = ("gelu_new", "gelu", "relu")
_WORTH_THREADS = 1 << 18  # bytes of weights
MOST_MISSES = 3  # in a row, until the threading layer is taken to run threads one after the other
STEPS_ALONE = 1000  # that one thread makes then, until several are tried again
_misses = _alone = 0


def decode_step_numpy(
    weights: DecodeWeights, x: np.ndarray, keys: np.ndarray, values: np.ndarray, rows: np.ndarray, lengths: np.ndarray,
    angles: tuple[np.ndarray, np.ndarray] | None = None
) -> np.ndarray:  # fmt: skip
    """x (R, C), the embedded new tokens -> logits (R, V); writes the new keys and values into the cache.

    keys, values    (layers, all rows, H, S, D), of float32, or of uint16: bfloat16
    rows, lengths   (R,) each: text r is in row rows[r] of the cache, which holds lengths[r] positions before this one
    angles          rotary positions: cos and sin (R, D / 2) of the new ones; None: there are none
    """
    R, C = x.shape
    H, D = weights.n_head, C // weights.n_head
    stored, loaded = (f32_to_bf16, bf16_to_f32) if keys.dtype == np.uint16 else (np.asarray, np.asarray)
    activation = {"gelu_new": gelu_tanh_forward_numpy, "gelu": gelu_forward_numpy, "relu": lambda x: np.maximum(x, 0)}

    def norm(x, ln):
        return layernorm_forward_numpy(x, ln.weight, ln.bias, weights.epsilon)[0]

    def linear(x, linear):
        return packed_matmul_numpy(x, linear.matrix, linear.bias)

    for i, layer in enumerate(weights.layers):
        q, k, v = linear(norm(x, layer.ln_1), layer.c_attn).reshape(R, 3, H, D).transpose(1, 0, 2, 3)
        if angles is not None:
            q, k = _turned(q, *angles), _turned(k, *angles)
        mixed = np.empty((R, H, D), x.dtype)
        for r in range(R):
            row, n = rows[r], lengths[r]
            keys[i, row, :, n], values[i, row, :, n] = stored(k[r]), stored(v[r])
            scores = layer.scale * (loaded(keys[i, row, :, : n + 1]) @ q[r, :, :, None])[..., 0]  # (H, n + 1)
            P = np.exp(scores - scores.max(axis=1, keepdims=True))
            P /= P.sum(axis=1, keepdims=True)
            mixed[r] = (P[:, None, :] @ loaded(values[i, row, :, : n + 1]))[:, 0]
        x = x + linear(mixed.reshape(R, C), layer.c_proj)
        x = x + linear(activation[weights.activation](linear(norm(x, layer.ln_2), layer.c_fc)), layer.mlp_c_proj)
    return packed_matmul_numpy(norm(x, weights.ln_f), weights.head)


def _turned(x, cos, sin):
    """ops/rotary.py says what this is; x (R, H, D), cos and sin (R, D / 2)."""
    half = x.shape[-1] // 2
    a, b, cos, sin = x[..., :half], x[..., half:], cos[:, None], sin[:, None]
    return np.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def decode_step_numba(
    weights: DecodeWeights, x: np.ndarray, keys: np.ndarray, values: np.ndarray, rows: np.ndarray, lengths: np.ndarray,
    angles: tuple[np.ndarray, np.ndarray] | None = None
) -> np.ndarray:  # fmt: skip
    """All threads go through all layers together and divide each product's columns, and the heads of all texts."""
    global _misses, _alone
    R, C = x.shape
    H, L = weights.n_head, len(weights.layers)
    _check(weights, x, keys, values, rows, lengths, angles)
    rows, lengths = np.ascontiguousarray(rows, np.int64), np.ascontiguousarray(lengths, np.int64)
    none = np.empty((R, 0), np.float32)
    cos, sin = (none, none) if angles is None else (np.ascontiguousarray(y, np.float32) for y in angles)
    inner = weights.layers[0].c_fc.matrix.N if L else 0
    logits = np.empty((R, weights.head.N), np.float32)

    def run(parts):
        buffers = [np.empty((R, n), np.float32) for n in (3 * C, C, inner, C)]
        barrier, ok = np.zeros(2, np.int64), np.ones(1, np.int64)
        _step(
            weights.addresses, np.array(x, np.float32, order="C"), *buffers, logits, keys, values, rows, lengths,
            cos, sin, weights.scales, np.float32(weights.epsilon), H, ACTIVATIONS.index(weights.activation), barrier,
            ok, parts, weights.head.tag, work=1 << 20 if parts > 1 else 0
        )  # fmt: skip
        return ok[0] == 1

    if R:
        parts = _parts(weights)
        if run(parts):
            _misses = 0 if parts > 1 else _misses
            _alone = max(_alone - 1, 0)
        else:  # the threads have not met, and nothing has been written
            run(1)
            _misses += 1
            if _misses == MOST_MISSES:
                _misses, _alone = 0, STEPS_ALONE
    return logits


def _parts(weights):
    return 1 if _alone or weights.nbytes < _WORTH_THREADS else numba.get_num_threads()


def _check(weights, x, keys, values, rows, lengths, angles):
    """Compiled code checks no bounds."""
    R, C = x.shape
    L, texts, H, S, D = keys.shape
    if keys.shape != values.shape or (len(weights.layers), weights.n_head, C) != (L, H, H * D):
        raise ValueError(f"keys {keys.shape} and values {values.shape} are not of this model")
    if keys.dtype != values.dtype or keys.dtype not in (np.float32, np.uint16):
        raise TypeError(f"keys and values must be float32 or uint16, not {keys.dtype} and {values.dtype}")
    if not (keys.flags.c_contiguous and values.flags.c_contiguous):
        raise ValueError("keys and values must be contiguous")
    if angles is not None and any(y.shape != (R, D // 2) for y in angles):
        raise ValueError(f"angles must be two arrays of {(R, D // 2)}, not {[y.shape for y in angles]}")
    rows, lengths = np.asarray(rows), np.asarray(lengths)
    if rows.shape != (R,) or lengths.shape != (R,) or len(set(rows.tolist())) < R:
        raise ValueError(f"{R} texts need as many different rows and lengths, not {rows} and {lengths}")
    if R and not (rows.min() >= 0 and rows.max() < texts and lengths.min() >= 0 and lengths.max() < S):
        raise ValueError(f"rows {rows} and lengths {lengths} are not in a cache of {texts} rows and {S} positions")


@parallel_jit
def _step(
    addresses, x, qkv, mixed, inner, delta, logits, keys, values, rows, lengths, cos, sin, scales, epsilon, H,
    activation, barrier, ok, parts, tag
):  # fmt: skip
    for part in prange(parts):
        if parts == 1 or meet(barrier, parts):
            _one_thread(
                addresses, x, qkv, mixed, inner, delta, logits, keys, values, rows, lengths, cos, sin, scales, epsilon,
                H, activation, barrier, np.int64(part), parts, tag
            )  # fmt: skip
        else:
            ok[0] = 0


@jit
def _one_thread(
    addresses, x, qkv, mixed, inner, delta, logits, keys, values, rows, lengths, cos, sin, scales, epsilon, H,
    activation, barrier, part, parts, tag
):  # fmt: skip
    R, C = x.shape
    D = C // H
    normed, scores = np.empty((R, C), np.float32), np.empty(keys.shape[3], np.float32)
    first, last = R * H * part // parts, R * H * (part + 1) // parts
    for layer in range(keys.shape[0]):
        at = addresses[layer]  # of ln_1 0 1, c_attn 2 3 4, c_proj 5 6 7, ln_2 8 9, c_fc 10 11 12, c_proj 13 14 15
        _layernorm(x, at[0], at[1], epsilon, normed)
        _linear_part(normed, at[2], at[3], at[4], qkv, part, parts, tag)
        wait(barrier, parts)
        for i in range(first, last):
            r, h = i // H, i % H
            row, n = rows[r], lengths[r]
            q, k = qkv[r, h * D : h * D + D], qkv[r, C + h * D : C + h * D + D]
            if cos.shape[1]:
                turn(q, cos[r], sin[r])
                turn(k, cos[r], sin[r])
            head_keys, head_values = keys[layer, row, h], values[layer, row, h]
            store(k, head_keys[n])
            store(qkv[r, 2 * C + h * D : 2 * C + h * D + D], head_values[n])
            attend(q, head_keys, head_values, n + 1, scales[layer], scores, mixed[r, h * D : h * D + D])
        wait(barrier, parts)
        _add_linear_part(mixed, at[5], at[6], at[7], delta, x, part, parts, tag)
        wait(barrier, parts)
        _layernorm(x, at[8], at[9], epsilon, normed)
        begin, end = _linear_part(normed, at[10], at[11], at[12], inner, part, parts, tag)
        for r in range(R):
            _activate(inner[r, begin:end], activation)
        wait(barrier, parts)
        _add_linear_part(inner, at[13], at[14], at[15], delta, x, part, parts, tag)
        wait(barrier, parts)
    at = addresses[keys.shape[0]]
    _layernorm(x, at[0], at[1], epsilon, normed)
    _linear_part(normed, at[2], at[3], at[4], logits, part, parts, tag)


@jit
def _layernorm(x, weight, bias, epsilon, y):
    C = x.shape[1]
    for r in range(x.shape[0]):
        forward_row(x[r], array_at(weight, C, np.float32(0)), array_at(bias, C, np.float32(0)), epsilon, y[r])


@jit
def _linear_part(x, weights, scales, bias, y, part, parts, tag):
    """This thread's columns of y = x W + bias. -> the first of them, and the end"""
    N = y.shape[1]
    panels = (N + PANEL - 1) // PANEL
    first, last = panels * part // parts, panels * (part + 1) // parts
    multiply_panels(x, weights, scales, bias, y, first, last, tag)
    return min(N, first * PANEL), min(N, last * PANEL)


@jit
def _add_linear_part(x, weights, scales, bias, delta, stream, part, parts, tag):
    """This thread's columns of stream += x W + bias; ``delta`` is room for the product."""
    begin, end = _linear_part(x, weights, scales, bias, delta, part, parts, tag)
    for r in range(x.shape[0]):
        change, out = delta[r, begin:end], stream[r, begin:end]
        for c in range(out.size):
            out[c] += change[c]


@jit
def _activate(x, activation):
    if activation == 0:
        for i in range(x.size):
            x[i] = gelu_tanh(x[i])
    elif activation == 1:
        for i in range(x.size):
            x[i] = x[i] * normal_cdf(x[i])
    else:
        for i in range(x.size):
            x[i] = max(x[i], np.float32(0))
