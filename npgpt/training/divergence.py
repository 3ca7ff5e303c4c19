"""Why a run gives no finite numbers any more, as far as its gradients and weights tell."""

import numpy as np

from npgpt.gpt import GPT

LARGE = 1e3  # a hundred times the largest weight of GPT-2


def which_gradient(model: GPT) -> str:
    """The first parameter whose gradient is not finite, as the end of a sentence about the gradient's norm.

    >>> from npgpt.config import GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=2))
    >>> model.ln_f.weight.grad = np.array([1.0, np.inf], np.float32)
    >>> which_gradient(model)
    ', first of all that of ln_f.weight'
    """
    gradients = ((name, p.grad) for name, p in model.named_parameters() if p.grad is not None)
    return next((f", first of all that of {name}" for name, grad in gradients if not np.isfinite(grad).all()), "")


def likely_cause(model: GPT) -> str:
    """What the weights tell about a loss or gradient that is not finite.

    >>> from npgpt.config import GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=2))
    >>> model.ln_f.weight.data[0] = 1e20
    >>> likely_cause(model)
    'Weights have grown too large (ln_f.weight has 1e+20): the learning rate is too high.'
    """
    largest, where = 0.0, ""
    for name, p in model.named_parameters():
        size = float(np.abs(p.data).max(initial=0.0))
        if not np.isfinite(size):
            return f"The weight {name} is not finite: an update went beyond float32."
        if size > largest:
            largest, where = size, name
    if largest > LARGE:
        return f"Weights have grown too large ({where} has {largest:.3g}): the learning rate is too high."
    return f"The weights are small (at most {largest:.3g}, in {where}): activations or gradients went beyond float32."
