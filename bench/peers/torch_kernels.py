"""python -m bench.peers.torch_kernels JOB : the same kernels in torch. Backward passes go through its autograd."""

from functools import partial

import torch
from torch.nn import functional as F

from bench.kernel_timing import time_kernels

aten = torch.ops.aten


def tensors(*arrays):
    return [torch.from_numpy(x) for x in arrays]


def forward(function):
    """A function of tensors, which gives one."""
    return lambda *arguments: (function(*arguments).numpy(),)


def backward(function):
    """dy, then the inputs -> the inputs' gradients. The graph is made at the first call and kept for the others."""
    kept = []

    def gradients(dy, *inputs):
        if not kept:
            leaves = [x.requires_grad_() for x in inputs if x.is_floating_point()]
            kept.append((function(*inputs), leaves))
        y, leaves = kept[0]
        return [x.numpy() for x in torch.autograd.grad(y, leaves, dy, retain_graph=True)]

    return gradients


def attention(q, k, v):
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


def adamw(p, g, m, v, lr, beta1, beta2, eps, decays, t):
    (weight_decay,) = decays
    parameter = torch.nn.Parameter(p)
    parameter.grad = g
    optimizer = torch.optim.AdamW([parameter], lr, (beta1, beta2), eps, weight_decay, fused=True)
    optimizer.state[parameter] = {"step": torch.tensor(t - 1.0), "exp_avg": m, "exp_avg_sq": v}

    def step():
        optimizer.step()
        return parameter.detach().numpy(), m.numpy(), v.numpy()

    return step


MATMUL = forward(lambda a, b, bias=None: a @ b if bias is None else torch.addmm(bias, a, b))
LOSSES = partial(F.cross_entropy, reduction="none")
TANH = partial(F.gelu, approximate="tanh")


def layer_norm(x, weight, bias):
    return F.layer_norm(x, weight.shape, weight, bias)


# {kernel: (its work in torch, NumPy's arguments -> tensors)}. Dropout is left out: torch draws another mask.
KERNELS = {
    "matmul": (MATMUL, lambda *x: tensors(*(y for y in x if y is not None))),
    "attention_forward": (forward(attention), lambda q, k, v, scale: tensors(q, k, v)),
    "attention_backward": (backward(attention), lambda dy, q, k, v, *rest: tensors(dy, q, k, v)),
    "cross_entropy_forward": (forward(LOSSES), lambda x, targets, ignored: tensors(x, targets)),
    "cross_entropy_backward": (backward(LOSSES), lambda dlosses, x, targets, *rest: tensors(dlosses, x, targets)),
    "softmax_forward": (forward(lambda x: x.softmax(-1)), tensors),
    "softmax_backward": (forward(lambda dy, y: aten._softmax_backward_data(dy, y, -1, torch.float32)), tensors),
    "layernorm_forward": (forward(layer_norm), lambda x, weight, bias, eps: tensors(x, weight, bias)),
    "layernorm_backward": (backward(layer_norm), lambda dy, x, weight, *rest: tensors(dy, x, weight, 0 * weight)),
    "gelu_tanh_forward": (forward(TANH), tensors),
    "gelu_tanh_backward": (backward(TANH), tensors),
    "gelu_forward": (forward(F.gelu), tensors),
    "gelu_backward": (backward(F.gelu), tensors),
    "embedding_backward": (
        forward(lambda dy, ids, dweight: dweight.index_add_(0, ids, dy)),
        lambda dy, ids, dweight: tensors(dy, ids, dweight),
    ),
    "sum_rows": (forward(lambda x: x.sum(0)), tensors),
    "scale": (forward(lambda x, factor: x.mul_(factor)), lambda arrays, factor: (*tensors(*arrays), factor)),
    "sum_of_squares": (
        forward(lambda x: torch.linalg.vector_norm(x, dtype=torch.float64) ** 2),
        lambda arrays: tensors(*arrays),
    ),
    "adamw_step": (
        lambda step: step(),
        lambda *arguments: (adamw(*tensors(*(x for (x,) in arguments[:4])), *arguments[4:]),),
    ),
}


def call(name, case):
    if case.kernel not in KERNELS:
        return None
    function, convert = KERNELS[case.kernel]
    kept = []

    def converted(*arguments):
        if not kept:  # once, outside what is timed
            kept.append(convert(*arguments))
        return function(*kept[0])

    return converted


if __name__ == "__main__":
    time_kernels(call)
