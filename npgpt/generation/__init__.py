"""Generate text.

stream is the loop. It asks decoder for logits (cache keeps keys and values; prefix keeps those of a beginning), and
sampling for a token (its rules are in filters and penalties). It yields each token, until stop says that the text ends.
beam looks for the likeliest text instead. logprobs is what the model says of a token.
"""

from npgpt.generation.beam import Beam, beam_search
from npgpt.generation.cache import KeyValueCache
from npgpt.generation.decoder import Decoder
from npgpt.generation.logprobs import TokenLogprobs, token_logprobs
from npgpt.generation.prefix import Prefix
from npgpt.generation.sampling import History, Sampling
from npgpt.generation.stop import StopStrings, StopTexts
from npgpt.generation.stream import generate, stream
from npgpt.generation.token import Token

__all__ = [
    "Beam",
    "Decoder",
    "History",
    "KeyValueCache",
    "Prefix",
    "Sampling",
    "StopStrings",
    "StopTexts",
    "Token",
    "TokenLogprobs",
    "beam_search",
    "generate",
    "stream",
    "token_logprobs",
]
