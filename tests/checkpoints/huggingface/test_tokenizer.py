"""A tokenizer's files, against transformers and tokenizers; and whose vocabulary a stranger's folder has."""

import json

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from npgpt.checkpoints.huggingface.tokenizer import tokenizer_json, write_tokenizer_files
from npgpt.errors import TokenizerError
from npgpt.text.byte_pairs import BPETokenizer
from npgpt.text.gpt2_bpe import PATTERN
from npgpt.text.tokenizers import ByteTokenizer, CharTokenizer, GPT2Tokenizer, make_tokenizer

REASON = "compares with transformers and tokenizers, which are not installed"
TEXTS = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "data").glob("*.txt"))]
ODD = [
    "",
    " ",
    "  \n\n\t a  b ",
    " " * 3000 + "x" + "\n" * 3000,
    "\x00\x01\x1c\x1d\x1e\x1f\x7f\x85\xa0\xad",
    "a\u1680b\u180ec\u200bd\u2028e\u2029f\u3000g\ufeffh\ufffdi\uffffj",
    "it's IT'S don't we'll ’twas 's 'S",
    "👨‍👩‍👧‍👦 é e\u0301 \u0915\u094d\u0937 ẞ ǅ 漢字 １２ Ⅷ ½ ٣",
    "\U0001d400\U000e0001\U0010ffff",
    "\r\n\r\r\n",
    "a" * 3000 + "1" * 3000 + "!" * 3000,
    "<|endoftext",
    "Ġ Ċ â ▁",
]
CHARACTERS = "".join(sorted({*"".join([*TEXTS, *ODD])}))
TOKENIZERS = {
    "gpt2": GPT2Tokenizer(),
    "char": CharTokenizer(CHARACTERS),
    "byte": ByteTokenizer(),
    "bpe": make_tokenizer("bpe:1000", [*TEXTS, *ODD]),
}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """The tokenizers that transformers makes of our files."""
    transformers = pytest.importorskip("transformers", reason=REASON)
    found = {}
    for name, tokenizer in TOKENIZERS.items():
        folder = tmp_path_factory.mktemp(name)
        write_tokenizer_files(folder, tokenizer, 1 << 20)
        (folder / "config.json").write_text('{"model_type": "gpt2"}')
        found[name] = transformers.AutoTokenizer.from_pretrained(folder)
    return found


@pytest.fixture(scope="module")
def libraries():
    """Those that the tokenizers library makes of tokenizer.json: of GPT-2's, transformers 5 takes parts alone."""
    tokenizers = pytest.importorskip("tokenizers", reason=REASON)
    return {name: tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json(t))) for name, t in TOKENIZERS.items()}


def short_text(name: str):
    characters = st.sampled_from(CHARACTERS) if name == "char" else st.characters(exclude_categories=["Cs"])
    return st.text(characters | st.sampled_from(" \n\t'ste1.é"), max_size=60)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("text", [*TEXTS, *ODD])
def test_the_same_ids_and_text(theirs, libraries, name, text):
    ids = TOKENIZERS[name].encode(text).tolist()
    assert theirs[name].encode(text) == libraries[name].encode(text).ids == ids
    assert theirs[name].decode(ids) == libraries[name].decode(ids) == text


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_same_ids_and_text_of_any_text(theirs, libraries, name):
    @given(short_text(name))
    def check(text):
        ids = TOKENIZERS[name].encode(text).tolist()
        assert theirs[name].encode(text) == libraries[name].encode(text).ids == ids
        assert theirs[name].decode(ids) == libraries[name].decode(ids) == text

    check()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_same_text_of_any_ids(theirs, libraries, name):
    """Also where the bytes are not UTF-8, and with <|endoftext|>."""
    rng = np.random.default_rng(0)
    ours = TOKENIZERS[name]
    for _ in range(300):
        ids = rng.integers(0, ours.vocab_size, rng.integers(1, 40))
        ids[rng.random(len(ids)) < 0.05] = ours.end_of_text
        assert theirs[name].decode(ids) == ours.decode(ids)
        assert libraries[name].decode(ids.tolist(), skip_special_tokens=False) == ours.decode(ids)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_end_of_text(theirs, libraries, name):
    """The one difference: there its name in a text is its id, and here ordinary text."""
    end = TOKENIZERS[name].end_of_text
    their = theirs[name]
    assert (their.bos_token_id, their.eos_token_id, their.pad_token, len(their)) == (end, end, None, end + 1)
    assert their.convert_tokens_to_ids("<|endoftext|>") == end
    assert end in their.encode("a<|endoftext|>b")
    assert end not in TOKENIZERS["byte"].encode("a<|endoftext|>b")
    if name != "char":  # in which these characters are not all known
        ordinary = their.encode("a<|endoftext|>b", split_special_tokens=True)
        assert ordinary == TOKENIZERS[name].encode("a<|endoftext|>b").tolist()
    assert their.decode([end, end], skip_special_tokens=True) == ""
    assert libraries[name].decode([end, end], skip_special_tokens=True) == ""


def test_tiktokens_file_of_a_tokenizer_of_ones_own(tmp_path):
    """tiktoken's own reader and encoder give the same ids, and transformers reads vocab.json and merges.txt too."""
    tiktoken_load = pytest.importorskip("tiktoken.load")
    import tiktoken

    ours = TOKENIZERS["bpe"]
    write_tokenizer_files(tmp_path, ours, 1024)
    try:
        ranks = tiktoken_load.load_tiktoken_bpe(str(tmp_path / "tokenizer.tiktoken"))
    except ImportError as error:  # older versions read no file without another package
        pytest.skip(str(error))
    theirs = tiktoken.Encoding("theirs", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    lines = (tmp_path / "merges.txt").read_text(encoding="utf-8").split("\n")
    assert lines[1:-1] == list(ours.merges)
    assert json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))["<|endoftext|>"] == ours.end_of_text
    for text in [*TEXTS, *ODD]:
        assert theirs.encode_ordinary(text) == ours.encode(text).tolist()


def test_merges_that_are_no_encoding_are_not_written(tmp_path):
    """In "abcd" the bytes "bc" are merged first, so it is never made of "ab" and "cd"."""
    with pytest.raises(TokenizerError, match="not made of two earlier ones"):
        write_tokenizer_files(tmp_path, BPETokenizer(["b c", "a b", "c d", "ab cd"]), 8)
