"""Compile the kernels of a run before its first step, on all cores, instead of one by one when each is first called.

Which kernels a run needs follows from its options, here; their argument types are in kernels/signatures.py.
"""

from collections.abc import Callable, Iterator

from npgpt import kernels
from npgpt.config import GPTConfig
from npgpt.kernels.ahead import compile_ahead
from npgpt.kernels.matmul import MAX_FEW_ROWS, MAX_SMALL_PRODUCT
from npgpt.ops.linear_cross_entropy import ROWS

_ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu": "gelu", "relu": None}  # relu is made of NumPy's operations


def compile_for_training(
    config: GPTConfig, batch_size: int, context: int, prompt: int, stop: Callable[[], bool] = lambda: False
) -> None:
    """Compile what steps need, and samples that begin with ``prompt`` tokens (0: none); ends early once ``stop()``."""
    if kernels.BACKEND == "numba":
        names = training_kernels(config, batch_size, context)
        compile_ahead(names | sampling_kernels(config, prompt) if prompt else names, stop)


def compile_for_sampling(config: GPTConfig, prompt: int, rows: int = 1) -> None:
    """Compile what continuing a text of ``prompt`` tokens in ``rows`` ways at once needs."""
    if kernels.BACKEND == "numba":
        compile_ahead(sampling_kernels(config, prompt, rows))


def training_kernels(config: GPTConfig, batch_size: int, context: int) -> set[str]:
    """The kernels of training steps, by their names in kernels/signatures.py."""
    rows = batch_size * context
    names = {"layernorm_forward", "layernorm_backward", "attention_forward", "attention_backward", "embedding_backward"}
    names |= {"cross_entropy_forward", "cross_entropy_backward", "sum_of_squares", "scale", "adamw_step"}
    if config.bias or config.has_qkv_bias:
        names.add("sum_rows")
    if config.dropout:
        names.add("dropout")
    if activation := _ACTIVATIONS[config.activation]:
        names |= {f"{activation}_forward", f"{activation}_backward"}
    head = [(M, config.n_embd, config.vocab_size) for M in (min(rows, ROWS), rows % ROWS)]
    for M, K, N in (*_layer_products(config, rows), *head):
        names |= {*_matmul(M, K, N), *_matmul(M, N, K), *_matmul(K, M, N)}  # y = x W, dx = dy W^T, dW = x^T dy
    return names


def sampling_kernels(config: GPTConfig, prompt: int, rows: int = 1) -> set[str]:
    """The kernels of a prompt's ``prompt`` tokens and of one token after another of ``rows`` texts, by their names.

    Texts end one by one, so the last tokens are those of a single one.
    """
    names = {"layernorm_forward", "attention_forward"}
    if activation := _ACTIVATIONS[config.activation]:
        names.add(f"{activation}_forward")
    products = [*_layer_products(config, prompt)]
    for M in (1, rows):
        products += [*_layer_products(config, M), (M, config.n_embd, config.vocab_size)]
    return names.union(*(_matmul(*product) for product in products))


def _layer_products(config: GPTConfig, rows: int) -> Iterator[tuple[int, int, int]]:
    """(M, K, N) of each product (M, K) @ (K, N) in a block's forward pass."""
    C = config.n_embd
    for inputs, outputs in ((C, 3 * C), (C, C), (C, config.inner_size), (config.inner_size, C)):
        yield rows, inputs, outputs


def _matmul(M, K, N) -> set[str]:
    """The kernel of a product, if any: NumPy computes the small ones."""
    if M * K * N <= MAX_SMALL_PRODUCT:
        return set()
    return {"matmul_few_rows" if M <= MAX_FEW_ROWS else "matmul"}
