"""Byte-pair merging: from bytes to tokens."""

from npgpt.teaching.exercises.exercise import Case, Exercise, Mistake
from npgpt.text import gpt2_bpe


def _package_merge(text, ranks):
    return [gpt2_bpe.tokens()[id] for id in gpt2_bpe.encode(text.decode())]


def _merge(text, ranks, choose, rounds=10_000):
    parts = [bytes([byte]) for byte in text]
    for _ in range(rounds):
        pairs = [(i, ranks[parts[i] + parts[i + 1]]) for i in range(len(parts) - 1) if parts[i] + parts[i + 1] in ranks]
        if not pairs:
            break
        i, _ = choose(pairs)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def _longest_first(text, ranks):
    parts, begin = [], 0
    while begin < len(text):
        end = next(end for end in range(len(text), begin, -1) if text[begin:end] in ranks)
        parts.append(text[begin:end])
        begin = end
    return parts


def _lowest(pairs):
    return min(pairs, key=lambda pair: pair[1])


def _word(text):
    return Case(repr(text), {"text": text.encode(), "ranks": {token: i for i, token in enumerate(gpt2_bpe.tokens())}})


BYTE_PAIRS = Exercise(
    name="byte_pairs",
    title="Byte-pair merging: from bytes to GPT-2's tokens.",
    task="""
A word begins as a list of single bytes. Of all pairs of neighbours that make a
token, merge the one whose token has the lowest rank: it was learned first. If
this pair is there several times, merge the leftmost one. Again, until no two
neighbours make a token.

``ranks`` is GPT-2's table, {token: rank}, with all single bytes in it.
""",
    read="docs/course/README.md, npgpt/text/bpe_training.py, which learns the ranks, and npgpt/text/byte_level.py: "
    "_encoded (after you tried)",
    signature="merge(text, ranks)",
    gives="text, bytes; ranks, {bytes: rank} -> a list of bytes, which joined are the text",
    outputs=("tokens",),
    reference=_package_merge,
    cases=tuple(map(_word, ["the", "bbbbb", "antidisestablish", " hellooo", " xylophones", "é", "q", ""])),
    mistakes=(
        Mistake(
            lambda text, ranks: _merge(text, ranks, choose=lambda pairs: pairs[0]),
            "You merge the leftmost pair that makes a token. Which one was learned first? Take the lowest rank.",
        ),
        Mistake(
            lambda text, ranks: _merge(text, ranks, choose=lambda pairs: max(pairs, key=lambda pair: pair[1])),
            "You merge the pair with the highest rank. The lowest one was learned first.",
        ),
        Mistake(
            _longest_first,
            "You cut off the longest token that fits. The merges decide, in the order in which they were learned.",
        ),
        Mistake(
            lambda text, ranks: _merge(text, ranks, _lowest, rounds=1),
            "That is one merge. Go on until no two neighbours make a token.",
        ),
        Mistake(lambda text, ranks: [bytes([byte]) for byte in text], "These are the single bytes: nothing is merged."),
        Mistake(
            lambda text, ranks: _merge(
                text, ranks, choose=lambda pairs: min(pairs, key=lambda pair: (pair[1], -pair[0]))
            ),
            "If the best pair is there several times, the leftmost one is merged first.",
        ),
    ),
)
