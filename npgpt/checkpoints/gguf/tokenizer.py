"""A tokenizer in a GGUF file: for llama.cpp under tokenizer.ggml; and, if it is not GPT-2's, as a run stores it, too.

llama.cpp computes byte-pair encodings with GPT-2's pattern from lists of tokens and merges. With no merges that encodes
byte by byte, so byte tokenizers can be written, and ASCII character tokenizers. Any other is "no_vocab": then llama.cpp
works on ids.
"""

import json
from pathlib import Path

import numpy as np

from npgpt.checkpoints.gguf.metadata import Metadata, packed_strings
from npgpt.checkpoints.shared.strict_json import parse_json
from npgpt.checkpoints.shared.tokenizers import Finder, beside, by_size, stored, unknown
from npgpt.errors import CheckpointError
from npgpt.text.byte_level import bytes_to_unicode, spelled_merges
from npgpt.text.byte_pairs import BytePairTokenizer
from npgpt.text.tokenizers import GPT2Tokenizer, Tokenizer

OURS = "npgpt.tokenizer"  # JSON, as ``Tokenizer.to_dict`` makes it
_TEMPLATE = "tokenizer.chat_template"
_MODEL, _TOKENS = "tokenizer.ggml.model", "tokenizer.ggml.tokens"
_NORMAL, _CONTROL, _UNUSED = 1, 3, 5  # enum llama_token_type in llama.cpp's llama.h


def tokenizer_metadata(tokenizer: Tokenizer | None, vocab_size: int) -> dict:
    """The keys that hold a tokenizer, in a file of a model with so many ids."""
    ours = {}
    if tokenizer is not None and tokenizer.name != GPT2Tokenizer.name:
        ours = {OURS: json.dumps(tokenizer.to_dict(), ensure_ascii=False)}
    tokens = _spelled_tokens(tokenizer, vocab_size)
    if tokenizer is None or tokens is None:
        return {_MODEL: "no_vocab", **ours}
    types = np.full(vocab_size, _NORMAL, np.int32)
    types[list(tokenizer.special.values())] = _CONTROL
    types[tokenizer.vocab_size :] = _UNUSED
    merges = spelled_merges(tokenizer.tokens) if isinstance(tokenizer, BytePairTokenizer) else []
    return {
        _MODEL: "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        _TOKENS: tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": tokenizer.end_of_text,
        "tokenizer.ggml.eos_token_id": tokenizer.end_of_text,
        **ours,
    }


def tokenizer_in(metadata: Metadata, vocab_size: int, path: Path) -> Finder:
    """The one in the file, else beside it; GPT-2's only if each token is. Raises CheckpointError."""
    count, packed = metadata.strings(_TOKENS) if _TOKENS in metadata else (None, b"")
    if count not in (None, vocab_size):
        raise CheckpointError(f"{path}: key {_TOKENS}: {count:,} tokens, and the model has {vocab_size:,}")
    if OURS in metadata:
        place = f"{path}: key {OURS}"
        tokenizer = stored(parse_json(metadata.text(OURS), place), place)
        tokens = _spelled_tokens(tokenizer, vocab_size)
        if count is not None and tokens is not None and packed_strings(tokens) != packed:
            raise CheckpointError(f"{path}: keys {OURS} and {_TOKENS} hold different tokens")
        return lambda: tokenizer
    if _MODEL not in metadata and count is None:
        return beside(path, by_size(vocab_size))
    if count is not None and metadata.text(_MODEL) == "gpt2" and vocab_size >= 50257:
        tokens = _spelled_tokens(GPT2Tokenizer(), vocab_size)
        if tokens is not None and packed_strings(tokens) == packed:
            return GPT2Tokenizer
    return unknown


def chat_template_in(metadata: Metadata, path: Path) -> str | None:
    """The place of the file's chat template, if it has one."""
    return f"{path}: key {_TEMPLATE}" if _TEMPLATE in metadata else None


def _spelled_tokens(tokenizer: Tokenizer | None, vocab_size: int) -> list[str] | None:
    """A token for each id of the model, as llama.cpp spells them; None if it would not encode texts as ours does."""
    # A vocabulary that was padded to a round number has names for the ids that are left, as in llama.cpp's converter.
    if tokenizer is None or tokenizer.end_of_text is None:
        return None
    if not tokenizer.vocab_size <= vocab_size <= 2 * tokenizer.vocab_size:
        return None
    tokens = [tokenizer.token_bytes(id) for id in range(tokenizer.vocab_size)]
    special = {id: text for text, id in tokenizer.special.items()}
    single = all(len(token) == 1 for id, token in enumerate(tokens) if id not in special)
    if not single and not isinstance(tokenizer, BytePairTokenizer):
        return None
    spelled = [special.get(id, bytes_to_unicode(token)) for id, token in enumerate(tokens)]
    return [*spelled, *(f"[PAD{id}]" for id in range(len(tokens), vocab_size))]
