"""Generate text: draw a token (sampling), keep keys and values (cache), the loop (stream), where it ends (stop)."""

from npgpt.generation.cache import KeyValueCache
from npgpt.generation.decoder import Decoder
from npgpt.generation.sampling import Sampling
from npgpt.generation.stop import StopString
from npgpt.generation.stream import generate, stream

__all__ = ["Decoder", "KeyValueCache", "Sampling", "StopString", "generate", "stream"]
