"""Windows over a text, and batches of pieces."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt.errors import ConfigError
from npgpt.scoring.spans import Spans, sliding_windows

END = 99


def windows_of(lengths, context, stride, end_of_text=END, prefix=True, trailing=False):
    """Windows over documents of these lengths, whose tokens are 0, 1, 2 ..., and the tokens"""
    tokens, documents = [], []
    for length in lengths:
        if documents:
            tokens.append(END)
        documents.append(len(tokens))
        tokens += range(length)
    tokens = np.array(tokens + [END] * trailing, np.uint16)
    return sliding_windows(tokens, np.array(documents), context, stride, end_of_text, prefix), tokens


@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=4),
    st.integers(1, 9).flatmap(lambda context: st.tuples(st.just(context), st.integers(1, context))),
    st.booleans(),
    st.booleans(),
)
def test_each_token_is_predicted_once_and_from_its_own_document(lengths, context_and_stride, prefix, trailing):
    context, stride = context_and_stride
    windows, tokens = windows_of(lengths, *context_and_stride, prefix=prefix, trailing=trailing)
    predicted = []
    for i, scored in enumerate(windows.scored):
        piece = windows.piece(i)
        assert 1 <= scored < len(piece) <= context + 1
        assert END not in piece[1:]
        if not prefix:
            assert piece[0] != END
        ordinary = piece[int(piece[0] == END) :]
        np.testing.assert_array_equal(np.diff(ordinary), 1)  # neighbours of one document
        for position in range(windows.end[i] - scored, windows.end[i]):
            before = position - windows.begin[i]
            reachable = int(tokens[position]) + prefix  # tokens of the document before it, with <|endoftext|>
            assert min(reachable, context - stride + 1) <= before <= context
            predicted.append(position)
    first = [] if prefix else [0]
    expected = [i for i, token in enumerate(tokens) if token != END and token not in first]
    assert predicted == expected


def test_the_windows_are_those_of_hugging_face():
    """Their loop, "Perplexity of fixed-length models", counts the last target as part of the window."""
    for length in range(2, 40):
        for max_length, stride in ((5, 1), (5, 2), (6, 3), (9, 8), (40, 7)):
            expected, covered = [], 0
            for begin in range(0, length, stride):
                end = min(begin + max_length, length)
                expected.append((begin, end, end - covered if begin else end - 1))
                covered = end
                if end == length:
                    break
            windows, _ = windows_of([length], max_length - 1, stride, prefix=False)
            assert [*zip(windows.begin, windows.end, windows.scored, strict=True)] == expected


def test_a_tokenizer_without_end_of_text():
    windows, _ = windows_of([5], 3, 3, end_of_text=None)
    assert [windows.piece(i).tolist() for i in range(len(windows))] == [[0, 1, 2, 3], [3, 4]]
    tokens = np.array([1, 2, END])  # 99 is a token like any other then
    assert sliding_windows(tokens, np.array([0]), 9, 9, None).piece(0).tolist() == [1, 2, END]


def test_texts_in_which_nothing_is_predicted():
    for lengths, prefix in (([0], True), ([1], False), ([0, 0, 1], False)):
        windows, _ = windows_of(lengths, 4, 2, prefix=prefix, trailing=True)
        assert (len(windows), windows.count, windows.shapes(2)) == (0, 0, set())
        assert [*windows.batches(2)] == []


@pytest.mark.parametrize("stride", [0, -1, 5])
def test_a_stride_that_can_not_be(stride):
    with pytest.raises(ConfigError, match="the stride must be at least 1 and at most the context, 4"):
        windows_of([9], 4, stride)


def test_the_first_windows():
    windows, _ = windows_of([20], 4, 2)
    assert len(windows.first(None)) == len(windows) == len(windows.first(99))
    two = windows.first(2)
    assert [two.piece(i).tolist() for i in range(len(two))] == [[END, 0, 1, 2, 3], [1, 2, 3, 4, 5]]
    assert two.count == 4 + 2


@given(st.lists(st.integers(2, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n - 1)))), st.integers(1, 4))
def test_batches_have_all_pieces_and_their_targets(sizes, batch_size):
    rng = np.random.default_rng(0)
    pieces = [(rng.integers(1, 50, size=n), scored) for n, scored in sizes]
    spans = Spans.join(pieces)
    assert len(spans) == len(pieces)
    seen, shapes, longest = [], set(), 99
    for batch in spans.batches(batch_size):
        assert len(batch.spans) <= batch_size
        assert batch.ids.shape[1] <= longest  # the longest come first
        longest = batch.ids.shape[1]
        shapes.add((batch.ids.size, len(batch.targets)))
        places = np.split(batch.positions, batch.bounds)
        targets = np.split(batch.targets, batch.bounds)
        for row, span in enumerate(batch.spans):
            ids, scored = pieces[span]
            assert batch.ids[row].tolist() == [*ids[:-1], *[0] * (longest - len(ids) + 1)]
            assert targets[row].tolist() == ids[-scored:].tolist()
            assert places[row].tolist() == [row * longest + i for i in range(len(ids) - 1 - scored, len(ids) - 1)]
            seen.append(span)
    assert sorted(seen) == [*range(len(pieces))]
    assert spans.shapes(batch_size) == shapes
