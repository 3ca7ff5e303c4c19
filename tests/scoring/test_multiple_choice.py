"""Endings, against one forward pass for each token."""

import json
import time

import numpy as np
import pytest

from npgpt.errors import DataError
from npgpt.scoring.multiple_choice import multiple_choice, read_questions, without_marks
from npgpt.text.tokenizers import ByteTokenizer

FIELDS = {"ind": 1, "split": "val", "activity_label": "Ice", "source_id": "x"}
QUESTIONS = [
    {**FIELDS, "ctx_a": "He sat.", "ctx_b": "he ATE", "ctx": "-", "endings": ["it.", "a pig", "ab"], "label": 2},
    {**FIELDS, "ctx": "So", "endings": ["[step] ran", "was", "[x]"], "label": "0"},
    {**FIELDS, "ctx_a": "[header] Go [title] on", "ctx_b": "", "endings": ["a", "b"], "label": 1},
]


def written(folder, *questions):
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(question) + "\n" for question in questions))
    return path


@pytest.fixture
def questions(tmp_path):
    return read_questions(written(tmp_path, *QUESTIONS), ByteTokenizer(), 99)


def test_prompts_and_endings(questions):
    spans = questions.spans
    parts = []
    for i, n in enumerate(spans.scored):
        text = bytes(spans.piece(i).astype(np.uint8)).decode()
        parts.append((text[:-n], text[-n:]))
    assert parts == [
        ("Ice: He sat. He ate", " it."),  # ctx_b is capitalised, which makes its other letters small
        ("Ice: He sat. He ate", " a pig"),
        ("Ice: He sat. He ate", " ab"),
        ("Ice: So", "  ran"),  # the space that the mark leaves stays
        ("Ice: So", " was"),
        ("Ice: So", " "),
        ("Ice: Go. on", " a"),
        ("Ice: Go. on", " b"),
    ]
    assert questions.lengths.tolist() == [3, 5, 2, 4, 3, 0, 1, 1]
    assert questions.starts.tolist() == [0, 3, 6]
    assert questions.labels.tolist() == [2, 0, 1]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_figures_are_those_of_their_definitions(model, log_probabilities, tmp_path, batch_size):
    """40 questions with random letters."""
    rng = np.random.default_rng(0)

    def letters(low, high):
        return "".join(rng.choice(list("abcdef"), rng.integers(low, high)))

    many = [
        {"activity_label": "A", "ctx": letters(0, 3), "endings": [letters(1, 6) for _ in range(4)], "label": int(label)}
        for label in rng.integers(4, size=40)
    ]
    questions, done = read_questions(written(tmp_path, *many), ByteTokenizer(), 12), []
    found = multiple_choice(model, questions, batch_size, done.append)
    acc, acc_norm = [], []
    for q in many:
        prompt = list(without_marks(f"A: {q['ctx']}").encode())
        scores = []
        for ending in q["endings"]:
            ids, total = list(prompt), 0.0
            for id in f" {ending}".encode():
                total += log_probabilities(ids)[id]
                ids.append(id)
            scores.append(total)
        acc.append(np.argmax(scores) == q["label"])
        acc_norm.append(np.argmax([s / len(e) for s, e in zip(scores, q["endings"], strict=True)]) == q["label"])
    assert acc != acc_norm
    assert (found.acc.value, found.acc_norm.value, found.examples) == (np.mean(acc), np.mean(acc_norm), 40)
    assert found.acc.error == pytest.approx(np.std(acc, ddof=1) / np.sqrt(40))
    assert sum(done) == questions.spans.count


def test_an_ending_that_was_only_a_mark_is_never_chosen_by_length(model, tmp_path):
    for label in (0, 1):
        question = {"activity_label": "I", "ctx": "So", "endings": ["[x]", "cook"], "label": label}
        with np.errstate(all="raise"):
            found = multiple_choice(model, read_questions(written(tmp_path, question), ByteTokenizer(), 12))
        assert (found.acc.value, found.acc_norm.value) == (1 - label, label)  # one token is likelier than five


def test_marks():
    for text, without in [
        ("", ""),
        ("a [b] c", "a c"),
        ("a [title] b", "a. b"),
        ("[title] b", " b"),
        ("a  b   c", "a b  c"),  # pairs of spaces, once
        ("a [b [c] d]", "a d]"),
        ("a [b\n] c", "a [b\n] c"),
        ("a [b\n[c] [", "a [b\n ["),
    ]:
        assert without_marks(text) == without
    began = time.process_time()
    assert without_marks("[" * 250_000) == "[" * 250_000
    assert time.process_time() - began < 1  # a search from each bracket to the end would take minutes


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"endings": None}, "endings must be a list of strings, not NoneType"),
        ({"endings": ["a", 1]}, "endings: number 2 must be a string, not int"),
        ({"endings": ["a"]}, "endings must be 2 to 100, not 1"),
        ({"endings": ["a"] * 101}, "endings must be 2 to 100, not 101"),
        ({"endings": ["a", "b" * 40]}, f"' {'b' * 35} ...' has 41 tokens, more than the context of 30"),
        ({"label": 2}, "label can't be '2': it must be the number of one of the 2 endings, from 0"),
        ({"label": -1}, "label can't be '-1'"),
        ({"label": True}, "label can't be 'True'"),
        ({"label": 1.0}, "label can't be '1.0'"),
        ({"label": "-1"}, "label can't be '-1'"),
        ({"label": "²"}, "label can't be '²'"),
        ({"label": ""}, "label can't be ''"),  # the test set's
        ({"label": None}, "label is missing"),
        ({"label": [0]}, "label can't be '[0]'"),
        ({"activity_label": 7}, "activity_label must be a string, not int"),
        ({"ctx": 7}, "ctx must be a string, not int"),
        ({"ctx_a": "a"}, "the field 'ctx_b' is missing"),
    ],
)
def test_bad_questions(tmp_path, change, problem):
    good = {"activity_label": "Ice", "ctx": "So", "endings": ["a", "b"], "label": 0}
    path = written(tmp_path, good, {**good, **change})
    with pytest.raises(DataError) as error:
        read_questions(path, ByteTokenizer(), 30)
    assert str(error.value).startswith(f"{path}, line 2: {problem}")
    assert len(read_questions(path, ByteTokenizer(), 30, limit=1).labels) == 1


@pytest.mark.parametrize("field", ["activity_label", "ctx", "endings", "label"])
def test_missing_fields(tmp_path, field):
    question = {"activity_label": "Ice", "ctx": "So", "endings": ["a", "b"], "label": 0}
    del question[field]
    with pytest.raises(DataError, match=rf"line 1: .*{field}'? is missing"):
        read_questions(written(tmp_path, question), ByteTokenizer(), 30)
