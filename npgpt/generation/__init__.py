"""Making text: which token comes next (sampling), what is remembered between steps (cache), and the loop (stream)."""

from npgpt.generation.cache import KeyValueCache
from npgpt.generation.sampling import Sampling
from npgpt.generation.stream import generate, stream

__all__ = ["KeyValueCache", "Sampling", "generate", "stream"]
