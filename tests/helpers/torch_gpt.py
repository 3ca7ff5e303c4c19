"""GPT as PyTorch would have it, with every option of GPTConfig: slow, short, and sharing no line with npgpt."""

import math

import torch
from torch.nn import functional as F

ACTIVATIONS = {"gelu_new": lambda x: F.gelu(x, approximate="tanh"), "gelu": F.gelu, "relu": F.relu}


def torch_logits(config, parameters, ids, padding_mask=None):
    """parameters {name: tensor}, ids (B, T), padding_mask (B, T) of bool, False for padding -> logits (B, T, V)"""

    def linear(x, name):
        y = x @ parameters[f"{name}.weight"]
        return y + parameters[f"{name}.bias"] if f"{name}.bias" in parameters else y

    def norm(x, name):
        weight, bias = parameters[f"{name}.weight"], parameters.get(f"{name}.bias")
        return F.layer_norm(x, weight.shape, weight, bias, config.layer_norm_epsilon)

    T = ids.shape[1]
    visible = torch.ones(T, T, dtype=torch.bool).tril()[None, None]
    if padding_mask is not None:
        visible = visible & padding_mask[:, None, None, :]

    x = parameters["wte.weight"][ids]
    if config.position == "learned":
        x = x + parameters["wpe.weight"][:T]
    elif config.position == "sinusoidal":
        x = x + sinusoids(T, config.n_embd)
    for i in range(config.n_layer):
        q, k, v = (
            z.unflatten(-1, (config.n_head, -1)).transpose(1, 2)  # (B, H, T, D)
            for z in linear(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn").chunk(3, dim=-1)
        )
        if config.position == "rotary":
            q, k = turned(q), turned(k)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if config.scale_attn_by_inverse_layer_idx:
            scores = scores / (i + 1)
        weights = scores.masked_fill(~visible, -1e30).softmax(-1)  # exp(-1e300) = 0, and a blind row is no NaN
        weights = torch.where(visible.any(-1, keepdim=True), weights, 0)  # where there is nothing to see, take nothing
        x = x + linear((weights @ v).transpose(1, 2).flatten(2), f"h.{i}.attn.c_proj")
        inner = ACTIVATIONS[config.activation](linear(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc"))
        x = x + linear(inner, f"h.{i}.mlp.c_proj")
    head = parameters["wte.weight" if config.tie_weights else "lm_head.weight"]
    return norm(x, "ln_f") @ head.T


def sinusoids(T, C):
    """(T, C) as in Vaswani et al. 2017, section 3.5: PE(t, 2i) = sin(t / 10000^(2i/C)), PE(t, 2i + 1) = cos(same)"""
    table = torch.zeros(T, C, dtype=torch.float64)
    for t in range(T):
        for c in range(C):
            angle = t / 10000 ** ((c // 2 * 2) / C)
            table[t, c] = math.cos(angle) if c % 2 else math.sin(angle)
    return table


def turned(x):
    """(B, H, T, D): numbers j and j + D/2 are the parts of a complex one, multiplied by e^(i t / 10000^(2j/D))."""
    T, D = x.shape[-2:]
    angles = torch.arange(T, dtype=torch.float64)[:, None] / 10000 ** (torch.arange(0, D, 2, dtype=torch.float64) / D)
    z = torch.complex(*x.chunk(2, dim=-1)) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([z.real, z.imag], dim=-1)
