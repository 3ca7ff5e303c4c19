"""Generate text.

stream is the loop. It asks decoder for logits (cache keeps keys and values; prefix keeps those of a beginning), and
sampling for the next token of each text in progress (its rules are in filters and penalties). It yields each token,
until stop says that the text ends.
beam looks for the likeliest text instead. logprobs is what the model says of a token; attention is what it looks at.

speculation makes the same text in fewer passes of the model, where one of drafts proposes tokens. constraints say which
tokens may come next: regular_expression reads a pattern, and byte_automaton follows it.

dialogue makes a prompt of the messages of a conversation, and an answer of the tokens after it.
"""

from npgpt.generation.attention import attention_weights
from npgpt.generation.beam import Beam, beam_search
from npgpt.generation.cache import KeyValueCache
from npgpt.generation.constraints import Choices, Regex
from npgpt.generation.decoder import Decoder
from npgpt.generation.drafts import PromptLookup
from npgpt.generation.logprobs import TokenLogprobs, token_logprobs
from npgpt.generation.prefix import Prefix
from npgpt.generation.sampling import History, Sampling
from npgpt.generation.speculation import Speculation, speculate
from npgpt.generation.stop import StopStrings, StopTexts
from npgpt.generation.stream import generate, stream
from npgpt.generation.token import Token

__all__ = [
    "Beam",
    "Choices",
    "Decoder",
    "History",
    "KeyValueCache",
    "Prefix",
    "PromptLookup",
    "Regex",
    "Sampling",
    "Speculation",
    "StopStrings",
    "StopTexts",
    "Token",
    "TokenLogprobs",
    "attention_weights",
    "beam_search",
    "generate",
    "speculate",
    "stream",
    "token_logprobs",
]
