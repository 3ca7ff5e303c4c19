"""JSON Lines from strangers."""

import json
import os

import numpy as np
import pytest
from helpers.mutations import COUNT, mutated

from npgpt.errors import DataError
from npgpt.scoring import examples
from npgpt.scoring.examples import MAX_LINE_BYTES, Example, find_task, read_examples
from npgpt.scoring.last_words import read_last_words
from npgpt.scoring.multiple_choice import read_questions
from npgpt.text.tokenizers import ByteTokenizer, CharTokenizer, GPT2Tokenizer

QUESTION = {"activity_label": "Cooking", "ctx_a": "A man", "ctx_b": "he", "endings": ["cooks.", "flies."], "label": 0}


def written(folder, *lines, end="\n"):
    path = folder / "examples.jsonl"
    path.write_bytes(b"".join((x if isinstance(x, bytes) else json.dumps(x).encode()) + end.encode() for x in lines))
    return path


# Which task


@pytest.mark.parametrize(
    ("first", "task"),
    [
        ({"text": "a b"}, "lambada"),
        (QUESTION, "hellaswag"),
        ({"text": "a", "endings": []}, "hellaswag"),
        ({"other": "a"}, "perplexity"),
        (["text"], "perplexity"),
        (b"{not JSON", "perplexity"),
        (b'{"text": NaN}', "perplexity"),
        (b"text", "perplexity"),
        (b"", "perplexity"),
        (b'  {"text": "a b"}\r', "lambada"),
        (b'\xef\xbb\xbf{"text": "a b"}', "lambada"),
        (b'{"text": "\xff"}', "perplexity"),
        (b'{"text": "' + b"a" * MAX_LINE_BYTES + b'"}', "perplexity"),
    ],
)
def test_the_first_line_says_what_a_file_is_for(tmp_path, first, task):
    assert find_task(written(tmp_path, first, {"text": "a b"})) == task


def test_folders_are_texts_and_pipes_must_be_told(tmp_path):
    assert find_task(tmp_path) == "perplexity"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match=r"no ordinary file.*give --task"):
        find_task(tmp_path / "pipe")
    with pytest.raises(DataError, match=r"can't read .*nothing: No such file"):
        find_task(tmp_path / "nothing")


# Lines


def test_the_examples_and_their_places(tmp_path):
    path = written(tmp_path, {"a": 1}, b"", b"  ", {"a": 2}, b'{"a": 3}\r', b'{"a": 4}')
    found = [*read_examples(path)]
    assert [e.values["a"] for e in found] == [1, 2, 3, 4]
    assert [e.place for e in found] == [f"{path}, line {number}" for number in (1, 4, 5, 6)]
    assert [e.values["a"] for e in read_examples(path, 2)] == [1, 2]
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n{"a": 2}')  # no newline at the end
    assert [e.values["a"] for e in read_examples(path)] == [1, 2]


BAD_LINES = [
    (b"{", "not JSON at character 2"),
    (b'{"text": "a b"} x', "not JSON at character 16: Extra data"),
    (b"[]", "a JSON object was expected, not list"),
    (b"null", "a JSON object was expected, not NoneType"),
    (b'{"text": "caf\xe9"}', "not UTF-8 at byte 13"),
    (b'{"text": NaN}', "NaN is there, which JSON does not have"),
    (b'{"text": -Infinity}', "-Infinity is there"),
    (b'{"text": "a b", "text": "c d"}', "the key 'text' is there twice"),
    (b'{"text": 1' + b"0" * 5000 + b"}", "a number has too many digits"),
    (b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    (b'{"text": "' + b"a" * MAX_LINE_BYTES + b'"}', "longer than 262,144 bytes"),
]


@pytest.mark.parametrize(("line", "problem"), BAD_LINES, ids=range(len(BAD_LINES)))
def test_bad_lines_are_named_with_file_and_line(tmp_path, line, problem):
    path = written(tmp_path, {"text": "a b"}, line)
    with pytest.raises(DataError) as error:
        [*read_examples(path)]
    assert str(error.value).startswith(f"{path}, line 2: ")
    assert problem in str(error.value)
    assert len([*read_examples(path, 1)]) == 1  # what is beyond the limit is not read


def test_files_without_or_with_too_many_examples(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="is empty: there are no examples"):
        [*read_examples(written(tmp_path, b"", b" "))]
    with pytest.raises(DataError, match="Is a directory"):
        [*read_examples(tmp_path)]
    with pytest.raises(DataError, match="line 1: longer than"):
        [*read_examples("/dev/zero")]
    monkeypatch.setattr(examples, "MAX_EXAMPLES", 3)
    path = written(tmp_path, *[{"a": 1}] * 4)
    with pytest.raises(DataError, match="more than 3 examples: --limit"):
        [*read_examples(path)]
    assert len([*read_examples(path, 3)]) == 3


# Fields


def test_fields_of_wrong_types():
    example = Example("f, line 7", {"a": 1, "b": "x", "c": ["x", None], "d": True})
    assert example.text("b") == "x"
    for field, problem in [
        ("z", "the field 'z' is missing"),
        ("a", "a must be a string, not int"),
        ("c", "c must be a string, not list"),
        ("d", "d must be a string, not bool"),
    ]:
        with pytest.raises(DataError, match=f"^f, line 7: {problem}$"):
            example.text(field)
    for field, problem in [
        ("z", "the field 'z' is missing"),
        ("b", "b must be a list of strings, not str"),
        ("c", "c: number 2 must be a string, not NoneType"),
    ]:
        with pytest.raises(DataError, match=f"^f, line 7: {problem}$"):
            example.texts(field)


# A context and what follows it

LINE = Example("f, line 7", {})


def test_the_parts_of_a_text():
    tokenizer = ByteTokenizer()

    def parts(*of):
        ids, scored = LINE.encode(tokenizer, *of)
        return bytes(np.where(ids == 256, ord("^"), ids).astype(np.uint8)), scored

    assert parts("ab", " cd", 9) == (b"ab cd", 3)
    assert parts("ab \n", " cd", 9) == (b"ab \n cd", 5)  # space at the end is the continuation's
    assert parts("ab", " cd", 4) == (b"ab cd", 3)  # a context of 4 tokens, and the last target
    assert parts("ab", " cd", 3) == (b"b cd", 3)
    assert parts("", " cd", 9) == (b"^ cd", 3)
    assert parts("  ", "cd", 9) == (b"^  cd", 4)
    assert parts("", " cd", 3) == (b"^ cd", 3)


def test_where_the_continuation_begins_in_merged_tokens():
    """The whole is encoded, and what follows the context's number of tokens is the continuation: the harness's rule."""
    tokenizer = GPT2Tokenizer()
    ids, scored = LINE.encode(tokenizer, "The ver", "dict is", 99)
    whole = tokenizer.encode("The verdict is").tolist()  # The, verdict, is
    assert (ids.tolist(), scored) == ([*tokenizer.encode("The ver"), *whole[len(tokenizer.encode("The ver")) :]], 1)


def test_parts_that_can_not_be():
    for tokenizer, context, continuation, problem in [
        (ByteTokenizer(), "ab", "", "there is nothing to predict"),
        (ByteTokenizer(), "ab", " cdefghij", "' cdefghij' has 9 tokens, more than the context of 8"),
        (ByteTokenizer(), "ab", " " + "c" * 99, "' " + "c" * 35 + " ...' has 100 tokens"),
        (ByteTokenizer(), "\ud800", " a", "half of a surrogate pair"),
        (CharTokenizer(" ab"), "ab", " ac", "the character 'c' (U+0063) at offset 4 is unknown"),
        (GPT2Tokenizer(), "The ver", "dict", "there is nothing to predict"),  # The, verdict: no more than The, ver
    ]:
        with pytest.raises(DataError) as error:
            LINE.encode(tokenizer, context, continuation, 8)
        assert str(error.value).startswith("f, line 7: ")
        assert problem in str(error.value)


@pytest.mark.parametrize("read", [read_last_words, read_questions])
def test_whatever_is_in_a_file_gives_examples_or_a_data_error(tmp_path, read):
    line = {"text": "the jury sat four"} if read is read_last_words else QUESTION
    good = "\n".join([json.dumps(line)] * 3).encode()
    path = tmp_path / "examples.jsonl"
    outcomes = set()
    for seed in range(COUNT):
        path.write_bytes(mutated(good, seed))
        outcomes.add(outcome(read, path))
    assert outcomes == {"read", "refused"}


def outcome(read, path):
    try:
        read(path, ByteTokenizer(), 99)
    except DataError as error:
        message = str(error)
        assert message.startswith(str(path)), message
        assert message.isprintable(), message
        assert len(message) < 300 + len(str(path)), message
        return "refused"
    return "read"
