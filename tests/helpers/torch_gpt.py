"""A GPT of the operations in torch_ops, with every option of GPTConfig. It shares no code with npgpt."""

import math

import torch

from helpers import torch_ops

ACTIVATIONS = {"gelu_new": torch_ops.gelu_tanh, "gelu": torch_ops.gelu, "relu": torch_ops.relu}


def torch_logits(config, parameters, ids, padding_mask=None):
    """parameters {name: tensor}, ids (B, T), padding_mask (B, T) of bool, False for padding -> logits (B, T, V)"""

    def linear(x, name):
        y = x @ parameters[f"{name}.weight"]
        return y + parameters[f"{name}.bias"] if f"{name}.bias" in parameters else y

    def norm(x, name):
        weight, bias = parameters[f"{name}.weight"], parameters.get(f"{name}.bias")
        return torch_ops.layernorm(x, weight, bias, config.layer_norm_epsilon)

    T = ids.shape[1]
    x = parameters["wte.weight"][ids]
    if config.position == "learned":
        x = x + parameters["wpe.weight"][:T]
    elif config.position == "sinusoidal":
        x = x + sinusoids(T, config.n_embd)
    for i in range(config.n_layer):
        qkv = linear(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn")
        if config.position == "rotary":
            qkv = torch_ops.rotary(qkv, config.n_head)
        scale = 1 / math.sqrt(config.n_embd // config.n_head) / (i + 1 if config.scale_attn_by_inverse_layer_idx else 1)
        y = torch_ops.causal_self_attention(qkv, config.n_head, scale, padding_mask)
        x = x + linear(y, f"h.{i}.attn.c_proj")
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
