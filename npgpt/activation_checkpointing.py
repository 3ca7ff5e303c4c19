"""Activation checkpointing: drop what a module computed inside, and compute it again in the backward pass."""

from typing import Any

import numpy as np

from npgpt.autograd import backpropagate
from npgpt.layers import Module
from npgpt.tensor import Tensor, enable_grad, no_grad


def checkpointed(module: Module, rng: np.random.Generator, x: Tensor, *others: Any) -> Tensor:
    """module(x, *others), of which only x is kept for the backward pass.

    Forward     y = module(x), and nothing is recorded
    Backward    y = module(x) once more, recorded this time, and back through that record

    If each block is run so, a training step holds the inputs of all blocks and the activations of one. Each block's
    forward pass is made twice: a third more work, as a backward pass is two forwards' worth. All results stay the same,
    bit for bit.

    rng         the generator of the module's dropouts, which draw the same seeds the second time
    others      further arguments of the module, which get no gradients

    Source: Chen et al. 2016. Raises RuntimeError if train() or eval() switches the module before the backward pass.
    """
    parameters = module.parameters()
    data, training, state = x.data, module.training, rng.bit_generator.state
    with no_grad():
        y = module(x, *others)

    def backward(dy, needs):
        if module.training != training:
            raise RuntimeError("train() or eval() came between the forward pass and the backward pass that repeats it")
        again, state_now = Tensor(data, needs[0]), rng.bit_generator.state
        try:
            rng.bit_generator.state = state
            with enable_grad():
                y = module(again, *others)
        finally:
            rng.bit_generator.state = state_now
        gradients = dict(backpropagate(y, dy))
        return [gradients.get(leaf) for leaf in (again, *parameters)]

    return Tensor.from_op(y.data, (x, *parameters), backward)
