"""Training by the clock: how many steps end in time, and which model is worth training for so long."""

import time
from collections.abc import Callable, Iterator

import numpy as np

from npgpt import kernels
from npgpt.config import PRESETS, GPTConfig
from npgpt.errors import ConfigError
from npgpt.gpt import GPT, parameter_count
from npgpt.ops.linear_cross_entropy import ROWS
from npgpt.precompile import layer_products
from npgpt.training.memory import available_bytes, model_bytes, process_bytes
from npgpt.training.pace import Pace
from npgpt.training.plan import Plan
from npgpt.training.settings import TrainSettings

MARGIN = 0.08  # of the time left: a run is up to so much slower than its rehearsal
TOKENS_PER_PARAMETER = 20
NOT_PRODUCTS = 1.5  # a step takes so many times its matrix products


def choose_steps(plan_of: Callable[[int], Plan], pace: Pace, seconds: float) -> int:
    """The most steps whose plan ends within ``seconds``, with a margin; at least 1.

    plan_of     makes the plan of so many steps: evaluations, samples and the schedule go by their number

    >>> plan_of = lambda steps: Plan(8, steps, 1e-3, 0, 1e-4, steps, eval_every=10, sample_every=0, sample_prompt="")
    >>> choose_steps(plan_of, Pace(step=1.0, evaluation=2.0, sample=0.0, save=0.0), 100)
    74
    """
    enough = seconds * (1 - MARGIN)

    def ends_in_time(steps):
        return pace.seconds(plan_of(steps)) <= enough

    low, high = 1, 2
    while high < 2**31 and ends_in_time(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if ends_in_time(middle) else (low, middle)
    return low


def choose_preset(settings: TrainSettings, vocab_size: int, seconds: float) -> str:
    """The largest preset that sees at least 20 tokens for each parameter outside its embeddings in ``seconds``.

    That is where a given amount of computation gives the lowest loss (Hoffmann et al. 2022, table 3, approach 1): a
    larger model would see too few tokens, a smaller one has less room for what it sees. Its memory must be free, too.
    A text that is short is seen often: the validation loss tells when that is too often.

    The time of a step is worked out from the speed of its matrix products, which is measured. If not even the smallest
    preset sees so many tokens, it is chosen all the same. Raises ConfigError if none goes with the other settings.
    """
    configs, misfit = {}, None
    for name in sorted(PRESETS, key=lambda name: parameter_count(GPTConfig.preset(name))):
        try:
            configs[name] = GPTConfig.preset(name, vocab_size=vocab_size, **settings.config_overrides())
        except ConfigError as error:  # a width that --n-head doesn't divide
            misfit = error
    if not configs:
        raise ConfigError(f"no preset goes with the other flags. Of the largest: {misfit}")
    chosen = next(iter(configs))
    for name, config in configs.items():
        context = config.block_size  # which --context is
        model = GPT.empty(config)
        model.recompute = settings.recompute
        memory = 3 * model_bytes(model)  # with AdamW's two moments
        memory += process_bytes(model, settings.batch_size, context, settings.grad_accum > 1)
        if memory > available_bytes():
            break
        tokens = seconds * settings.batch_size * context / _batch_seconds(config, settings.batch_size * context)
        if tokens < TOKENS_PER_PARAMETER * parameter_count(config, embeddings=False):
            break
        chosen = name
    return chosen


def _batch_seconds(config, rows) -> float:
    """About what a forward and a backward pass of so many positions take: three times the forward pass's products."""
    seconds = 0.0
    for M, K, N, times in _products(config, rows):
        seconds += times * _product_seconds(M, K, N)
    return 3 * NOT_PRODUCTS * seconds


def _products(config, rows) -> Iterator[tuple[int, int, int, float]]:
    """(M, K, N, how often) of each product (M, K) @ (K, N) in a forward pass of so many positions."""
    for product in layer_products(config, rows):
        yield *product, config.n_layer
    yield min(rows, ROWS), config.n_embd, config.vocab_size, max(1.0, rows / ROWS)


def _product_seconds(M, K, N) -> float:
    x, W = np.ones((M, K), np.float32), np.ones((K, N), np.float32)
    kernels.matmul(x, W)  # compiled, and memory touched
    began = time.perf_counter()
    kernels.matmul(x, W)
    return time.perf_counter() - began
