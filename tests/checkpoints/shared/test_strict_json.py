"""Where Python's JSON parser is lenient, ours is not."""

import json
import math

import pytest

from npgpt.checkpoints.shared.strict_json import MAX_FILE_BYTES, parse_json, read_json_object
from npgpt.errors import CheckpointError

BAD = {
    "": "not JSON at character 0",
    "{": "not JSON at character 1",
    "{} {}": "not JSON at character 3",
    "[1,]": "not JSON at character",
    "{'a': 1}": "not JSON at character 1",
    '{"a": 1, "a": 1}': "'a' is there twice",
    '[{"b": {"c": 1, "d": 2, "c": 3}}]': "'c' is there twice",
    '{"a": 1, "\\u0061": 2}': "'a' is there twice",
    "NaN": "NaN is there",
    "[Infinity]": "Infinity is there",
    "-Infinity": "-Infinity is there",
    "[" * 100_000: "nested too deeply",
    "1" * 5000: "too many digits",
    '"\n"': "not JSON at character 1",
    "\ufeff{}": "not JSON at character 0",
}


@pytest.mark.parametrize("text", BAD, ids=[repr(text[:20]) for text in BAD])
def test_bad_texts(text):
    with pytest.raises(CheckpointError, match=BAD[text]) as caught:
        parse_json(text.encode(), "the/file: header")
    assert str(caught.value).startswith("the/file: header: ")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("data", [b'{"\xff": 1}', b"\xff\xfe{\x00}\x00", b'"\xed\xa0\x80"', '"é"'.encode("latin-1")])
def test_bytes_that_are_not_utf8(data):
    with pytest.raises(CheckpointError, match="the/file: not UTF-8 at byte"):
        parse_json(data, "the/file")


def test_good_values_are_those_of_python():
    text = '{"a": [1, -2, 3.5e-7, true, null, "\\ud83d\\ude00 é"], "b": {}, "c": 12345678901234567890123, "d": -0.0}'
    assert parse_json(text, "x") == json.loads(text)


def test_infinity_where_it_is_allowed_but_never_nan():
    assert parse_json("[Infinity, -Infinity]", "x", infinity=True) == [math.inf, -math.inf]
    with pytest.raises(CheckpointError, match="NaN"):
        parse_json("NaN", "x", infinity=True)


def test_many_keys_with_one_twice_take_no_time():
    text = "{" + ",".join(f'"{i}":0' for i in [*range(200_000), 199_999]) + "}"
    with pytest.raises(CheckpointError, match="'199999' is there twice"):  # comparing every pair would take an hour
        parse_json(text, "x")


def test_files(tmp_path):
    path = tmp_path / "config.json"
    for content, message in [
        (None, "can't be read: No such file"),
        (b"[]", "a JSON object was expected, not list"),
        (b"null", "a JSON object was expected, not NoneType"),
        (b" " * (MAX_FILE_BYTES + 1), "larger than 1,000,000 bytes"),
        (b"\xff", "not UTF-8 at byte 0"),
    ]:
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(CheckpointError, match=message) as caught:
            read_json_object(path)
        assert str(path) in str(caught.value)
    path.write_bytes(b'{"n_layer": 2}')
    assert read_json_object(path) == {"n_layer": 2}
    with pytest.raises(CheckpointError, match="can't be read"):
        read_json_object(tmp_path)
