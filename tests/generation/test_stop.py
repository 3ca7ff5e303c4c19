"""A text ends where the stop appears, however the text comes in pieces."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from npgpt.generation import StopString


def until(stop, pieces) -> str:
    """What is printed of a text that comes in pieces, as npgpt.sample prints it."""
    stop_string, printed = StopString(stop), ""
    for piece in pieces:
        printed += stop_string.push(piece)
        if stop_string.found:
            break
    return printed + stop_string.finish()


def cut(text, places) -> list[str]:
    """A text in pieces, some of them empty."""
    places = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[i:j] for i, j in pairwise(places)]


# Few letters, so that a stop appears, nearly appears, and overlaps with itself.
few_letters = st.text("ab", max_size=12)
stops = st.text("ab", min_size=1, max_size=5)
places = st.lists(st.integers(0, 100), max_size=12)


@given(few_letters, stops, places)
@example("aab", "ab", [1, 2])
@example("ababb", "abb", [2, 4])
@example("aaab", "aab", [1, 2, 3])
def test_any_text_in_any_pieces(text, stop, places):
    assert until(stop, cut(text, places)) == text.split(stop)[0]


@given(few_letters, stops, places)
def test_no_more_is_held_back_than_could_be_the_stop(text, stop, places):
    stop_string, pushed, printed = StopString(stop), "", ""
    for piece in cut(text, places):
        pushed += piece
        printed += stop_string.push(piece)
        assert stop_string.found == (stop in pushed)
        if stop_string.found:
            break
        held = pushed[len(printed) :]
        assert pushed == printed + held
        assert stop.startswith(held)
        # and no less: what is printed is not part of a stop that is still to come
        assert not any(pushed.endswith(stop[:n]) for n in range(len(held) + 1, len(stop)))


@given(st.text(), places)
def test_without_a_stop_everything_passes_at_once(text, places):
    stop_string = StopString(None)
    for piece in cut(text, places):
        assert stop_string.push(piece) == piece
        assert not stop_string.found
    assert stop_string.finish() == ""


@pytest.mark.parametrize("stop", ["\n\n", "<|endoftext|>", "é字", "THE END"])
def test_a_stop_that_is_spread_over_tokens(stop):
    assert until(stop, ["before ", *stop, " after"]) == "before "
    assert until(stop, ["before ", *stop[:-1]]) == "before " + stop[:-1]  # it didn't come after all
    assert until(stop, [f"before {stop} after {stop}"]) == "before "
