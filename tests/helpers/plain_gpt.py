"""A GPT in NumPy, written for reading: one head at a time, and no code in common with npgpt but its dropout masks."""

import math

import numpy as np

from npgpt.kernels.dropout import keep_mask_numpy


def plain_logits(arrays, config, ids, padding_mask=None, past=None, rng=None):
    """{name: array}, ids (B, T) -> logits (B, T, V) in float64

    padding_mask    (B, S) of bool, where S counts the earlier positions too
    past            a list for each layer of (k, v) (B, earlier positions, C) pairs, which is added to
    rng             the generator of dropout's seeds; None: no dropout
    """
    arrays = {name: array.astype(np.float64) for name, array in arrays.items()}
    past = [[] for _ in range(config.n_layer)] if past is None else past
    first = sum(k.shape[1] for k, _ in past[0])
    (B, T), C = ids.shape, config.n_embd
    positions = np.arange(first, first + T)
    mask = np.ones((B, first + T), bool) if padding_mask is None else padding_mask

    def drop(x):
        if rng is None or not config.dropout:
            return x
        seed = int(rng.integers(2**64, dtype=np.uint64))
        return x * keep_mask_numpy(x.shape, config.dropout, seed) / (1 - config.dropout)

    def linear(x, name):
        return x @ arrays[f"{name}.weight"] + arrays[f"{name}.bias"]

    def norm(x, name):
        xhat = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + config.layer_norm_epsilon)
        return xhat * arrays[f"{name}.weight"] + arrays[f"{name}.bias"]

    def turn(x, D):
        """Each pair (x_j, x_(j + D/2)) of a head as a complex number, times exp(i position / 10000^(2j / D))."""
        heads = x.reshape(B, T, -1, 2, D // 2)
        theta = positions[:, None] * 10000.0 ** (-2 * np.arange(D // 2) / D)
        turned = (heads[..., 0, :] + 1j * heads[..., 1, :]) * np.exp(1j * theta)[:, None, :]
        return np.stack([turned.real, turned.imag], axis=-2).reshape(B, T, C)

    def attention(x, i):
        D = config.head_size
        q, k, v = np.split(linear(x, f"h.{i}.attn.c_attn"), 3, axis=-1)
        if config.position == "rotary":
            q, k = turn(q, D), turn(k, D)
        past[i].append((k, v))
        k, v = (np.concatenate(parts, axis=1) for parts in zip(*past[i], strict=True))
        hidden = ~mask[:, None, :] | (np.arange(first + T) > positions[:, None])  # (B, T, S)
        weights = np.zeros((B, config.n_head, *hidden.shape[1:]))
        for h in range(config.n_head):
            head = slice(h * D, (h + 1) * D)
            scores = q[..., head] @ k[..., head].swapaxes(1, 2) / math.sqrt(D)
            if config.scale_attn_by_inverse_layer_idx:
                scores /= i + 1
            weights[:, h] = np.exp(np.where(hidden, -np.inf, scores - scores.max(-1, keepdims=True)))
        weights = drop(weights / np.maximum(weights.sum(-1, keepdims=True), 1e-300))
        y = [weights[:, h] @ v[..., h * D : (h + 1) * D] for h in range(config.n_head)]
        return drop(linear(np.concatenate(y, axis=-1), f"h.{i}.attn.c_proj"))

    x = arrays["wte.weight"][ids]
    if config.position == "learned":
        x = x + arrays["wpe.weight"][positions]
    elif config.position == "sinusoidal":
        angles = positions[:, None] / 10000.0 ** (2 * np.arange(C // 2) / C)
        x = x + np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(T, C)
    x = drop(x)
    for i in range(config.n_layer):
        x = x + attention(norm(x, f"h.{i}.ln_1"), i)
        inner = linear(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc")
        inner = inner * (1 + np.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3))) / 2
        x = x + drop(linear(inner, f"h.{i}.mlp.c_proj"))
    return norm(x, "ln_f") @ arrays["wte.weight"].T


def plain_loss(logits, targets) -> float:
    """The mean cross-entropy of logits (B, T, V) and targets (B, T)."""
    largest = logits.max(-1, keepdims=True)
    log_sums = np.log(np.exp(logits - largest).sum(-1)) + largest[..., 0]
    return float((log_sums - np.take_along_axis(logits, targets[..., None], -1)[..., 0]).mean())
