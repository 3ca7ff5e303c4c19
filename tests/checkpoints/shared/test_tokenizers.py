"""A tokenizer's file, which may be a stranger's."""

import os

import pytest

from npgpt.checkpoints.shared.atomic import write_json
from npgpt.checkpoints.shared.tokenizers import MAX_TOKENIZER_BYTES, read_tokenizer
from npgpt.errors import CheckpointError
from npgpt.text.tokenizers import CharTokenizer


def test_it_comes_back(tmp_path):
    tokenizer = CharTokenizer("".join(map(chr, (*range(0xD800), *range(0xE000, 0x110000)))))  # the largest there is
    write_json(tmp_path / "tokenizer.json", tokenizer.to_dict())
    assert read_tokenizer(tmp_path / "tokenizer.json").to_dict() == tokenizer.to_dict()


BAD = {
    "nothing": (b"", "not JSON"),
    "cut off": (b"{", "not JSON"),
    "not UTF-8": (b"\xff\xfe", "not UTF-8"),
    "deep": (b"[" * 100_000, "nested too deeply"),
    "a number of many digits": (b"1" * 10_000, "too many digits"),
    "a list": (b"[]", "a JSON object was expected"),
    "a name twice": (b'{"name": "byte", "name": "byte"}', "'name' is there twice"),
    "no tokenizer": (b'{"name": "bpe"}', "a stored bpe tokenizer must have|merges"),
    "many items": (b'{"name": [' + b"[]," * 300_000 + b"1]}", "more than 250,000 items"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_none_is_refused(case, tmp_path):
    content, words = BAD[case]
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_tokenizer(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_huge_file_is_not_read(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.touch()
    os.truncate(path, MAX_TOKENIZER_BYTES + 1)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: larger than 20,000,000 bytes"):
        read_tokenizer(path)
    with pytest.raises(CheckpointError, match=r"missing\.json: can't be read: No such file"):
        read_tokenizer(tmp_path / "missing.json")
