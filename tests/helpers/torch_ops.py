"""Each of npgpt.ops in torch, by the same name and with the same arguments: torch's own operation, or its definition.

They share nothing with npgpt but dropout's masks, which no other library draws in the same way.
"""

import math

import numpy as np
import torch
from torch.nn import functional as F

from npgpt.kernels.dropout import keep_mask_numpy


def linear(x, weight, bias=None):
    return F.linear(x, weight.T, bias)


def lora(y, x, A, B, scale, p=0.0, seed=0):
    if p:
        x = dropout(x, p, seed)
    return y + F.linear(F.linear(x, A.T), B.T) * scale


def gelu(x):
    return F.gelu(x)


def gelu_tanh(x):
    return F.gelu(x, approximate="tanh")


def relu(x):
    return F.relu(x)


def softmax(x):
    return F.softmax(x, dim=-1)


def layernorm(x, weight, bias=None, eps=1e-5):
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def embedding(weight, ids):
    return F.embedding(torch.tensor(np.asarray(ids, np.int64)), weight)


def dropout(x, p, seed):
    return x * torch.tensor(keep_mask_numpy(tuple(x.shape), p, seed)) / (1 - p)


def cross_entropy(logits, targets, ignore_index=-100):
    targets = torch.tensor(np.asarray(targets, np.int64).reshape(-1))
    return F.cross_entropy(logits.reshape(len(targets), logits.shape[-1]), targets, ignore_index=ignore_index)


def linear_cross_entropy(x, weight, targets, ignore_index=-100):
    return cross_entropy(F.linear(x, weight), targets, ignore_index)


def causal_self_attention(qkv, n_head, scale=None, padding_mask=None, dropout=0.0, seed=0):
    B, T, C3 = qkv.shape
    q, k, v = (x.reshape(B, T, n_head, C3 // 3 // n_head).transpose(1, 2) for x in qkv.chunk(3, dim=-1))
    visible = torch.ones(T, T, dtype=torch.bool).tril().expand(B, n_head, T, T)
    if padding_mask is not None:
        visible = visible & torch.as_tensor(padding_mask)[:, None, None, :]
    blind = ~visible.any(dim=-1, keepdim=True)
    scores = q @ k.transpose(-1, -2) * (scale if scale is not None else 1 / math.sqrt(q.shape[-1]))
    # The softmax of a row of -inf is NaN, and so is its gradient. So a row that sees nothing is masked afterwards.
    weights = scores.masked_fill(~visible & ~blind, -math.inf).softmax(dim=-1).masked_fill(blind, 0)
    weights = weights * torch.tensor(keep_mask_numpy((B, n_head, T, T), dropout, seed)) / (1 - dropout)
    return (weights @ v).transpose(1, 2).reshape(B, T, C3 // 3)


def rotary(qkv, n_head, first=0):
    """Each pair as a complex number, times exp(i theta)."""
    B, T, C3 = qkv.shape
    D = C3 // 3 // n_head
    x = qkv.reshape(B, T, 3, n_head, 2, D // 2)
    positions = torch.arange(first, first + T, dtype=torch.float64)
    theta = positions[:, None] * 10000.0 ** (-torch.arange(0, D, 2, dtype=torch.float64) / D)
    turn = torch.polar(torch.ones_like(theta), theta).to(qkv.dtype.to_complex())
    turned = torch.complex(x[:, :, :2, :, 0], x[:, :, :2, :, 1]) * turn[:, None, None, :]
    turned = torch.stack([turned.real, turned.imag], dim=-2)
    return torch.cat([turned, x[:, :, 2:]], dim=2).reshape(B, T, C3)
