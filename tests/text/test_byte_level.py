"""The published files of GPT-2's tokenizer, remade from its ranks."""

import hashlib
import random
from itertools import pairwise
from time import process_time

import pytest

from npgpt.text import gpt2_bpe
from npgpt.text.byte_level import bytes_to_unicode, merges


def test_every_byte_is_a_printable_character_of_its_own():
    characters = [bytes_to_unicode(bytes([byte])) for byte in range(256)]
    assert len(set(characters)) == 256
    assert all(len(c) == 1 and c.isprintable() and not c.isspace() for c in characters)
    assert bytes_to_unicode(" café\n".encode()) == "ĠcafÃ©Ċ"
    assert bytes_to_unicode(b"") == ""
    # GPT-2's first 256 ids are the bytes in the order of those characters: the printable ones, then the others.
    assert [bytes_to_unicode(token) for token in gpt2_bpe.tokens()[:256]] == sorted(characters)


def test_merges_are_those_that_openai_published():
    lines = [
        "#version: 0.2",
        *(f"{bytes_to_unicode(a)} {bytes_to_unicode(b)}" for a, b in merges(tuple(gpt2_bpe.tokens()))),
        "",
    ]
    # of vocab.bpe, as tiktoken gives it (tiktoken_ext/openai_public.py)
    published = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == published


def test_merges_of_small_vocabularies():
    assert merges(()) == ()
    assert merges((b"a", b"b")) == ()
    assert merges((b"a", b"b", b"ab", b"abab", b"aab")) == ((b"a", b"b"), (b"ab", b"ab"), (b"a", b"ab"))
    with pytest.raises(ValueError, match="token 2, b'abc', is not made of two earlier ones"):
        merges((b"a", b"b", b"abc", b"ab", b"c"))


def test_merges_of_tokens_in_which_pairs_compete():
    """Compared with the definition: of all neighbours that are a token together, the first of those of lowest rank."""
    rng = random.Random(1)
    for _ in range(200):
        tokens = [b"a", b"b"]
        while len(tokens) < 12:
            token = rng.choice(tokens) + rng.choice(tokens)
            if token not in tokens and _is_made_of_two(token, tokens):
                tokens.append(token)
        assert merges(tuple(tokens)) == tuple(tuple(_parts(t, tokens[:i])) for i, t in enumerate(tokens) if len(t) > 1)


def _is_made_of_two(token, tokens):
    return len(_parts(token, tokens)) == 2


def _parts(token, tokens):
    parts = [token[i : i + 1] for i in range(len(token))]
    while pairs := [(tokens.index(a + b), i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in tokens]:
        i = min(pairs)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def test_long_tokens_take_no_longer_a_byte():
    """A stranger's may have 1,024 bytes, and there may be 20,000 of these in a file."""
    letters = [bytes([byte]) for byte in range(128)]

    def seconds(power):
        doubled = [b"a" * 2**i for i in range(1, power + 1)]
        longer = [doubled[-1] + letter for letter in letters if letter != b"a"]
        began = process_time()
        found = merges.__wrapped__((*letters, *doubled, *longer))  # what it is without its cache
        assert found[-1] == (doubled[-1], letters[-1])
        return process_time() - began

    assert seconds(9) < 150 * min(seconds(4) for _ in range(3))  # 32 times as many bytes; their squares are 1,024 times
