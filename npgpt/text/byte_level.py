"""GPT-2's tokens in other programs' files: their bytes as printable characters, and merges in order.

A vocabulary is a list of byte strings, and tiktoken needs no more. Hugging Face's tokenizer files and GGUF hold text,
so there every byte is a character; and they hold each token's last merge as well, which the ranks determine.

Source: Radford et al. 2019, section 2.2; the characters are those of openai/gpt-2, src/encoder.py, bytes_to_unicode.
"""

from functools import cache
from heapq import heappop, heappush

from npgpt.errors import TokenizerError

# Latin-1's printable characters stand for themselves. The other bytes, in order, are U+0100, U+0101, ...: a space is Ġ.
_PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_CHARACTERS = {byte: 0x100 + i for i, byte in enumerate(sorted(set(range(0x100)) - _PRINTABLE))}


# Every byte, in the order of its character: GPT-2's first 256 tokens.
BYTES = tuple(bytes([byte]) for byte in sorted(range(0x100), key=lambda byte: _CHARACTERS.get(byte, byte)))


def bytes_to_unicode(token: bytes) -> str:
    """One character for each byte: b" caf\\xc3\\xa9" -> "ĠcafÃ©"."""
    return token.decode("latin-1").translate(_CHARACTERS)


@cache
def merges(tokens: tuple[bytes, ...]) -> tuple[tuple[bytes, bytes], ...]:
    """The merges that made a byte-pair vocabulary, in order: one for each token longer than a byte.

    tokens: in order of rank, special ones left out. Each was made by one merge of two earlier ones: those that are left
    when its own bytes are encoded with the earlier ones alone. Raises TokenizerError if there are not two.
    """
    ranks = {token: rank for rank, token in enumerate(tokens)}
    found = []
    for rank, token in enumerate(tokens):
        if len(token) > 1:
            parts = _encoded(token, ranks, rank)
            if len(parts) != 2:
                raise TokenizerError(f"token {rank}, {token[:100]!r}, is not made of two earlier ones")
            found.append((parts[0], parts[1]))
    return tuple(found)


def spelled_merges(tokens: tuple[bytes, ...]) -> list[str]:
    """The same as other programs' files have them, the two tokens spelled as characters: ["Ġ t", "Ġ a", ...]."""
    return [f"{bytes_to_unicode(a)} {bytes_to_unicode(b)}" for a, b in merges(tokens)]


def _encoded(token: bytes, ranks: dict[bytes, int], end: int) -> list[bytes]:
    """The parts that byte-pair encoding leaves, with the tokens of ranks before ``end``.

    Pairs of neighbours wait in a heap, so the time grows with a token's length and not with its square. A stranger's
    tokens may be long.
    """
    size = len(token)
    ends = [*range(1, size + 1), size + 1]  # of the part that begins at each byte; size: none begins there any more
    before = list(range(-1, size))  # where the part before the one that begins at each byte begins
    pairs: list[tuple[int, int, int]] = []

    def add(begin, stop):
        rank = ranks.get(token[begin:stop], end)
        if rank < end:
            heappush(pairs, (rank, begin, stop))

    for i in range(size - 1):
        add(i, i + 2)
    while pairs:
        _, begin, stop = heappop(pairs)
        middle = ends[begin]
        if ends[middle] != stop:  # one of the two has become a part of another
            continue
        ends[begin], ends[middle] = stop, size
        if begin > 0:
            add(before[begin], stop)
        if stop < size:
            before[stop] = begin
            add(begin, ends[stop])
    parts = []
    begin = 0
    while begin < size:
        parts.append(token[begin : ends[begin]])
        begin = ends[begin]
    return parts
