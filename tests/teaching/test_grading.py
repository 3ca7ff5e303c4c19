"""How an answer is compared with the right one, what is said of it in general, and how it is shown."""

import sys

import numpy as np
import pytest

from npgpt.teaching.exercises.answers import comparable, compared
from npgpt.teaching.exercises.exercise import NotAnAnswer
from npgpt.teaching.exercises.hints import _hint_for_any
from npgpt.teaching.exercises.teacher import WIDTH, _argument, shown_line
from npgpt.teaching.exercises.trial import ReturnLine


def test_fractions_are_no_whole_numbers():
    """Or what is right after cutting them would be taken for right."""
    right = np.array([1, 2])
    assert comparable("ids", [1.0, 2.0], right).tolist() == [1, 2]
    with pytest.raises(NotAnAnswer, match="ids must be of whole numbers"):
        comparable("ids", [1.0, 2.5], right)


Y = np.arange(12.0).reshape(3, 4) - 4


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.stack([Y, Y]), "dx still has the axes"),
        (np.zeros((2, 4, 3)), ""),  # one axis more, and not that of a broadcast
        (Y.T, "dx is transposed"),
        (Y.T + 1, ""),
        (np.where(Y > 0, Y, np.nan), "NaN or infinity"),
        (0 * Y, "All of it is 0"),
        (-Y, "The sign is wrong"),
        (Y * (1 + 1e-7 * np.cos(Y)), "Right to about 7 digits"),
        (Y * (1 + 1e-4), "Every element is 1 times the right one"),
        (2.5 * Y, "Every element is 2.5 times the right one"),
        (np.where(Y == 7, 2, 1) * Y, ""),  # the largest element alone
    ],
)
def test_what_can_be_said_of_any_array(given, words):
    found = _hint_for_any("dx", given, Y)
    assert found.startswith(words)
    assert bool(found) == bool(words)


@pytest.mark.parametrize(
    ("right", "given", "ok"),
    [
        (0.0, 1e-12, True),  # of small numbers the difference counts, or rounding would be wrong
        (0.0, 1e-7, False),
        (1e6, 1e6 + 1e-3, True),
        (1e6, 1e6 + 0.1, False),
        (np.inf, np.inf, True),
        (1.0, np.nan, False),
    ],
)
def test_what_is_right_but_for_rounding(right, given, ok):
    assert compared("dx", np.array([0.0, given]), np.array([0.0, right])).ok == ok


@pytest.mark.parametrize("key", [0, 1])
def test_each_array_of_a_list_or_dict_must_be_right(key):
    arrays = [np.zeros(2), np.ones(2)]
    wrong = [x + 1 * (i == key) for i, x in enumerate(arrays)]
    for given, right in ((wrong, arrays), (dict(enumerate(wrong)), dict(enumerate(arrays)))):
        row = compared("state", given, right)
        assert (row.ok, row.place) == (False, f"state[{key}][0]")
    assert compared("state", arrays, arrays).ok


def test_a_profiler_goes_on_after_a_trial():
    def profiler(frame, event, value):
        pass

    before = sys.getprofile()
    sys.setprofile(profiler)
    try:
        ReturnLine(lambda: 1)()
        found = sys.getprofile()
    finally:
        sys.setprofile(before)
    assert found is profiler


def test_what_is_told_fits_and_large_arrays_are_named_only():
    assert [len(line) for line in shown_line(["x = " + "1" * 200], 1)] == [WIDTH]
    assert _argument("x", np.zeros((7, 3))) == ["x, an array (7, 3)"]
    assert _argument("x", np.zeros((2, 2))) == ["x = [[0., 0.],", "     [0., 0.]]"]


def test_of_one_number_no_factor_is_named():
    assert _hint_for_any("loss", 2.0, np.array(1.0)) == ""
