"""A text ends where one of the stops appears, however the text comes in pieces."""

from itertools import combinations, pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from npgpt.errors import ConfigError
from npgpt.generation import StopStrings, StopTexts, Token
from npgpt.text.tokenizers import ByteTokenizer


def until(stops, pieces) -> str:
    """What is printed of a text that comes in pieces, as npgpt.sample prints it."""
    stop_strings, printed = StopStrings(stops), ""
    for piece in pieces:
        printed += stop_strings.push(piece)
        if stop_strings.found:
            break
    return printed + stop_strings.finish()


def plainly_until(stops, text) -> str:
    """Character by character: the text before the longest stop of those that end where the first one ends."""
    for end in range(1, len(text) + 1):
        if found := [stop for stop in stops if text[:end].endswith(stop)]:
            return text[: end - max(map(len, found))]
    return text


def cut(text, places) -> list[str]:
    """A text in pieces, some of them empty."""
    places = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[i:j] for i, j in pairwise(places)]


# Few letters, so that stops appear, nearly appear, and overlap with themselves and each other.
few_letters = st.text("ab", max_size=12)
several_stops = st.lists(st.text("ab", min_size=1, max_size=5), max_size=3)
places = st.lists(st.integers(0, 100), max_size=12)


@given(few_letters, several_stops, places)
@example("aab", ["ab"], [1, 2])
@example("ababb", ["abb"], [2, 4])
@example("aaab", ["aab"], [1, 2, 3])
@example("aabbb", ["aabbba", "bb"], [3])  # the first to be complete, not the first to begin
@example("babb", ["abb", "bb", "babb"], [2])  # of those that end together the longest
def test_any_text_in_any_pieces(text, stops, places):
    assert until(stops, cut(text, places)) == plainly_until(stops, text)


@pytest.mark.parametrize(
    "stops", [["the END", "END."], ["D.", "th", "\n\n"], ["END", "ENDS", " E"], ["D. T", "END. Tx"]]
)
def test_every_split(stops):
    text = "at the END. The\n\nend"
    expected = plainly_until(stops, text)
    assert expected != text
    for n in range(4):
        for places in combinations(range(1, len(text)), n):
            assert until(stops, cut(text, places)) == expected
    assert until(stops, text) == expected


@given(few_letters, several_stops, places)
def test_no_more_is_held_back_than_could_be_a_stop(text, stops, places):
    stop_strings, pushed, printed = StopStrings(stops), "", ""
    for piece in cut(text, places):
        pushed += piece
        printed += stop_strings.push(piece)
        assert stop_strings.found == any(stop in pushed for stop in stops)
        if stop_strings.found:
            break
        held = pushed[len(printed) :]
        assert pushed == printed + held
        assert held == "" or any(stop.startswith(held) for stop in stops)
        # and no less: what is printed is not part of a stop that is still to come
        longer = range(len(held) + 1, len(pushed) + 1)
        assert not any(stop.startswith(pushed[-n:]) for stop in stops for n in longer)


@given(st.text(), places)
def test_without_a_stop_everything_passes_at_once(text, places):
    stop_strings = StopStrings()
    for piece in cut(text, places):
        assert stop_strings.push(piece) == piece
        assert not stop_strings.found
    assert stop_strings.finish() == ""


@pytest.mark.parametrize("stop", ["\n\n", "<|endoftext|>", "é字", "THE END"])
def test_a_stop_that_is_spread_over_tokens(stop):
    assert until([stop], ["before ", *stop, " after"]) == "before "
    assert until([stop], ["before ", *stop[:-1]]) == "before " + stop[:-1]  # it didn't come after all
    assert until([stop], [f"before {stop} after {stop}"]) == "before "


def test_an_empty_stop_is_refused():
    for make in (StopStrings, lambda strings: StopTexts(ByteTokenizer(), strings)):
        with pytest.raises(ConfigError, match="can't be empty"):
            make(["x", ""])


# The texts of several rows


def test_each_row_has_its_own_text_and_its_own_end():
    stops, printed, ended = StopTexts(ByteTokenizer(), ["é!", "."]), {0: "", 1: ""}, {}
    for place, pair in enumerate(zip("né é".encode(), "aa é!".encode(), strict=True)):
        for row, id in enumerate(pair):
            if row not in ended:
                if stops(Token(row, id)):
                    ended[row] = place
                printed[row] += stops.take(row)
    assert (printed, ended) == ({0: "né ", 1: "aa "}, {1: 5})
    assert (stops.take(0, finished=True), stops.take(1, finished=True)) == ("é", "")
    assert stops.take(0, finished=True) == ""
    assert stops.take(7) == ""  # a row that has made nothing


@given(st.text("ab.", min_size=1, max_size=12), st.integers(0, 12))
def test_no_string_ends_a_text_before_its_minimum(text, minimum):
    """What follows the first tokens is looked at, and nothing else."""
    stops, shown = StopTexts(ByteTokenizer(), [".", "ab"], minimum), ""
    for id in text.encode():
        found = stops(Token(0, id))
        shown += stops.take(0)
        if found:
            break
    shown += stops.take(0, finished=True)
    ends = [place for string in (".", "ab") if (place := text.find(string, minimum)) >= 0]
    assert found == bool(ends)
    assert shown == text[: min(ends, key=lambda place: place + (text[place] == "a"))] if ends else shown == text


def test_the_end_of_a_text_is_no_text():
    stops = StopTexts(ByteTokenizer(), ["endof"])
    assert not stops(Token(0, 97))
    assert not stops(Token(0, 256))
    assert stops.take(0, finished=True) == "a"


def test_a_string_is_no_list_of_strings():
    for make in (StopStrings, lambda strings: StopTexts(ByteTokenizer(), strings)):
        with pytest.raises(ConfigError, match="a list of strings"):
            make("END")
