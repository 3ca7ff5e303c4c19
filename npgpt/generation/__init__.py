"""Making text: which token is next (sampling), what is kept between steps (cache), the loop (stream), its end."""

from npgpt.generation.cache import KeyValueCache
from npgpt.generation.sampling import Sampling
from npgpt.generation.stop import TextUntil
from npgpt.generation.stream import generate, stream

__all__ = ["KeyValueCache", "Sampling", "TextUntil", "generate", "stream"]
