"""Compile what a run needs before its first step, on all cores, rather than one kernel after the other as it is met.

Which kernels that are, and for which types, is not written down anywhere: a rehearsal finds out. A model of one layer
goes through a step and a sample while no kernel runs and each notes how it was called. It takes milliseconds. What it
overlooks is compiled when it is met.
"""

from contextlib import suppress
from dataclasses import replace

import numpy as np

from npgpt import kernels
from npgpt.config import GPTConfig
from npgpt.generation.cache import KeyValueCache
from npgpt.gpt import GPT
from npgpt.kernels.jit import compile_noted, noting
from npgpt.optim import AdamW
from npgpt.tensor import no_grad


def compile_for_training(config: GPTConfig, batch_size: int, context: int, prompt: int, stop=lambda: False) -> None:
    """Compile what steps need, and samples that begin with ``prompt`` tokens (0: none); ends early once ``stop()``."""

    def work(model):
        _step(model, batch_size, context)
        if prompt:
            _sample(model, prompt)

    _compile_what_is_met_by(work, config, stop)


def compile_for_sampling(config: GPTConfig, prompt: int) -> None:
    """Compile what continuing a text of ``prompt`` tokens needs."""
    _compile_what_is_met_by(lambda model: _sample(model, prompt), config)


def _compile_what_is_met_by(work, config, stop=lambda: False):
    if kernels.BACKEND != "numba":
        return
    small = replace(config, n_layer=1, vocab_size=min(config.vocab_size, 8192))
    # What kernels would have written is anything, so NumPy may warn of it, and what checks it may refuse it.
    with noting() as notes, np.errstate(all="ignore"), suppress(Exception):
        work(GPT(small))
    compile_noted(notes, stop)


def _step(model, batch_size, context):
    ids = np.zeros((min(batch_size, 2), context), np.int64)
    parameters = dict(model.train().named_parameters())
    model.loss(ids, ids).backward()
    gradients = [p.grad for p in parameters.values()]
    kernels.sum_of_squares(gradients)  # clip_grad_norm would look at the norm, which is anything here
    kernels.scale(gradients, 1.0)
    AdamW(parameters.items()).step()


@no_grad()
def _sample(model, prompt):
    model.eval()
    cache = KeyValueCache(model.config, 1)
    for T in (prompt, 1):
        model.hidden_states(np.zeros((1, T), np.int64), cache=cache)[:, -1] @ model.lm_head_weight.T
