"""A trained byte-pair encoding: against a plain trainer, against Hugging Face's, and GPT-2's pattern in Python's re."""

import json
from collections import Counter
from itertools import pairwise

import pytest
from conftest import ROOT
from hypothesis import example, given
from hypothesis import strategies as st

from npgpt.errors import TokenizerError
from npgpt.text import bpe_training, gpt2_bpe
from npgpt.text.bpe_training import count_pieces, train_merges
from npgpt.text.byte_level import BYTES, merges
from npgpt.text.byte_pairs import BPETokenizer
from npgpt.text.tokenizers import make_tokenizer, tokenizer_from_dict

VERDICT = (ROOT / "data" / "the-verdict.txt").read_text(encoding="utf-8")
pieces_of_few_bytes = st.dictionaries(st.text("abc", min_size=1, max_size=12), st.integers(1, 5), max_size=12)


def plain_merges(pieces, limit):
    """The algorithm as it is told: count all pairs, merge the first, begin again."""
    ids = {byte: i for i, byte in enumerate(BYTES)}
    words = [([ids[bytes([b])] for b in piece.encode()], n) for piece, n in pieces.items()]
    found = []
    while len(found) < limit:
        count = Counter()
        for word, n in words:
            for pair in pairwise(word):
                count[pair] += n
        best = min(count, key=lambda pair: (-count[pair], pair), default=None)
        if best is None or count[best] < 2:
            break
        for word, _ in words:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == best:
                    word[i : i + 2] = [256 + len(found)]
                i += 1
        found.append(best)
    return found, words


@given(pieces_of_few_bytes, st.integers(0, 25))
@example({"aaaaa": 2, "baab": 1, "abab": 3, "ababab": 1}, 25)
def test_merges_are_those_of_the_plain_algorithm(pieces, limit):
    expected, words = plain_merges(pieces, limit)
    found = train_merges(pieces, limit)
    assert found == expected
    tokens = list(BYTES)
    for a, b in found:
        tokens.append(tokens[a] + tokens[b])
    assert len(set(tokens)) == len(tokens)
    # Each token has one pair that makes it, and tiktoken, which knows ranks alone, encodes as training did.
    assert merges(tuple(tokens)) == tuple((tokens[a], tokens[b]) for a, b in found)
    encoding = gpt2_bpe.make_encoding("trained", {token: i for i, token in enumerate(tokens)})
    for piece, (word, _) in zip(pieces, words, strict=True):
        assert encoding.encode_ordinary(piece) == word


@pytest.mark.parametrize("size", [400, 2000])
def test_merges_are_those_of_hugging_faces_trainer(size):
    tokenizers = pytest.importorskip("tokenizers", reason="compares with tokenizers, which is not installed")
    text = VERDICT + " naïve № ½ 三十 中文。\n\n\n  Ⅷ e\u0301\x1c\u00a0\u00a0x " * 3 + "aaaaaaa " * 5
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size, min_frequency=2, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    theirs.train_from_iterator([text], trainer)
    expected = [" ".join(pair) for pair in json.loads(theirs.to_str())["model"]["merges"]]
    ours = make_tokenizer(f"bpe:{size}", [text])
    assert list(ours.merges) == expected
    # There <|endoftext|> is the first id, here the last.
    assert [id - 1 for id in theirs.encode(text).ids] == ours.encode(text).tolist()


text_like = st.lists(
    st.sampled_from(["a", "I'll", "'s", "' s", " ", "  ", "\n", "\r\n", "\u00a0", "\x1c", "\x85", "1", "²", "½", "三",
                     "é", "e\u0301", "👩", "...", "_", "-", "ǅ", "Ⅷ", "٣", "𝟗", "café9", " of"]),
    max_size=30,
).map("".join)  # fmt: skip


@given(text_like)
def test_pieces_are_those_of_gpt2s_pattern(text):
    regex = pytest.importorskip("regex", reason="compares with the regex package, which is not installed")
    assert count_pieces([[text]]) == Counter(regex.findall(gpt2_bpe.PATTERN, text))


def test_pieces_do_not_depend_on_the_chunks_and_end_with_documents():
    chunks = [VERDICT[i : i + 7] for i in range(0, len(VERDICT), 7)]
    assert count_pieces([chunks]) == count_pieces([[VERDICT]])
    assert count_pieces([["ab"], ["ab"], ["a", "b"]]) == {"ab": 3}
    with pytest.raises(TokenizerError, match="U\\+D800"):
        count_pieces([["a\ud800"]])


def test_memory_is_bounded_by_forgetting_the_rarest_pieces(monkeypatch):
    monkeypatch.setattr(bpe_training, "MAX_PIECES", 10)
    documents = [[f"rare{i}"] for i in range(3)] + [["often"]] * 9
    documents += [[chr(97 + i) * 3] for i in range(20)]
    counts = count_pieces(documents)
    assert counts["often"] == 9
    assert len(counts) <= 10


def test_tokens_have_a_largest_length(monkeypatch):
    monkeypatch.setattr(bpe_training, "MAX_TOKEN_BYTES", 4)
    tokens = list(BYTES)
    for a, b in train_merges({"-" * 64: 2, "ab": 2}, 100):
        tokens.append(tokens[a] + tokens[b])
    assert tokens[256:] == [b"--", b"----", b"ab"]


def test_a_small_text_gives_fewer_ids():
    assert make_tokenizer("bpe:4096", ["abcabc"]).merges == ("a b", "ab c")
    assert make_tokenizer("bpe:4096", []).vocab_size == 257


def test_a_trained_tokenizer_encodes_any_text():
    tokenizer = make_tokenizer("bpe:500", [VERDICT])
    assert tokenizer.vocab_size == 500
    for text in (VERDICT, "中文 👩‍👩‍👧 \x00 <|endoftext|>", ""):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.end_of_text == 499
    assert tokenizer_from_dict(tokenizer.to_dict()).encode(VERDICT).tolist() == tokenizer.encode(VERDICT).tolist()


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ("t h", "must be a list"),
        ({"t h": 1}, "must be a list"),
        ([["t", "h"]], "merge 0 "),
        (["t h", "th  e"], "merge 1 "),
        (["th e", "t h"], "merge 0 "),
        (["t h", "t h"], "merge 1 "),
        (["é é"], None),  # the byte E9, spelled
        (["三 三"], "merge 0 "),
        (["a a", *(f"{'a' * 2**i} {'a' * 2**i}" for i in range(1, 20))], "more than 1,024 bytes"),
    ],
)
def test_stored_merges_are_checked(stored, words):
    if words is None:
        assert BPETokenizer(stored).vocab_size == 258
        return
    with pytest.raises(TokenizerError, match=words):
        tokenizer_from_dict({"name": "bpe", "merges": stored})
