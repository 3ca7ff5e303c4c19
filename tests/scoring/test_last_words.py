"""Last words, against one forward pass for each token."""

import json
import math

import numpy as np
import pytest

from npgpt.errors import DataError
from npgpt.scoring.last_words import LastWords, last_words, read_last_words
from npgpt.scoring.spans import Spans
from npgpt.text.tokenizers import ByteTokenizer

TEXTS = ["The jury sat four", "a", "drowned\n\npig,\nnobody ate", "two  spaces", "over"]


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "words.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return file


def greedy_word(log_probabilities, ids, length):
    """What the model finds likeliest, token by token, after a space."""
    ids = [*ids, ord(" ")]
    for _ in range(length):
        ids.append(int(log_probabilities(ids).argmax()))
    return ids


def test_the_last_space_is_where_a_text_is_split(path):
    words = read_last_words(path, ByteTokenizer(), 99)
    pieces = [words.piece(i) for i in range(len(words))]
    texts = [bytes(piece[piece < 256].astype(np.uint8)).decode() for piece in pieces]
    assert [*zip(texts, words.scored, strict=True)] == [
        ("The jury sat four", len(" four")),
        (" a", len(" a")),  # all of it is the last word, after <|endoftext|>
        ("drowned\n\npig,\nnobody ate", len(" ate")),
        ("two  spaces", len("  spaces")),  # the space before the last one, too, as in the harness
        (" over", len(" over")),
    ]
    assert [piece[0] for piece in pieces] == [ord("T"), 256, ord("d"), ord("t"), 256]
    assert len(read_last_words(path, ByteTokenizer(), 99, limit=2)) == 2


def test_of_a_long_passage_the_end_is_seen(path):
    words = read_last_words(path, ByteTokenizer(), 8)
    assert bytes(words.piece(0).astype(np.uint8)) == b" sat four"  # eight to be seen, and the last target


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_figures_are_those_of_their_definitions(model, log_probabilities, path, batch_size):
    words, done = read_last_words(path, ByteTokenizer(), 12), []
    losses = []
    for i, n in enumerate(words.scored):
        ids = words.piece(i).tolist()
        assert n < len(ids) <= 13
        losses.append(-sum(log_probabilities(ids[:k])[ids[k]] for k in range(len(ids) - n, len(ids))))
    found = last_words(model, words, batch_size, done.append)
    assert sum(done) == words.count
    assert found.nats_per_word.value == pytest.approx(np.mean(losses))
    assert found.nats_per_word.error == pytest.approx(np.std(losses, ddof=1) / math.sqrt(5))
    assert found.perplexity.value == pytest.approx(math.exp(np.mean(losses)))
    assert found.examples == 5


def test_a_word_is_right_if_all_its_tokens_are_the_likeliest(model, log_probabilities):
    ids = greedy_word(log_probabilities, b"sat", 4)
    wrong_last, wrong_first = [*ids[:-1], (ids[-1] + 1) % 256], [*ids[:-2], (ids[-2] + 1) % 256]
    wrong_first.append(int(log_probabilities(wrong_first).argmax()))
    pieces = [(np.array(x), 2) for x in (ids, wrong_last, wrong_first)]
    found = last_words(model, Spans.join([*pieces, (np.array(ids), 3)]))
    assert isinstance(found, LastWords)
    assert (found.accuracy.value, found.accuracy.error) == (0.5, pytest.approx(math.sqrt(1 / 3) / 2))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ({"text": ""}, "no last word: the text is empty"),
        ({"text": "ends in a space "}, "no last word: the text ends in ' '"),
        ({"text": "ends in a line \n"}, "no last word: the text ends in '\\n'"),
        ({"text": 5}, "text must be a string, not int"),
        ({"words": "a b"}, "the field 'text' is missing"),
        ({"text": "a incomprehensible"}, "' incomprehensible' has 17 tokens, more than the context of 8"),
    ],
)
def test_bad_examples(tmp_path, line, problem):
    path = tmp_path / "bad.jsonl"
    path.write_text(f'{{"text": "a b"}}\n{json.dumps(line)}\n')
    with pytest.raises(DataError) as error:
        read_last_words(path, ByteTokenizer(), 8)
    assert str(error.value) == f"{path}, line 2: {problem}"
