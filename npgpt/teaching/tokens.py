"""Tokens as the page shows them: their text, their bytes, and the merges that made them."""

from itertools import pairwise
from typing import Any

from npgpt.text.byte_pairs import BytePairTokenizer
from npgpt.text.tokenizers import Tokenizer


def token_steps(tokenizer: Tokenizer, id: int, ranks: dict[bytes, int] | None = None) -> dict[str, Any]:
    """{"id", "text", "bytes": [...], "steps": [[text, ...], ...]}: the parts after each merge, the bytes first.

    ranks   ``ranks_of(tokenizer)``
    """
    whole = tokenizer.token_bytes(id)
    parts = [bytes([byte]) for byte in whole]
    steps = [list(parts)]
    while ranks and len(parts) > 1:
        pairs = [ranks.get(a + b, len(ranks)) for a, b in pairwise(parts)]
        lowest = min(pairs)
        if lowest == len(ranks):  # <|endoftext|>, which is not made by merges
            break
        i = pairs.index(lowest)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
        steps.append(list(parts))
    return {
        "id": int(id),
        "text": shown(whole),
        "bytes": list(whole),
        "steps": [[shown(part) for part in step] for step in steps] if ranks else [],
    }


def ranks_of(tokenizer: Tokenizer) -> dict[bytes, int]:
    """The rank of every token of a byte-pair encoding; {} for other tokenizers."""
    tokens = tokenizer.tokens if isinstance(tokenizer, BytePairTokenizer) else ()
    return {token: rank for rank, token in enumerate(tokens)}


def shown(token: bytes) -> str:
    """Bytes as text; those that are no whole characters by their numbers, such as <C3>."""
    try:
        return token.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(f"<{byte:02X}>" for byte in token)
