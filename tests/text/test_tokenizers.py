"""Tokenizers against tiktoken's own encoding, against Python's codecs, and on what they must refuse."""

import hashlib
import json
import re
import threading
from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tiktoken
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiktoken_ext import openai_public

from npgpt.errors import TokenizerError
from npgpt.text import gpt2_bpe
from npgpt.text.tokenizers import (
    ByteTokenizer,
    CharTokenizer,
    GPT2Tokenizer,
    Tokenizer,
    make_tokenizer,
    tokenizer_from_dict,
)

# Text that GPT-2's pattern treats in all its ways: contractions, kinds of whitespace (U+001C only to Python),
# digits, other scripts, emoji, characters of two to four bytes.
PIECES = [
    "a", "I'll", "'s", "' s", "ve", " ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u2003", "\x1c", "\x85", "\x00", "1", "²",
    "三", "中文", "。", "！", "é", "e\u0301", "👩‍👩‍👧", ".", "...", '"', "_", "-", "<|endoftext|>", "word", " of", "ǅ",
    "\u0e01\u0e33",
]  # fmt: skip
text_like = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=30).map("".join) | st.text(
    " \n'ls1.", max_size=20
)

# Made once: a GPT2Tokenizer has a table of 50,257 entries.
GPT2 = GPT2Tokenizer()
BPE = make_tokenizer("bpe:300", ["the verdict of the jury, in the end: 中文 e\u0301 ...  \n\n\t" * 3])

NAMES = ("gpt2", "char", "byte", "bpe")


def tokenizer_for(name, text):
    return {"gpt2": GPT2, "bpe": BPE}.get(name) or make_tokenizer(name, [text or "x"])


def in_chunks(text, cuts):
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


@pytest.fixture(scope="module")
def tiktoken_gpt2():
    """The encoding as tiktoken defines it, with our file for the table that it would download."""
    ranks = {token: rank for rank, token in enumerate(gpt2_bpe.tokens())}
    with mock.patch.object(openai_public, "load_tiktoken_bpe", return_value=ranks):
        return tiktoken.Encoding(**openai_public.r50k_base())


def test_gpt2_rank_table_is_the_published_one():
    table = Path(gpt2_bpe.__file__).parent / "gpt2.tiktoken"
    digest = hashlib.sha256(table.read_bytes()).hexdigest()
    assert digest == "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"


def test_gpt2_encodes_hello_world_to_known_ids():
    ids = GPT2.encode("hello world")
    assert ids.tolist() == [31373, 995]
    assert ids.dtype == np.uint16
    assert (GPT2.vocab_size, GPT2.end_of_text) == (50257, 50256)
    assert GPT2.decode([31373, 50256, 995]) == "hello<|endoftext|> world"


@settings(deadline=None)
@given(text=text_like)
@example(text="it's <|endoftext|>\n\n  'LL ok' ll")
def test_gpt2_encodes_as_tiktoken_does(tiktoken_gpt2, text):
    ids = GPT2.encode(text).tolist()
    assert ids == tiktoken_gpt2.encode_ordinary(text)
    assert GPT2.decode(ids) == tiktoken_gpt2.decode(ids)


@pytest.mark.parametrize("space", [" ", "\n", "\u3000", " \n"])
@pytest.mark.parametrize(("before", "after"), [("", ""), ("x", "y"), ("x", ""), ("", " y")])
def test_gpt2_encodes_long_runs_of_whitespace_as_tiktoken_does(monkeypatch, space, before, after):
    # A run short enough for tiktoken, but treated as a long one, must be encoded as tiktoken does it.
    pattern = gpt2_bpe._LONG_RUN_OF_WHITESPACE.pattern.replace("500000", "5")
    monkeypatch.setattr(gpt2_bpe, "_LONG_RUN", 5)
    monkeypatch.setattr(gpt2_bpe, "_LONG_RUN_OF_WHITESPACE", re.compile(pattern))
    for n in (4, 5, 6, 7, 8):
        text = f"{before}{space * n}{after} z{space * n}"
        assert gpt2_bpe.encode(text) == gpt2_bpe.gpt2_encoding().encode_ordinary(text)


def test_gpt2_encodes_a_million_spaces_on_which_tiktoken_panics():
    assert GPT2.encode("x" + " " * 1_200_000 + "y").tolist() == [87, *[220] * 1_199_999, 331]


@settings(deadline=None)
@given(text=text_like, cuts=st.lists(st.integers(0, 200), max_size=6))
@pytest.mark.parametrize("name", NAMES)
def test_encoding_in_chunks_is_encoding_the_whole(name, text, cuts):
    tokenizer = tokenizer_for(name, text)
    parts = list(tokenizer.encode_stream(in_chunks(text, cuts)))
    assert np.concatenate([np.empty(0, tokenizer.dtype), *parts]).tolist() == tokenizer.encode(text).tolist()


@pytest.mark.parametrize("threads", [0, 1])
def test_encoding_where_no_more_threads_may_be_started(monkeypatch, threads):
    chunks = ["Nobody ate the pig. "] * 20
    right = [part.tolist() for part in GPT2.encode_stream(chunks)]
    start, started = threading.Thread.start, []

    def refused(thread):
        if len(started) == threads:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refused)
    assert [part.tolist() for part in GPT2.encode_stream(chunks)] == right
    assert len(started) == threads


@settings(deadline=None)
@given(text=text_like)
@example(text="don't won't 'tis we'll l' l 1'2\x1c \n a\u00a0 b ")
@example(text="x\n\n\n\ny")
def test_every_cut_of_safe_chunks_keeps_the_tokens(text):
    whole = gpt2_bpe.encode(text)
    for end in range(2, len(text) + 1):
        cut = gpt2_bpe._last_cut(text[:end])
        assert gpt2_bpe.encode(text[:cut]) + gpt2_bpe.encode(text[cut:]) == whole


@pytest.mark.parametrize("text", ["word " * 1000, "12,34 567\n" * 500, '{"a":[1,2,"b"]}' * 300, "我们，他们。" * 800])
def test_safe_chunks_hold_back_little_of_ordinary_text(text):
    chunks = in_chunks(text, range(0, len(text), 100))
    parts = list(gpt2_bpe.safe_chunks(chunks))
    assert "".join(parts) == text
    assert max(map(len, parts)) < 200


def test_safe_chunks_and_encode_stream_read_only_what_they_need():
    read = []

    def chunks():
        for i in range(1000):
            read.append(i)
            yield "some words "

    next(gpt2_bpe.safe_chunks(chunks()))
    assert len(read) <= 2
    read.clear()
    stream = GPT2.encode_stream(chunks())
    next(stream)
    assert len(read) < 20


@settings(deadline=None)
@given(text=text_like)
@pytest.mark.parametrize("name", NAMES)
def test_decode_inverts_encode(name, text):
    tokenizer = tokenizer_for(name, text)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.end_of_text not in ids


@settings(deadline=None)
@given(text=text_like)
@pytest.mark.parametrize("name", NAMES)
def test_decoding_one_id_at_a_time_gives_the_text_and_no_broken_character(name, text):
    text = text.replace("\ufffd", "")
    tokenizer = tokenizer_for(name, text)
    decoder = tokenizer.decoder()
    shown = ""
    for id in tokenizer.encode(text):
        shown += decoder.decode(id)
        assert text.startswith(shown)
    assert shown == text


@settings(deadline=None)
@given(
    data=st.binary(max_size=40)
    | st.lists(st.sampled_from([b"\xf0\x9f", b"\x91", b"\xa9", b"a", b"\xe2\x82"])).map(b"".join)
)
def test_a_decoder_replaces_bytes_as_python_does_and_drops_an_unfinished_end(data):
    shown = "".join(map(ByteTokenizer().decoder().decode, data))
    whole = data.decode("utf-8", errors="replace")
    assert shown in (whole, whole.removesuffix("\ufffd"))
    assert ByteTokenizer().decode(data) == whole


def test_a_decoder_holds_an_unfinished_character_back():
    decoder = GPT2.decoder()
    first, second, third = GPT2.encode("🜁")  # three tokens for four bytes
    assert [decoder.decode(first), decoder.decode(second), decoder.decode(third)] == ["", "", "🜁"]
    assert decoder.decode(first) + decoder.decode(31373) == "\ufffdhello"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [-1, 10**6, "vocab_size"])
def test_unknown_ids_are_refused(name, bad):
    tokenizer = tokenizer_for(name, "abc")
    bad = tokenizer.vocab_size if bad == "vocab_size" else bad
    with pytest.raises(TokenizerError, match=f"no id {bad}:.*0 to {tokenizer.vocab_size - 1}"):
        tokenizer.decode([0, bad])
    with pytest.raises(TokenizerError, match=f"no id {bad}:"):
        tokenizer.decoder().decode(bad)


@pytest.mark.parametrize("name", NAMES)
def test_lone_surrogates_are_refused(name):
    tokenizer = tokenizer_for(name, "abc")
    for text in ("ab\udc80", "ab\ud83d\ude00"):
        with pytest.raises(TokenizerError, match=rf"U\+{ord(text[2]):04X}\) at offset 2"):
            tokenizer.encode(text)


def test_char_ids_go_by_code_point():
    tokenizer = CharTokenizer.from_texts(["ba", "", "n👩a", "\n"])
    assert tokenizer.characters == "\nabn👩"
    assert tokenizer.encode("\n👩ab").tolist() == [0, 4, 1, 2]
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (6, 5)
    assert tokenizer.decode([1, 5, 2]) == "a<|endoftext|>b"
    assert tokenizer.encode("").tolist() == []


@pytest.mark.parametrize("unseen", ["ï", "A", "z", "\x07", "👩", "\U0010ffff"])
def test_char_names_an_unknown_character(unseen):
    tokenizer = CharTokenizer.from_texts(["abcdy"])
    with pytest.raises(TokenizerError) as error:
        tokenizer.encode(f"ab{unseen}d")
    message = str(error.value)
    assert f"{unseen!r} (U+{ord(unseen):04X}) at offset 2 " in message
    assert "--tokenizer" in message
    assert message.count("\n") < 3
    with pytest.raises(TokenizerError, match="at offset 6 "):
        list(tokenizer.encode_stream(["abcd", "", f"ab{unseen}"]))


def test_char_with_more_characters_than_16_bits_hold():
    characters = [chr(code) for code in range(70_000) if not 0xD800 <= code < 0xE000]
    tokenizer = CharTokenizer.from_texts(characters)
    ids = tokenizer.encode(characters[-1])
    assert ids.dtype == np.uint32
    assert ids.tolist() == [len(characters) - 1]
    assert tokenizer.decode(ids) == characters[-1]
    # 65,535 characters and <|endoftext|> just fit.
    assert CharTokenizer("".join(characters[: 2**16 - 1])).dtype == np.uint16
    assert CharTokenizer("".join(characters[: 2**16])).dtype == np.uint32


@pytest.mark.parametrize(("size", "dtype"), [(2**16, np.uint16), (2**16 + 1, np.uint32)])
def test_ids_take_16_bits_as_long_as_all_fit(size, dtype):
    class Some(Tokenizer):
        encode = None

    assert Some([b""] * size).dtype == dtype


def test_bytes_are_utf8():
    tokenizer = ByteTokenizer()
    assert tokenizer.encode("aé").tolist() == [0x61, 0xC3, 0xA9]
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (257, 256)
    assert tokenizer.decode([0x61, 256]) == "a<|endoftext|>"


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_tokenizer_is_the_same(name):
    text = 'naïve "👩"\u2028\\\n'
    tokenizer = tokenizer_for(name, text)
    values = json.loads(json.dumps(tokenizer.to_dict()))
    loaded = tokenizer_from_dict(values)
    assert type(loaded) is type(tokenizer)
    assert loaded.encode(text).tolist() == tokenizer.encode(text).tolist()
    assert values == tokenizer.to_dict()


def test_special_tokens_of_a_byte_pair_encoding():
    """Their ids are anywhere, no text encodes to them, and they may be without one that ends a text."""
    stored = {"name": "bpe", "merges": ["a b", "ab ab"], "special": {"<s>": 0, "é ": 257}, "end_of_text": None}
    tokenizer = tokenizer_from_dict(stored)
    assert tokenizer.to_dict() == stored
    assert (tokenizer.vocab_size, tokenizer.end_of_text, tokenizer.stop_ids) == (260, None, frozenset())
    single = [tokenizer.ids[bytes([byte])] for byte in "x<s>é ".encode()]
    assert tokenizer.encode("abababx<s>é ").tolist() == [259, 258, *single]
    assert tokenizer.decode([257, 0, 258]) == "é <s>ab"
    assert sorted([*tokenizer.ids.values(), *tokenizer.special.values()]) == list(range(260))


def test_an_unknown_tokenizer_and_one_without_characters_are_refused():
    for name in ("bpe", "bpe:", "bpe:256", "bpe:100001", "bpe:-300", "bpe:3e3", "bpe:٣٠٠", "bpe:N", "gpt2:300", "x"):
        with pytest.raises(TokenizerError, match=rf"{name!r}; there are gpt2, char, byte, bpe:N \(N at least 257"):
            make_tokenizer(name)
    with pytest.raises(TokenizerError, match="at least one character"):
        make_tokenizer("char", [])


@pytest.mark.parametrize(
    "values",
    [
        None,
        [],
        "gpt2",
        {},
        {"name": None},
        {"name": ["gpt2"]},
        {"name": "bpe"},
        {"name": "gpt2", "characters": "ab"},
        {"name": "char"},
        {"name": "char", "characters": "ab", "vocab_size": 3},
        {"name": "char", "characters": ""},
        {"name": "char", "characters": ["a", "b"]},
        {"name": "char", "characters": 5},
        {"name": "char", "characters": "ba"},
        {"name": "char", "characters": "aab"},
        {"name": "char", "characters": "ab\ud800"},
        {"name": "bpe", "merges": ["a b"], "special": {"x": 0}},  # its end is missing
        {"name": "bpe", "merges": ["a b"], "special": {"x": 0}, "end_of_text": "y"},
        {"name": "bpe", "merges": ["a b"], "special": {"x": 258}, "end_of_text": "x"},  # no token has the id 257
        {"name": "bpe", "merges": ["a b"], "special": {"x": -1}, "end_of_text": "x"},
        {"name": "bpe", "merges": ["a b"], "special": {"x": True}, "end_of_text": "x"},
        {"name": "bpe", "merges": ["a b"], "special": {"x": 1, "y": 1}, "end_of_text": "x"},
        {"name": "bpe", "merges": ["a b"], "special": {"": 0}, "end_of_text": ""},
        {"name": "bpe", "merges": ["a b"], "special": {"ab": 0}, "end_of_text": "ab"},  # an ordinary token, too
        {"name": "bpe", "merges": ["Ġ b"], "special": {"Ġb": 0}, "end_of_text": "Ġb"},  # the spelling of one
        {"name": "bpe", "merges": ["a b"], "special": {"\ud800": 0}, "end_of_text": "\ud800"},
        {"name": "bpe", "merges": ["a b"], "special": ["x"], "end_of_text": "x"},
        {"name": "bpe", "merges": ["a b"], "special": {"x": 0}, "end_of_text": ["x"]},
    ],
)
def test_a_wrong_stored_tokenizer_is_refused(values):
    with pytest.raises(TokenizerError):
        tokenizer_from_dict(values)


def test_tiktoken_is_imported_only_to_encode(python):
    ended = python(
        "import sys\n"
        "from npgpt.text import batches, corpus, tokenizers\n"
        "tokenizers.GPT2Tokenizer().decode([31373]), tokenizers.ByteTokenizer().encode('a')\n"
        "print({'numba', 'tiktoken'} & set(sys.modules))\n"
    )
    assert ended.stdout == "set()\n", ended
