"""Compile the kernels of a run before its first step, on all cores, instead of one by one when each is first called.

Which kernels a run needs follows from its options, here; their argument types are in kernels/signatures.py.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from npgpt import kernels
from npgpt.config import GPTConfig
from npgpt.generation.packed_model import MAX_PACKED_ROWS
from npgpt.kernels.ahead import compile_ahead
from npgpt.kernels.matmul import MAX_FEW_ROWS, MAX_SMALL_PRODUCT
from npgpt.ops.linear_cross_entropy import ROWS

_FEW_BITS = {"few_bits_matmul_nf4", "few_bits_matmul_bf16"}
_ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu": "gelu", "relu": None}  # relu is made of NumPy's operations


@dataclass(frozen=True)
class AdapterToCompile:
    """What adapters call besides the model, and in its place: their rank, dropout, and how the base is held."""

    rank: int
    dropout: float
    base_format: str


def compile_for_training(
    config: GPTConfig,
    batch_size: int,
    context: int,
    prompt: int,
    passage: int = 0,
    stop: Callable[[], bool] = lambda: False,
    adapter: AdapterToCompile | None = None,
    is_weighted: bool = False,
) -> None:
    """Compile what steps need, losses of ``passage`` tokens, and samples that begin with ``prompt`` tokens; 0 is none.

    is_weighted     whether a step has several batches, whose losses are weighted

    It ends early once ``stop()``.
    """
    if kernels.BACKEND == "numba":
        names = training_kernels(config, batch_size, context, adapter, is_weighted)
        if passage:
            names |= scoring_kernels(config, [(passage, passage)])
        compile_ahead(names | sampling_kernels(config, prompt, adapter) if prompt else names, stop)


def compile_for_sampling(
    config: GPTConfig,
    prompt: int,
    new_tokens: int,
    weights: str = "f32",
    cache_dtype: str = "f32",
    drafted: int = 0,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Compile what continuing texts of ``prompt`` tokens by ``new_tokens`` needs, with such a ``Decoder``.

    drafted     so many tokens are proposed at a time by a draft, and checked at once

    It ends early once ``stop()``.
    """
    if kernels.BACKEND == "numba":
        compile_ahead(decoding_kernels(config, prompt, new_tokens, weights, cache_dtype, drafted), stop)


def compile_for_scoring(config: GPTConfig, shapes: Iterable[tuple[int, int]], weights: str = "f32") -> None:
    """Compile what batches need in which N of all B * T positions are scored: shapes (B * T, N).

    weights     "f32", or what the model's matrices are rounded to
    """
    if kernels.BACKEND == "numba":
        compile_ahead(scoring_kernels(config, shapes, weights))


def training_kernels(
    config: GPTConfig, batch_size: int, context: int, adapter: AdapterToCompile | None = None, is_weighted: bool = False
) -> set[str]:
    """The kernels of training steps, by their names in kernels/signatures.py."""
    rows = batch_size * context
    names = {"layernorm_forward", "layernorm_backward", "attention_forward", "attention_backward"}
    names |= {"cross_entropy_forward", "cross_entropy_backward", "sum_of_squares", "adamw_step"}
    if is_weighted:
        names.add("scale")
    if adapter is None:
        names.add("embedding_backward")
        if config.bias or config.has_qkv_bias:
            names.add("sum_rows")
    if config.dropout or (adapter and adapter.dropout):
        names.add("dropout")
    if activation := _ACTIVATIONS[config.activation]:
        names |= {f"{activation}_forward", f"{activation}_backward"}
    layers = list(layer_products(config, rows))
    if adapter:
        for M, K, N in _thin_products(config, rows, adapter.rank):
            names |= {*_matmul(M, K, N), *_matmul(M, N, K), *_matmul(K, M, N)}
    if adapter and adapter.base_format == "nf4":
        return names | _FEW_BITS
    head = [(M, config.n_embd, config.vocab_size) for M in (min(rows, ROWS), rows % ROWS)]
    for M, K, N in (*layers, *head):
        names |= {*_matmul(M, K, N), *_matmul(M, N, K)}  # y = x W, dx = dy W^T
        if adapter is None:
            names |= _matmul(K, M, N)  # dW = x^T dy
    return names


def sampling_kernels(config: GPTConfig, prompt: int, adapter: AdapterToCompile | None = None) -> set[str]:
    """The kernels of a prompt's ``prompt`` tokens and of one token after another, with the model's own weights."""
    head = 1, config.n_embd, config.vocab_size
    products = [*layer_products(config, prompt), *layer_products(config, 1), head]
    names = _forward_kernels(config)
    if adapter and adapter.base_format == "nf4":
        products, names = [], names | _FEW_BITS
    if adapter:
        products += [product for rows in (prompt, 1) for product in _thin_products(config, rows, adapter.rank)]
    return names.union(*(_matmul(*product) for product in products))


def decoding_kernels(
    config: GPTConfig, prompt: int, new_tokens: int, weights: str, cache_dtype: str, drafted: int
) -> set[str]:
    """The kernels of a prompt's tokens, of one token after another and of drafted ones, with packed weights."""
    steps = (prompt < config.block_size and new_tokens > 1) or prompt == 1
    names, several = set(), set()  # (rows that go through the model together, whether the matrices are packed)
    if steps:
        names.add(f"decode_step_{weights}" + ("_bf16" if cache_dtype == "bf16" else ""))
    is_packed = weights != "f32"
    if prompt > 1:
        several.add((min(prompt, config.block_size), is_packed))
    if (steps or drafted) and not is_packed:
        names.add("pack")
        is_packed = True
    if drafted:
        several.add((drafted + 1, True))
    if prompt + new_tokens > config.block_size + 1:
        several.add((config.block_size, is_packed))  # the window slides
    for rows, packed in several:
        names |= _forward_kernels(config)
        head, layers = (1, config.n_embd, config.vocab_size), list(layer_products(config, rows))
        if packed:
            names.add(f"packed_matmul_{weights}")
        unpacked = [] if packed else [head]
        if not packed or (rows > MAX_PACKED_ROWS and weights in ("f32", "bf16")):
            unpacked += layers
        names = names.union(*(_matmul(max(M, MAX_FEW_ROWS + 1), K, N) for M, K, N in unpacked))
    return names


def _forward_kernels(config) -> set[str]:
    names = {"layernorm_forward", "attention_forward"}
    if activation := _ACTIVATIONS[config.activation]:
        names.add(f"{activation}_forward")
    return names


def scoring_kernels(config: GPTConfig, shapes: Iterable[tuple[int, int]], weights: str = "f32") -> set[str]:
    """The kernels of losses without gradients, by their names. See ``compile_for_scoring``."""
    names = _forward_kernels(config) | {"cross_entropy_forward"}
    if weights in ("int8", "int4"):
        return names | {f"packed_matmul_{weights}"}
    for rows, scored in shapes:
        head = [(M, config.n_embd, config.vocab_size) for M in (min(scored, ROWS), scored % ROWS)]
        for M, K, N in (*layer_products(config, rows), *head):
            is_packed = weights == "bf16" and 0 < M <= MAX_PACKED_ROWS
            names = names | ({"packed_matmul_bf16"} if is_packed else _matmul(M, K, N))
    return names


def layer_products(config: GPTConfig, rows: int) -> Iterator[tuple[int, int, int]]:
    """(M, K, N) of each product (M, K) @ (K, N) in a block's forward pass."""
    C = config.n_embd
    for inputs, outputs in ((C, 3 * C), (C, C), (C, config.inner_size), (config.inner_size, C)):
        yield rows, inputs, outputs


def _thin_products(config: GPTConfig, rows: int, rank: int) -> Iterator[tuple[int, int, int]]:
    """(M, K, N) of the products with the A and the B of adapters in all linear layers."""
    for M, inputs, outputs in layer_products(config, rows):
        yield M, inputs, rank
        yield M, rank, outputs


def _matmul(M, K, N) -> set[str]:
    """The kernel of a product, if any: NumPy computes the small ones."""
    if M * K * N <= MAX_SMALL_PRODUCT:
        return set()
    return {"matmul_few_rows"} if M <= MAX_FEW_ROWS else {"matmul"}
