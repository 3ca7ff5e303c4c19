"""What a model looks at: attention's weights, which the fused kernel makes and doesn't keep."""

import numpy as np
from numpy.typing import ArrayLike

from npgpt import kernels, ops
from npgpt.gpt import GPT
from npgpt.layers import dropout_off
from npgpt.ops.attention import split_heads
from npgpt.tensor import no_grad


@no_grad()
def attention_weights(model: GPT, ids: ArrayLike, layer: int) -> np.ndarray:
    """The attention weights of one layer: ids (T,) -> P (H, T, T), in the model's dtype.

        S = scale q k^T, -inf where the key is later         P = softmax(S)

    In head h, position i takes the fraction P[h, i, j] of the value at position j. So each row adds up to 1, and what
    is right of the diagonal is 0. The model may be a decoder's with packed weights. Dropout is off, and the model's
    mode is afterwards as before.

    Raises ValueError if there are no ids or more than block_size, or no such layer; IndexError on an unknown id.

    >>> from npgpt import GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=2), seed=0)
    >>> attention_weights(model, [1, 2, 3], layer=0).round(2)  # a new model looks at all alike
    array([[[1.  , 0.  , 0.  ],
            [0.5 , 0.5 , 0.  ],
            [0.33, 0.33, 0.33]]], dtype=float32)
    """
    ids = np.asarray(ids)
    if ids.ndim != 1 or not 0 < ids.size <= model.config.block_size:
        raise ValueError(f"ids must have shape (T,), T from 1 to {model.config.block_size}, not {ids.shape}")
    if not 0 <= layer < model.config.n_layer:
        raise ValueError(f"layer must be from 0 to {model.config.n_layer - 1}, not {layer}")
    block = model.h[layer]
    with dropout_off():
        x = model.embed(ids[None], np.arange(ids.size))
        for before in model.h[:layer]:
            x = before(x)
        qkv = block.attn.c_attn(block.ln_1(x))
    if block.attn.rotary:
        qkv = ops.rotary(qkv, block.attn.n_head)
    q, k, _ = (heads[0].transpose(1, 0, 2) for heads in split_heads(qkv.data, block.attn.n_head))  # (H, T, D)
    S = q.dtype.type(block.attn.scale) * (q @ k.transpose(0, 2, 1))
    S[:, ~np.tri(ids.size, dtype=bool)] = -np.inf
    return kernels.softmax_forward(S)
