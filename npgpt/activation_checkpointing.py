"""Less memory for one more forward pass: what a part of the model computed is forgotten, and computed again."""

import numpy as np

from npgpt.layers import Module
from npgpt.tensor import Tensor, enable_grad, no_grad, walk_back


def recompute(module: Module, rng: np.random.Generator, x: Tensor, *others) -> Tensor:
    """module(x, *others), of which only x is kept for the backward pass.

    Forward     y = module(x), and nothing is recorded
    Backward    y = module(x) once more, recorded this time, and back through that record

    With every block done so, a training step holds the inputs of all blocks and the insides of one, instead of the
    insides of all. Each block's forward pass is made twice: a third more work for the blocks, as a backward pass is two
    forwards' worth, and none for the vocabulary head and the optimizer. All results stay the same, bit for bit.

    rng         what the module's dropouts draw their seeds from. The second time they draw the same ones, and then it
                is left as it was found
    others      what the module takes besides, for which there are no gradients

    Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost". Raises RuntimeError if the module is
    switched between train() and eval() before the backward pass.
    """
    parameters = list(dict.fromkeys(p for _, p in module.named_parameters()))
    data, wanted, training, state = x.data, x.requires_grad, module.training, rng.bit_generator.state
    with no_grad():
        y = module(x, *others)

    def backward(dy):
        if module.training != training:
            raise RuntimeError("train() or eval() came between the forward pass and the backward pass that repeats it")
        again, state_now = Tensor(data, wanted), rng.bit_generator.state
        try:
            rng.bit_generator.state = state
            with enable_grad():
                y = module(again, *others)
        finally:
            rng.bit_generator.state = state_now
        gradients = dict(walk_back(y, dy))
        return [gradients.get(leaf) for leaf in (again, *parameters)]

    return Tensor.from_op(y.data, (x, *parameters), backward)
