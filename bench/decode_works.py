"""What bench.decode measures: work that npgpt and some of its peers do, and the weights that each pass reads."""

from dataclasses import dataclass, field
from pathlib import Path

from bench.train_step import matrix_parameters
from npgpt.config import GPTConfig

MODULES = {
    "npgpt": "bench.npgpt_decode",
    "transformers": "bench.peers.transformers_decode",
    "torch": "bench.peers.torch_decode",
    "llama.cpp": "bench.peers.llamacpp_decode",
}
PACKAGES = {  # that each peer needs
    "transformers": ("torch", "transformers"),
    "torch": ("torch", "safetensors"),
    "llama.cpp": ("llama_cpp",),
}
FLOAT32 = {"transformers": "float32", "torch": "float32", "llama.cpp": "F32"}
HALF = {"transformers": "bfloat16", "torch": "bfloat16", "llama.cpp": "F16"}
BYTES = {"f32": 4, "float32": 4, "bf16": 2, "bfloat16": 2, "int8": 34 / 32, "int4": 18 / 32}  # of a weight


@dataclass(frozen=True)
class Work:
    """A row of the measurement: what npgpt does, and which of the peers do the same.

    kind        "decode": one token after the other. "prefill": one pass over a prompt. "first": a whole process,
                from its start to the first token
    weights     npgpt's
    peers       {peer: its weights}
    tolerance   how far logits may be from npgpt's in float32, as a share of their norm. Those of GPT-2 124M are 7e-4
                away in llama.cpp's F32 (keys, values and GELU are in float16) and 1e-3 in F16; 2e-2 in Q8_0 and 2e-1 in
                Q4_0, beside which it rounds activations to 8 bits. With other ids or positions they are 1 away
    """

    kind: str
    weights: str = "f32"
    peers: dict[str, str] = field(default_factory=lambda: FLOAT32)
    tolerance: float = 1e-2
    many: bool = False  # --batch-size texts instead of one
    precision: str = "highest"


WORKS = {
    "float32": Work("decode"),
    "bfloat16": Work("decode", "bf16", HALF, 5e-2),
    "int8": Work("decode", "int8", {"llama.cpp": "Q8_0"}, 1e-1),
    "int4": Work("decode", "int4", {"llama.cpp": "Q4_0"}, 4e-1),
    "batch": Work("decode", many=True),
    "prefill": Work("prefill"),
    "prefill-medium": Work("prefill", peers=HALF, tolerance=5e-2, precision="medium"),
    "first-token": Work("first"),
}


def bytes_read(model: GPTConfig, folder: Path, work: Work) -> dict[str, float]:
    """{side: bytes of the weights that each pass over the model reads}: all matrices but the position embedding."""
    from npgpt.checkpoints import open_checkpoint  # loads Numba, which reads the number of threads
    from npgpt.checkpoints.shared import lazy_tensor

    read = {}
    for side, weights in {"npgpt": work.weights, **work.peers}.items():
        if side == "llama.cpp":
            tensors = open_checkpoint(folder / f"{weights}.gguf").tensors
            matrices = (t for name, t in tensors.items() if len(t.shape) == 2 and name != "wpe.weight")
            read[side] = sum(t.size * lazy_tensor.BYTES[t.dtype] for t in matrices)
        else:
            read[side] = matrix_parameters(model) * BYTES[weights]
    return read
