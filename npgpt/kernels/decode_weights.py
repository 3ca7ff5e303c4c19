"""A model's weights as the step for all layers reads them (decode.py)."""

from dataclasses import dataclass, field

import numpy as np

from npgpt.kernels.packed import PackedMatrix


@dataclass(frozen=True)
class LayerNormWeights:
    """weight and bias (C,) of float32; zeros stand for no bias."""

    weight: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True)
class LinearWeights:
    """A packed matrix, and a bias of float32 or None."""

    matrix: PackedMatrix
    bias: np.ndarray | None


@dataclass(frozen=True)
class LayerWeights:
    """What one block of the model needs. ``scale`` multiplies attention's scores."""

    ln_1: LayerNormWeights
    c_attn: LinearWeights
    c_proj: LinearWeights
    ln_2: LayerNormWeights
    c_fc: LinearWeights
    mlp_c_proj: LinearWeights
    scale: float


@dataclass(frozen=True)
class DecodeWeights:
    """A model's weights as a step reads them. All matrices have one format.

    head    (C, V), the vocabulary head
    """

    layers: list[LayerWeights]
    ln_f: LayerNormWeights
    head: PackedMatrix
    n_head: int
    activation: str
    epsilon: float
    # What follows from the others, because each step needs it:
    addresses: np.ndarray = field(init=False)  # (layers + 1, 16): for compiled code; the last row is of ln_f and head
    scales: np.ndarray = field(init=False)  # (layers,) of float32
    nbytes: int = field(init=False)  # the memory of all matrices, which one step reads

    def __post_init__(self):
        self._check()
        rows = [
            [
                *_norm(layer.ln_1), *_linear(layer.c_attn), *_linear(layer.c_proj),
                *_norm(layer.ln_2), *_linear(layer.c_fc), *_linear(layer.mlp_c_proj),
            ]
            for layer in self.layers
        ]  # fmt: skip
        rows.append([*_norm(self.ln_f), *self.head.addresses(), *[0] * 12])
        linears = [y for x in self.layers for y in (x.c_attn, x.c_proj, x.c_fc, x.mlp_c_proj)]
        object.__setattr__(self, "addresses", np.array(rows, np.int64))
        object.__setattr__(self, "scales", np.array([layer.scale for layer in self.layers], np.float32))
        object.__setattr__(self, "nbytes", self.head.nbytes + sum(x.matrix.nbytes for x in linears))

    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name != "addresses"}

    def __setstate__(self, state):  # a copy has arrays of its own
        vars(self).update(state)
        self.__post_init__()

    def _check(self):
        """Compiled code checks nothing. Raises ValueError if a shape, dtype or format isn't the others'."""
        C, inner = self.head.K, self.layers[0].c_fc.matrix.N if self.layers else 0
        norms, linears = [self.ln_f], []
        for x in self.layers:
            norms += [x.ln_1, x.ln_2]
            linears += [(x.c_attn, C, 3 * C), (x.c_proj, C, C), (x.c_fc, C, inner), (x.mlp_c_proj, inner, C)]
        vectors = [(y, C) for x in norms for y in (x.weight, x.bias)]
        vectors += [(x.bias, N) for x, _, N in linears if x.bias is not None]
        right = all((x.matrix.K, x.matrix.N, x.matrix.format) == (K, N, self.head.format) for x, K, N in linears)
        right = right and all(x.shape == (n,) and x.dtype == np.float32 and x.flags.c_contiguous for x, n in vectors)
        if not right:
            raise ValueError("the weights' shapes, dtypes or formats don't fit each other")


def _norm(norm):
    return norm.weight.ctypes.data, norm.bias.ctypes.data


def _linear(linear):
    return *linear.matrix.addresses(), 0 if linear.bias is None else linear.bias.ctypes.data
