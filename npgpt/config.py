"""GPTConfig, the settings of a model; and the choices and defaults that commands offer. Nothing heavy is imported."""

from dataclasses import asdict, dataclass, fields
from math import inf
from typing import Any

from npgpt.errors import ConfigError

POSITIONS = ("learned", "sinusoidal", "rotary")
ACTIVATIONS = ("gelu_new", "gelu", "relu")
MATMUL_PRECISIONS = ("highest", "high", "medium")
WEIGHTS = ("f32", "bf16", "int8", "int4")  # forms of a model's matrices for generating (kernels/packed.py)
BASE_FORMATS = ("f32", "nf4")  # how the model beneath an adapter is held while that is trained (kernels/few_bits.py)
CACHE_DTYPES = ("f32", "bf16")  # of the keys and values that are kept

# How the next token is drawn unless told otherwise, in samples of a training run, npgpt.sample and GPT.generate alike.
TEMPERATURE, TOP_K, TOP_P = 0.8, 50, None

# GPT-2's four sizes (Radford et al. 2019, table 2; heads from the released hparams.json), then sizes for a laptop.
PRESETS = {
    "gpt2": {"n_layer": 12, "n_head": 12, "n_embd": 768},
    "gpt2-medium": {"n_layer": 24, "n_head": 16, "n_embd": 1024},
    "gpt2-large": {"n_layer": 36, "n_head": 20, "n_embd": 1280},
    "gpt2-xl": {"n_layer": 48, "n_head": 25, "n_embd": 1600},
    "nano": {"n_layer": 2, "n_head": 2, "n_embd": 64, "block_size": 64},
    "mini": {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 128},
    "small": {"n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 256},
}


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT. The defaults are GPT-2 124M.

    ==================  ===================================================================================
    vocab_size          V, the number of tokens; 50,257 for GPT-2's byte-pair encoding
    block_size          the context: the longest T that the model takes (GPT-2: 1,024)
    n_layer             the number of blocks
    n_head              H, heads of attention; divides n_embd
    n_embd              C, the width of the residual stream
    n_inner             the width inside the MLP; None means 4 * n_embd
    dropout             chance to zero an element while training: embeddings, attention weights, residual branches
    bias                biases in the linear layers and layer norms
    qkv_bias            a bias in c_attn; None means the same as ``bias``
    tie_weights         the vocabulary head uses the token embedding's matrix
    position            "learned" (GPT-2), "sinusoidal" (Vaswani et al. 2017), "rotary" (Su et al. 2021)
    activation          "gelu_new" (GPT-2: the tanh form), "gelu" (exact), "relu"
    layer_norm_epsilon  added to the variance in layer norms
    scale_attn_by_inverse_layer_idx   divide attention scores by the layer's number as well (Mistral's GPT-2s)
    ==================  ===================================================================================

    Raises ConfigError, which names the field, if a value is out of range.

    >>> GPTConfig.preset("gpt2-medium").head_size
    64
    """

    vocab_size: int = 50257
    block_size: int = 1024
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    n_inner: int | None = None
    dropout: float = 0.0
    bias: bool = True
    qkv_bias: bool | None = None
    tie_weights: bool = True
    position: str = "learned"
    activation: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    scale_attn_by_inverse_layer_idx: bool = False

    def __post_init__(self):
        for name, value in list(vars(self).items()):
            if getattr(value, "ndim", None) == 0:  # NumPy's numbers become Python's
                object.__setattr__(self, name, value.item())
        for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd"):
            self._check(_is_whole(getattr(self, name)), name, "a whole number of at least 1")
        self._check(self.n_inner is None or _is_whole(self.n_inner), "n_inner", "a whole number of at least 1")
        for name in ("bias", "tie_weights", "scale_attn_by_inverse_layer_idx"):
            self._check(isinstance(getattr(self, name), bool), name, "true or false")
        self._check(self.qkv_bias is None or isinstance(self.qkv_bias, bool), "qkv_bias", "true, false or None")
        self._check(_is_number(self.dropout) and 0 <= self.dropout < 1, "dropout", "a number of at least 0, below 1")
        epsilon = self.layer_norm_epsilon
        self._check(_is_number(epsilon) and 0 < epsilon < 1, "layer_norm_epsilon", "a number between 0 and 1")
        self._check(self.position in POSITIONS, "position", f"one of {', '.join(POSITIONS)}")
        self._check(self.activation in ACTIVATIONS, "activation", f"one of {', '.join(ACTIVATIONS)}")
        if self.n_embd % self.n_head:
            raise ConfigError(f"n_embd must be divisible by n_head: {self.n_embd} is not divisible by {self.n_head}")
        columns = max(self.vocab_size, self.block_size, 3 * self.n_embd, self.inner_size)
        if columns * self.n_embd >= 2**59:  # NumPy counts the bytes of an array, 8 an element, in 63 bits
            raise ConfigError(f"n_embd {self.n_embd} with {columns} columns makes a matrix too large for any memory")
        if self.position == "rotary" and self.head_size % 2:
            raise ConfigError(f"position=rotary turns pairs: n_embd / n_head must be even, not {self.head_size}")

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "GPTConfig":
        """A named size, with any field changed: ``GPTConfig.preset("gpt2-medium", dropout=0.1)``."""
        if name not in PRESETS:
            raise ConfigError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
        return cls(**{**PRESETS[name], **changes})

    @classmethod
    def from_dict(cls, values: dict) -> "GPTConfig":
        """The inverse of ``to_dict``. Raises ConfigError on an unknown field."""
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise ConfigError(f"unknown setting of a model: {', '.join(map(repr, unknown))}")
        return cls(**values)

    def to_dict(self) -> dict:
        return asdict(self)

    @property
    def head_size(self) -> int:
        """D = C / H."""
        return self.n_embd // self.n_head

    @property
    def inner_size(self) -> int:
        return 4 * self.n_embd if self.n_inner is None else self.n_inner

    @property
    def has_qkv_bias(self) -> bool:
        return self.bias if self.qkv_bias is None else self.qkv_bias

    def _check(self, ok, name, wanted):
        if not ok:
            raise ConfigError(f"{name} must be {wanted}, not {getattr(self, name)!r}")


def _is_whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**31


def _is_number(value) -> bool:
    # isfinite would make a float of a whole number first, and one of 400 digits is too large for that
    return isinstance(value, int | float) and not isinstance(value, bool) and -inf < value < inf
