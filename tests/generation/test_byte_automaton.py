"""Regular expressions as automata over bytes: against Python's re, and what is refused."""

import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from npgpt.errors import ConfigError
from npgpt.generation.byte_automaton import CODE_POINTS, DEAD, EMPTY, MAX_PLACES, ByteAutomaton, Repeat, Strings, Trie
from npgpt.generation.regular_expression import parse

# One, two, three and four bytes of UTF-8; digits and spaces of other scripts; what has a meaning in an expression.
CHARACTERS = "ab09_ -]^\\\n\u00e9\u0663\u2003字😀"
ATOMS = [*map(re.escape, CHARACTERS), ".", r"\d", r"\D", r"\w", r"\W", r"\s", r"\S", r"\x61", r"\u00e9", r"\U0001F600"]
ATOMS += [r"\N{LATIN SMALL LETTER A}", r"\101", r"\0", r"\t", "{", "{}", "{a}", "{,b}", "}", "]"]
CLASSES = [
    "[ab]",
    "[^ab]",
    "[a-c0-9]",
    "[]a]",
    "[^]a]",
    "[a-]",
    r"[\w-]",
    r"[^\W_]",
    r"[\]\\]",
    r"[\x61-\u00ff]",
    "[字-龥]",
]


def joined(parts):
    return parts.map("".join)


def larger(patterns):
    group = st.tuples(st.sampled_from(["(", "(?:", "(?P<n>"]), patterns, st.just(")"))
    repeated = st.tuples(
        st.sampled_from(ATOMS[: len(CHARACTERS)] + CLASSES) | joined(group),
        st.sampled_from(["*", "+", "?", "{2}", "{,2}", "{1,}", "{1,3}", "{0}"]),
    )
    return (
        joined(st.lists(patterns, max_size=3))
        | joined(group)
        | joined(repeated)
        | st.lists(patterns, min_size=2, max_size=3).map("|".join)
    )


expressions = st.recursive(st.sampled_from(ATOMS + CLASSES), larger, max_leaves=6).filter(
    lambda text: text.count("(?P<n>") < 2
)
texts = st.lists(st.text(CHARACTERS, max_size=5), max_size=12)


def automaton(expression):
    return ByteAutomaton(parse(expression))


@given(expressions, texts)
@example("(?:a|ab)(?:b9|9)", ["ab9", "abb9", "a9", "ab"])
@example(r"[^\W\d_]+\.?", ["字.", "é", "٣", "_"])
@example("(a*)*", ["", "aaa"])
@example("(|a)+b", ["b", "aab"])
@example("a{,}{}", ["aaa{}", "{}"])
def test_it_accepts_what_re_matches_as_a_whole(expression, texts):
    compiled, read = re.compile(expression), automaton(expression)
    for text in texts:
        state = read.read(read.start, text.encode())
        assert read.accepts(state) == bool(compiled.fullmatch(text)), text


@given(expressions, st.randoms(use_true_random=False))
def test_what_is_not_dead_is_the_beginning_of_a_text_that_matches(expression, random):
    """Random bytes that are not dead, for a while, then the nearest end."""
    read = automaton(expression)
    state, string = read.start, b""
    for _ in range(random.randrange(8)):
        living = [(byte, after) for byte in range(256) if (after := read.read(state, bytes([byte]))) != DEAD]
        if not living:
            break
        byte, state = random.choice(living)
        string += bytes([byte])
    queue = [(state, string)]
    seen = {state}
    for state, string in queue:
        if read.accepts(state):
            assert re.fullmatch(expression, string.decode())
            return
        for byte in read.bytes_in_use():
            after = read.read(state, bytes([byte]))
            if after != DEAD and after not in seen:
                seen.add(after)
                queue.append((after, string + bytes([byte])))
    pytest.fail(f"no way from {string} to the end")


@pytest.mark.parametrize("expression", [r"\w", r"\W", r"\d", r"\S", ".", "[^é]", r"[\u0800-\uffff]", "😀"])
def test_every_character_of_unicode(expression):
    read = automaton(expression)
    characters = [chr(i) for i in range(0, CODE_POINTS, 37) if not 0xD800 <= i < 0xE000]
    strings = [character.encode() for character in characters]
    ends = np.cumsum([len(string) for string in strings])
    starts = ends - [len(string) for string in strings]
    states, reached = read.read_all(read.start, np.frombuffer(b"".join(strings), np.uint8), starts, ends)
    found = [read.accepts(states[number]) for number in reached]
    assert found == [bool(re.fullmatch(expression, character)) for character in characters]


@pytest.mark.parametrize(
    "string", [b"\xed\xa0\x80", b"\xc0\x80", b"\xe0\x80\x80", b"\xf4\x90\x80\x80", b"\x80", b"\xff"]
)
def test_bytes_that_are_no_utf8_are_dead(string):
    """A surrogate, forms that are too long, a number beyond Unicode, and bytes that begin nothing."""
    read = automaton(r"[\s\S]*")
    assert read.read(read.start, string) == DEAD


def test_read_all_reads_each_string_as_read_does():
    read = automaton("(ab|a)*c?")
    strings = [b"", b"a", b"ab", b"abc", b"c", b"b", b"ca", b"aab", b"\xff"]
    ends = np.cumsum([len(string) for string in strings])
    starts = ends - [len(string) for string in strings]
    states, reached = read.read_all(read.start, np.frombuffer(b"".join(strings), np.uint8), starts, ends)
    assert [states[number] for number in reached] == [DEAD, *(read.read(read.start, s) for s in strings[1:])]


def test_states_that_are_forgotten_are_made_again(monkeypatch):
    data = np.random.default_rng(0).choice(np.frombuffer(b"ab", np.uint8), 200)
    numbers_of_states = []
    for limit in (1000, 3):
        monkeypatch.setattr("npgpt.generation.byte_automaton.MAX_STATES", limit)
        read = automaton("(a|b)*a(a|b){9}")
        state = read.start
        for i in range(len(data) - 1):
            states, reached = read.read_all(state, data, np.array([i, i]), np.array([i + 1, i + 2]))
            expected = [read.read(state, data[i : i + n].tobytes()) for n in (1, 2)]
            assert [states[number] for number in reached] == expected
            state = expected[0]
        numbers_of_states.append(len(read._states))
    assert numbers_of_states[0] > 100
    assert numbers_of_states[1] < 20


@pytest.mark.parametrize("expression", ["(a|b)*a(a|b){1000}", "((a?){90}a{90}){30}", "(((a*)*)*)*b", "(.*.*.*x){9}"])
def test_patterns_that_explode_elsewhere(expression):
    """2^1000 states if all were made, or exponential time by trying one way after the other."""
    read = automaton(expression)
    assert read.read(read.start, b"a" * 50) != DEAD


@pytest.mark.parametrize("expression", ["(?:){999999999}", "(?:){0,999999999}", "((|){9999}){9999}", "(a{0}){99999}"])
def test_repetitions_of_nothing_take_no_time(expression):
    read = automaton(expression)
    assert read.accepts(read.start)
    assert read.read(read.start, b"a") == DEAD


@pytest.mark.parametrize("expression", [f"a{{{MAX_PLACES}}}", "((a{100}){100}){100}", "(ab?){0,5000}"])
def test_patterns_that_are_too_large_are_refused(expression):
    with pytest.raises(ConfigError, match=r"more than 10,000 parts.\n.*smaller numbers"):
        automaton(expression)


def test_states_are_forgotten_by_their_arcs_too(monkeypatch):
    """Each byte leads to a state with fewer arcs: 15 in all."""
    monkeypatch.setattr("npgpt.generation.byte_automaton.MAX_ARCS", 12)
    read = automaton("(a?){4}")
    states = [read.start]
    for _ in range(4):
        states.append(read.read(states[-1], b"a"))
    assert [len(state) for state in states] == [5, 4, 3, 2, 1]
    assert read._held == sum(map(len, read._states)) <= 12


def test_what_one_read_holds_is_bounded(monkeypatch):
    monkeypatch.setattr("npgpt.generation.byte_automaton.MAX_ARCS", 20)
    read = automaton("(a?){5}")
    assert len(read.read(read.start, b"aaa")) == 3  # after 6, 5 and 4: 18 in all
    read = automaton("(a?){7}")
    with pytest.raises(ConfigError, match=r"^the pattern is too large: .*\n.*smaller numbers"):
        read.read(read.start, b"aaaaa")


@pytest.mark.parametrize("expression", [r"[^\s\S]", r"a[^\s\S]", r"[^\s\S]+", r"([^\s\S]|a[^\s\S]){2}", "\ud800"])
def test_patterns_that_nothing_matches_are_refused(expression):
    with pytest.raises(ConfigError, match="no text matches"):
        automaton(expression)


@pytest.mark.parametrize(
    "expression", [r"(?:[^\s\S]|a)b", r"[^\s\S]?ab", r"[^\s\S]*ab", r"[^\s\S]{0,3}ab", "ab|\ud800"]
)
def test_a_part_that_nothing_matches_is_left_out(expression):
    read = automaton(expression)
    assert read.accepts(read.read(read.start, b"ab"))


@pytest.mark.parametrize(
    ("expression", "name"),
    [
        ("a(?=b)", "a lookahead, at position 1"),
        ("(?!b)a", "a lookahead"),
        ("(?<=a)b", "a lookbehind"),
        ("(?<!a)b", "a lookbehind"),
        (r"(a)\1", "a back reference, at position 3"),
        ("(?P<n>a)(?P=n)", "a back reference"),
        ("(a)?(?(1)b|c)", "a condition"),
        ("(?>a|ab)c", "an atomic group"),
        ("a(?#why)b", "a comment"),
        ("(?i)a", "flags"),
        ("(?i:a)", "flags"),
        ("a++", "a possessive repetition"),
        ("a{2}+", "a possessive repetition"),
        ("^a", r"the anchor \^"),
        ("a$", r"the anchor \$"),
        (r"\Aa", r"the anchor \\A"),
        (r"a\Z", r"the anchor \\Z"),
        (r"\ba", r"the anchor \\b"),
        (r"\Ba", r"the anchor \\B"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(expression, name):
    with pytest.raises(ConfigError, match=f"^{name}.*can't restrict"):
        parse(expression)


@pytest.mark.parametrize(
    "expression", ["(", "a)", "[a", "*a", "a**", "a{2,1}", r"\q", "(?P<n>a)(?P<n>b)", "[b-a]", "\\"]
)
def test_what_is_no_regular_expression_is_refused_as_by_re(expression):
    with pytest.raises(re.error) as found:
        re.compile(expression)
    with pytest.raises(ConfigError, match="is not a regular expression") as ours:
        parse(expression)
    assert str(found.value) in str(ours.value)


@pytest.mark.parametrize("expression", ["a{9999999999}", "(" * 5000 + ")" * 5000])
def test_what_re_itself_cannot_hold_is_refused(expression):
    with pytest.raises(ConfigError, match="too deep or too large"):
        parse(expression)


def test_of_strings_keeps_strings_that_begin_alike_apart():
    trie = Trie.of_strings([b"a", b"ab", b"b"])
    assert trie.edges.keys() == set(b"ab")
    assert trie.edges[ord("a")].final
    assert trie.edges[ord("a")].edges.keys() == {ord("b")}
    assert not trie.final


def test_a_class_that_is_repeated_is_looked_at_once_in_a_state():
    """A state has as many arcs as the class is repeated, and letters of all scripts begin with 150 bytes."""
    looks = []

    class Edges(dict):
        def items(self):
            looks.append(self)
            return super().items()

    letter = Strings(Trie(Edges({ord("a"): EMPTY})))
    automaton = ByteAutomaton(Repeat(Repeat(letter, 0, 1), 0, 500))
    assert len(automaton.start) == 501
    assert len(automaton.read(automaton.start, b"a")) == 500  # one letter less
    assert len(looks) == 1
