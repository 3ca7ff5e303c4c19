"""Generate text: choose a token (sampling, and its rules in penalties and filters), keep keys and values (cache), the
loop (stream), where it ends (stop), the likeliest text (beam), what the model says of a token (logprobs)."""

from npgpt.generation.beam import Beam, beam_search
from npgpt.generation.cache import KeyValueCache
from npgpt.generation.logprobs import TokenLogprobs, token_logprobs
from npgpt.generation.sampling import History, Sampling
from npgpt.generation.stop import StopString
from npgpt.generation.stream import generate, stream

__all__ = [
    "Beam",
    "History",
    "KeyValueCache",
    "Sampling",
    "StopString",
    "TokenLogprobs",
    "beam_search",
    "generate",
    "stream",
    "token_logprobs",
]
