"""Each operation's forward and backward pass as its docstring says them, in plain NumPy.

A row of DERIVATIONS quotes formulas from docstrings. Its functions are written from these formulas, with indices or
matrices as they stand there, and share nothing with npgpt but dropout's masks.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from npgpt import Tensor, ops
from npgpt.kernels import attention, embedding, gelu, softmax
from npgpt.kernels.dropout import keep_mask_numpy

IDS = np.array([1, 4, 4, 0, 4])
TARGETS = np.array([2, -100, 0, 4])
COUNTED = TARGETS != -100
EPS, P, SEED, SCALE = 0.1, 0.4, 3, 0.7
PADDING = np.array([[False, True, True, True]])
HIDDEN = ~(np.tril(np.ones((4, 4), bool)) & PADDING)  # everything is hidden from the first position

_erf = np.vectorize(math.erf, otypes=[np.float64])


def Phi(x):
    return (1 + _erf(x / math.sqrt(2))) / 2


def phi(x):
    return np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def u(x):
    return math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)


def s(x):
    return (1 + np.tanh(u(x))) / 2


def gelu_tanh_backward(dy, x):
    du_dx = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
    return (dy * (s(x) + x * 2 * s(x) * (1 - s(x)) * du_dx),)


def row_sum(x):
    return x.sum(axis=-1, keepdims=True)


def mean(x):
    return row_sum(x) / x.shape[-1]


def probabilities(x):
    return np.exp(x) / row_sum(np.exp(x))


def rstd(x, eps=EPS):
    return 1 / np.sqrt(mean((x - mean(x)) ** 2) + eps)


def xhat(x, eps=EPS):
    return (x - mean(x)) * rstd(x, eps)


def layernorm_backward(dy, x, weight, bias, eps=EPS):
    xh, dxhat = xhat(x, eps), dy * weight
    return rstd(x, eps) * (dxhat - mean(dxhat) - xh * mean(dxhat * xh)), (dy * xh).sum(axis=0), dy.sum(axis=0)


def factors(x):
    return keep_mask_numpy(x.shape, P, SEED) / (1 - P)


def lora_backward(dz, y, x, A, B):
    d = x * factors(x)
    u = np.einsum("ni,ir->nr", d, A)
    du = SCALE * np.einsum("no,ro->nr", dz, B)
    dB, dA = SCALE * np.einsum("nr,no->ro", u, dz), np.einsum("ni,nr->ir", d, du)
    return dz, np.einsum("nr,ir->ni", du, A) * factors(x), dA, dB


def mean_loss(x):
    losses = [np.log(np.exp(row).sum()) - row[t] for row, t in zip(x[COUNTED], TARGETS[COUNTED], strict=True)]
    return np.asarray(sum(losses) / len(losses))


def logits_gradient(dloss, x):
    is_target = np.arange(x.shape[1]) == TARGETS[:, None]
    return np.where(COUNTED[:, None], (dloss / COUNTED.sum()) * (probabilities(x) - is_target), 0)


def pairs(qkv):
    """One head of D = 4, in rows of 12 -> a, b, each (T, 2, 2): the pairs of the query, then those of the key; and t"""
    j, position = np.arange(2), np.arange(len(qkv))[:, None, None]
    heads = qkv[:, :8].reshape(-1, 2, 4)
    return heads[..., :2], heads[..., 2:], position / 10000 ** (2 * j / 4)


def unpaired(a, b, qkv):
    return np.concatenate([np.concatenate([a, b], axis=-1).reshape(-1, 8), qkv[:, 8:]], axis=1)


def rotary_forward(qkv):
    a, b, t = pairs(qkv)
    return unpaired(a * np.cos(t) - b * np.sin(t), a * np.sin(t) + b * np.cos(t), qkv)


def rotary_backward(dy, qkv):
    dr, ds, t = pairs(dy)
    return (unpaired(dr * np.cos(t) + ds * np.sin(t), -dr * np.sin(t) + ds * np.cos(t), dy),)


def attention_forward(qkv):
    _, _, v, P, M = attention_parts(qkv)
    return np.einsum("ij,ij,jc->ic", P, M, v)


def attention_parts(qkv):
    q, k, v = np.split(qkv, 3, axis=1)
    A = np.einsum("ic,jc->ij", q, k)
    e = np.where(HIDDEN, 0, np.exp(SCALE * A))
    z = row_sum(e)
    return q, k, v, e / np.where(z == 0, 1, z), factors(A)


def attention_backward(dy, qkv):
    q, k, v, P, M = attention_parts(qkv)
    dv = np.einsum("ij,ij,ic->jc", P, M, dy)
    dP = M * np.einsum("ic,jc->ij", dy, v)
    dS = P * (dP - np.einsum("il,il->i", dP, P)[:, None])
    dA = np.where(HIDDEN, 0, SCALE * dS)
    dq = np.einsum("ij,jc->ic", dA, k)
    dk = np.einsum("ij,ic->jc", dA, q)
    return (np.concatenate([dq, dk, dv], axis=1),)


class Derivation(NamedTuple):
    docs: tuple  # what has the docstrings
    formulas: tuple[str, ...]  # that are in each of them
    operation: Callable[..., Tensor]
    forward: Callable[..., Any]  # of the inputs' arrays
    backward: Callable[..., tuple]  # of dy and the inputs' arrays
    shapes: tuple[tuple[int, ...], ...]  # of the inputs


def operator(method, formula, forward, backward, *shapes):
    """A row for a function that takes tensors alone, and has one formula."""
    return Derivation((method,), (formula,), method, forward, backward, shapes)


DERIVATIONS = {
    "add": operator(Tensor.__add__, "da = dy, db = dy", np.add, lambda dy, a, b: (dy, dy), (3,), (3,)),
    "sub": operator(Tensor.__sub__, "da = dy, db = -dy", np.subtract, lambda dy, a, b: (dy, -dy), (3,), (3,)),
    "mul": operator(Tensor.__mul__, "da = dy b, db = dy a", np.multiply, lambda dy, a, b: (dy * b, dy * a), (3,), (3,)),
    "truediv": operator(
        Tensor.__truediv__, "db = -dy a / b^2", np.divide, lambda dy, a, b: (dy / b, -dy * a / b**2), (3,), (3,)
    ),
    "neg": operator(Tensor.__neg__, "dx = -dy", np.negative, lambda dy, x: (-dy,), (3,)),
    "exp": operator(Tensor.exp, "dx = dy exp(x)", np.exp, lambda dy, x: (dy * np.exp(x),), (3,)),
    "pow": Derivation(
        docs=(Tensor.__pow__,),
        formulas=("dx = dy n x^(n - 1)",),
        operation=lambda x: x**3,
        forward=lambda x: x**3,
        backward=lambda dy, x: (dy * 3 * x**2,),
        shapes=((3,),),
    ),
    "matmul": operator(
        Tensor.__matmul__,
        "da = dy b^T, db = a^T dy",
        np.matmul,
        lambda dy, a, b: (dy @ b.T, a.T @ dy),
        (2, 3),
        (3, 4),
    ),
    "linear": Derivation(
        docs=(ops.linear,),
        formulas=(
            "y_no = sum_i x_ni W_io + b_o",
            "dx_ni = sum_o dy_no W_io",
            "dW_io = sum_n dy_no x_ni",
            "db_o = sum_n dy_no",
        ),
        operation=ops.linear,
        forward=lambda x, W, b: np.einsum("ni,io->no", x, W) + b,
        backward=lambda dy, x, W, b: (
            np.einsum("no,io->ni", dy, W),
            np.einsum("no,ni->io", dy, x),
            np.einsum("no->o", dy),
        ),
        shapes=((3, 4), (4, 5), (5,)),
    ),
    "lora": Derivation(
        docs=(ops.lora,),
        formulas=(
            "dB_ro = s sum_n u_nr dz_no",
            "du_nr = s sum_o dz_no B_ro",
            "dA_ir = sum_n h_ni du_nr",
            "dh_ni = sum_r du_nr A_ir",
        ),
        operation=lambda y, x, A, B: ops.lora(y, x, A, B, SCALE, P, SEED),
        forward=lambda y, x, A, B: y + SCALE * np.einsum("ni,ir,ro->no", x * factors(x), A, B),
        backward=lora_backward,
        shapes=((3, 5), (3, 4), (4, 2), (2, 5)),
    ),
    "relu": operator(
        ops.relu, "dx = 0 where x <= 0, else dy", lambda x: x * (x > 0), lambda dy, x: (np.where(x <= 0, 0, dy),), (9,)
    ),
    "gelu": Derivation(
        docs=(ops.gelu, gelu),
        formulas=("dx = dy (Phi(x) + x phi(x))", "phi(x) = exp(-x^2 / 2) / sqrt(2 pi)"),
        operation=ops.gelu,
        forward=lambda x: x * Phi(x),
        backward=lambda dy, x: (dy * (Phi(x) + x * phi(x)),),
        shapes=((9,),),
    ),
    "gelu_tanh": Derivation(
        docs=(ops.gelu_tanh, gelu),
        formulas=("dy (s + x 2 s (1 - s) ∂u/∂x)", "∂u/∂x = sqrt(2 / pi) (1 + 3 * 0.044715 x^2)"),
        operation=ops.gelu_tanh,
        forward=lambda x: x * s(x),
        backward=gelu_tanh_backward,
        shapes=((9,),),
    ),
    "softmax": Derivation(
        docs=(ops.softmax, softmax),
        formulas=("y_k (dy_k - sum_j dy_j y_j)",),
        operation=ops.softmax,
        forward=probabilities,
        backward=lambda dy, x: (probabilities(x) * (dy - row_sum(dy * probabilities(x))),),
        shapes=((3, 5),),
    ),
    "layernorm": Derivation(
        docs=(ops.layernorm,),
        formulas=(
            "dxhat = dy * weight",
            "dx = rstd * (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat))",
            "dweight = sum over rows of dy * xhat",
            "dbias = sum over rows of dy",
        ),
        operation=lambda *inputs: ops.layernorm(*inputs, EPS),
        forward=lambda x, weight, bias: xhat(x) * weight + bias,
        backward=layernorm_backward,
        shapes=((3, 5), (5,), (5,)),
    ),
    "embedding": Derivation(
        docs=(ops.embedding, embedding),
        formulas=("dweight[v] = sum of dy_n over all n with ids_n = v",),
        operation=lambda weight: ops.embedding(IDS, weight),
        forward=lambda weight: weight[IDS],
        backward=lambda dy, weight: (np.array([dy[v == IDS].sum(axis=0) for v in range(len(weight))]),),
        shapes=((5, 3),),
    ),
    "dropout": Derivation(
        docs=(ops.dropout,),
        formulas=("y = x * keep / (1 - p)", "dx = dy * keep / (1 - p)"),
        operation=lambda x: ops.dropout(x, P, SEED),
        forward=lambda x: x * factors(x),
        backward=lambda dy, x: (dy * factors(dy),),
        shapes=((4, 5),),
    ),
    "rotary": Derivation(
        docs=(ops.rotary,),
        formulas=("da = dr cos t + ds sin t", "db = -dr sin t + ds cos t"),
        operation=lambda qkv: ops.rotary(qkv.reshape(1, 5, 12), n_head=1)[0],
        forward=rotary_forward,
        backward=rotary_backward,
        shapes=((5, 12),),
    ),
    "causal_self_attention": Derivation(
        docs=(ops.causal_self_attention, attention),
        formulas=(
            "dv = (P * M)^T dy",
            "dP = (dy v^T) * M",
            "dS = P * (dP - rowsum(dP * P))",
            "dA = scale dS",
            "dq = dA k",
            "dk = dA^T q",
        ),
        operation=lambda qkv: ops.causal_self_attention(qkv.reshape(1, 4, 9), 1, SCALE, PADDING, P, SEED)[0],
        forward=attention_forward,
        backward=attention_backward,
        shapes=((4, 9),),
    ),
    "cross_entropy": Derivation(
        docs=(ops.cross_entropy,),
        formulas=("dx_ij = (dloss / n) (softmax(x_i)_j - 1[j = t_i])",),
        operation=lambda logits: ops.cross_entropy(logits, TARGETS),
        forward=mean_loss,
        backward=lambda dloss, x: (logits_gradient(dloss, x),),
        shapes=((4, 5),),
    ),
    "linear_cross_entropy": Derivation(
        docs=(ops.linear_cross_entropy,),
        formulas=("dlogits = (dloss / n) (softmax(logits) - onehot(targets))", "dx = dlogits W, dW = dlogits^T x"),
        operation=lambda x, W: ops.linear_cross_entropy(x, W, TARGETS),
        forward=lambda x, W: mean_loss(x @ W.T),
        backward=lambda dloss, x, W: (logits_gradient(dloss, x @ W.T) @ W, logits_gradient(dloss, x @ W.T).T @ x),
        shapes=((4, 3), (5, 3)),
    ),
}
