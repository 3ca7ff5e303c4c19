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

    If each block is run so, a training step holds the inputs of all blocks and the activations of one, instead of the
    activations of all. Each block's forward pass is made twice: a third more work for the blocks, as a backward pass is
    two forwards' worth, and none for the vocabulary head and the optimizer. All results stay the same, bit for bit.

    rng         the generator that the module's dropouts draw their seeds from. The second time they draw the same ones,
                and then the generator continues from where it was
    others      further arguments of the module, which get no gradients

    Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost". Raises RuntimeError if the module is
    switched between train() and eval() before the backward pass.
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
