"""The published files of GPT-2's tokenizer, remade from its ranks."""

import hashlib

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
