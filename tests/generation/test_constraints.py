"""Which tokens a constraint allows: against brute force on small vocabularies, and texts that are made with it."""

import re
from functools import cache
from itertools import product

import numpy as np
import pytest
from helpers.texts import random_model
from hypothesis import example, given
from hypothesis import strategies as st

from npgpt.errors import ConfigError, TokenizerError
from npgpt.generation import History, Sampling, stream
from npgpt.generation.constraints import Choices, Regex
from npgpt.text.tokenizers import ByteTokenizer, CharTokenizer, GPT2Tokenizer, Tokenizer, make_tokenizer


class OtherTokenizer(Tokenizer):
    """Any vocabulary, of which the last id is <|endoftext|>."""

    name = "other"
    encode = None  # no constraint of these tests asks for it

    def __init__(self, *strings):
        super().__init__([*strings, b"<|endoftext|>"])
        self.end_of_text = len(strings)


@cache
def gpt2():
    return GPT2Tokenizer()


def allowed(constraint):
    return np.flatnonzero(constraint.allowed()).tolist()


# Against brute force. "é" is two bytes, and tokens may have one of them alone, or parts of two characters.

PIECES = [b"a", b"b", b"ab", b"ba", b"aab", b"\xc3\xa9", b"\xc3", b"\xa9", b"a\xc3", b"\xa9b", b"\xa9\xc3"]
vocabularies = st.lists(st.sampled_from(PIECES), min_size=1, max_size=6, unique=True)


def with_texts(expression, *texts):
    return expression, frozenset(text.encode() for text in texts)


def in_sequence(first, second):
    return first[0] + second[0], frozenset(x + y for x in first[1] for y in second[1])


def either(first, second):
    return f"({first[0]}|{second[0]})", first[1] | second[1]


def repeated(item, least, most):
    texts = frozenset(b"".join(parts) for n in range(least, most + 1) for parts in product(item[1], repeat=n))
    return f"({item[0]}){{{least},{most}}}", texts


# An expression, and all the texts it matches that are made of a, b and é.
ONE = [with_texts("a", "a"), with_texts("b", "b"), with_texts("é", "é"), with_texts("[^b]", "a", "é")]
ONE += [with_texts(".", "a", "b", "é"), with_texts("[ab]", "a", "b"), with_texts("aab", "aab")]
small_languages = st.recursive(
    st.sampled_from(ONE),
    lambda x: (
        st.builds(in_sequence, x, x)
        | st.builds(either, x, x)
        | st.builds(repeated, x.filter(lambda pair: len(pair[1]) < 20), st.integers(0, 2), st.just(2))
    ),
    max_leaves=4,
).filter(lambda pair: len(pair[1]) < 500)


@given(small_languages, vocabularies)
@example(with_texts("a(aé|ab)?", "a", "aaé", "aab"), [b"a", b"a\xc3", b"ab"])
@example(with_texts("(ab){2}", "abab"), [b"a", b"ba", b"b"])
@example(with_texts("[^b]{2}", "aa", "aé", "éa", "éé"), [b"a\xc3", b"\xa9", b"a"])
def test_a_token_is_allowed_if_and_only_if_some_tokens_complete_the_text(language, strings):
    expression, texts = language
    beginnings = {text[:n] for text in texts for n in range(len(text) + 1)}

    @cache
    def completes(text):
        """Whether tokens can make the text complete."""
        return text in texts or any(text + s in beginnings and completes(text + s) for s in strings)

    tokenizer = OtherTokenizer(*strings)
    if not completes(b""):
        with pytest.raises(ConfigError, match="no text of the tokenizer's tokens matches"):
            Regex(expression, tokenizer)
        return
    start = Regex(expression, tokenizer)
    for ids in product(range(len(strings)), repeat=2):
        constraint, text = start.copy(), b""
        for id in (*ids, None):
            expected = [text + s in beginnings and completes(text + s) for s in strings] + [text in texts]
            assert constraint.allowed().tolist() == expected, text
            assert constraint.may_end == (text in texts)
            assert constraint.finished == (not any(expected[:-1]))
            if id is None or not expected[id]:
                break
            constraint.push(id)
            text += strings[id]


# Texts


def random_text(constraint, tokenizer, rng, most=200):
    """Allowed ids, drawn evenly; the text ends where it may every second time. -> ids"""
    ids = []
    while not constraint.finished and len(ids) < most:
        if constraint.may_end and rng.random() < 0.5:
            break
        ids.append(int(rng.choice(allowed(constraint))))
        if ids[-1] == tokenizer.end_of_text:
            return ids[:-1]
        constraint.push(ids[-1])
    assert constraint.may_end
    return ids


EXPRESSIONS = [
    r"\d{4}-\d\d-\d\d",
    r'\{"name": "[^"\\\x00-\x1f]{1,9}", "age": [1-9]\d{0,2}\}',
    r"(yes|no|maybe)( or (yes|no|maybe)){0,2}",
    r"[^\W\d_]{3,6}",
    r"(é|字|😀){1,4}",
    ".{0,5}x",
    r"(the |a )?\w+\.?",
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
@pytest.mark.parametrize("tokenizer", [gpt2, ByteTokenizer])
def test_all_texts_match(expression, tokenizer):
    rng, tokenizer = np.random.default_rng(0), tokenizer()
    start = Regex(expression, tokenizer)
    texts = [random_text(start.copy(), tokenizer, rng) for _ in range(8)]
    for ids in texts:
        assert re.fullmatch(expression, b"".join(map(tokenizer.token_bytes, ids)).decode())
    assert len({tuple(ids) for ids in texts}) > 3


def test_all_texts_of_characters_match_and_have_only_characters_of_the_tokenizer():
    rng, tokenizer = np.random.default_rng(0), CharTokenizer("aeé字")
    start = Regex(r"\w{2,5}|[^a-z]+😀|x*aa", tokenizer)
    assert allowed(start) == [0, 1, 2, 3]
    for _ in range(50):
        assert re.fullmatch(r"[aeé字]{2,5}", tokenizer.decode(random_text(start.copy(), tokenizer, rng)))


def test_a_way_that_needs_an_unknown_token_is_never_taken():
    """No z: after an a the text could not end."""
    tokenizer = CharTokenizer("abc")
    constraint = Regex("a+z|b+c", tokenizer)
    assert allowed(constraint) == [1]
    constraint.push(1)
    assert allowed(constraint) == [1, 2]


def test_a_character_that_spans_tokens():
    tokenizer = gpt2()
    ids = tokenizer.encode("字").tolist()
    assert len(ids) > 1
    constraint = Regex("字|é", tokenizer)
    for id in ids:
        assert constraint.allowed()[id]
        assert not constraint.may_end
        constraint.push(id)
    assert constraint.finished


def test_every_token_of_gpt2_that_is_a_word_and_no_other_is_allowed():
    tokenizer = gpt2()
    constraint = Regex("[a-z]+", tokenizer)
    tokens = [tokenizer.token_bytes(id) for id in range(tokenizer.vocab_size)]
    expected = [id for id, token in enumerate(tokens) if re.fullmatch(b"[a-z]+", token)]
    assert allowed(constraint) == expected
    constraint.push(expected[0])
    assert allowed(constraint) == [*expected, tokenizer.end_of_text]


# The end


def test_end_of_text_is_never_part_of_the_text_even_where_its_name_matches():
    for tokenizer in (gpt2(), ByteTokenizer(), CharTokenizer.from_texts(["<|endoftext|>"])):
        constraint = Regex(r"<\|endoftext\|>", tokenizer)
        assert not constraint.allowed()[tokenizer.end_of_text]
        for id in tokenizer.encode("<|endoftext|>").tolist():
            constraint.push(id)
        assert constraint.finished


def test_a_stop_id_is_allowed_where_the_text_may_end_and_ends_it():
    constraint = Regex("a+", ByteTokenizer())
    assert allowed(constraint) == [97]
    constraint.push(97)
    assert allowed(constraint) == [97, 256]
    assert not constraint.finished
    constraint.push(256)
    assert constraint.finished
    assert constraint.may_end
    assert allowed(constraint) == []


def test_stop_ids_are_no_text_and_others_than_end_of_text_can_be_given():
    """The newline ends the text, so the expression's own can't be written, and <|endoftext|> ends nothing."""
    constraint = Regex(r"a\n?|a\nb", ByteTokenizer(), stop_ids=[10])
    constraint.push(97)
    assert allowed(constraint) == [10]
    assert constraint.finished
    with pytest.raises(ConfigError, match="no text of the tokenizer's tokens"):
        Regex(r"a\nb", ByteTokenizer(), stop_ids=[10])


def test_without_stop_ids_a_text_is_finished_only_if_nothing_can_follow():
    tokenizer = CharTokenizer("ab", has_end_of_text=False)
    constraint = Regex("ab?", tokenizer)
    constraint.push(0)
    assert (allowed(constraint), constraint.may_end, constraint.finished) == ([1], True, False)
    constraint.push(1)
    assert (allowed(constraint), constraint.may_end, constraint.finished) == ([], True, True)


@pytest.mark.parametrize(
    "tokenizer", [make_tokenizer("gpt2"), make_tokenizer("char", ["a b é"])], ids=["gpt2", "characters"]
)
def test_a_pattern_that_would_take_a_minute_and_gigabytes_is_refused(tokenizer):
    """Each state has thousands of arcs. Of characters there may be bytes too few, so each arc is looked at alone."""
    with pytest.raises(ConfigError, match="the pattern is too large: a text can be in too many"):
        Regex(r"(?:\w?\s?){0,1600}", tokenizer)


@pytest.mark.parametrize("expression", [r"(?:\w?\s?){0,200}", r".{0,2000}", r"\w{1,1000}", r"(?:\w+\s?){0,500}"])
def test_patterns_with_many_repetitions_of_few_ways(expression):
    assert Regex(expression, make_tokenizer("gpt2")).allowed().sum() > 10_000
    assert Regex(expression, make_tokenizer("char", ["a b é"])).allowed().sum() >= 2


def test_an_empty_text():
    constraint = Regex("", ByteTokenizer())
    assert (allowed(constraint), constraint.finished) == ([256], True)


def test_ids_that_the_model_has_beyond_the_tokenizers_are_never_allowed():
    constraint = Regex("[^b]", ByteTokenizer(), vocab_size=300)
    assert constraint.allowed().shape == (300,)
    assert not constraint.allowed()[256:].any()


# Choices


@given(st.lists(st.text("abé字", max_size=4), min_size=1, max_size=6), st.sampled_from(["byte", "char"]))
def test_choices_are_the_texts_that_can_be_made(texts, name):
    tokenizer = ByteTokenizer() if name == "byte" else CharTokenizer("abé字")
    found, stack = set(), [(Choices(texts, tokenizer), [])]
    while stack:
        constraint, ids = stack.pop()
        if constraint.may_end:
            found.add(tokenizer.decode(ids))
        for id in allowed(constraint):
            if id != tokenizer.end_of_text:
                longer = constraint.copy()
                longer.push(id)
                stack.append((longer, [*ids, id]))
    assert found == set(texts)


def test_choices_take_any_tokens_that_spell_them():
    tokenizer = gpt2()
    found = [tokenizer.token_bytes(id) for id in allowed(Choices(["negative", "neutral"], tokenizer))]
    assert set(found) == {b"n", b"ne", b"neg", b"neutral", b"negative"}


def test_characters_of_choices_have_no_meaning():
    constraint = Choices([".*"], ByteTokenizer())
    assert allowed(constraint) == [ord(".")]


def test_a_choice_that_the_tokenizer_does_not_know_is_refused():
    with pytest.raises(TokenizerError, match=r"'é' .* at offset 3"):
        Choices(["abc", "abcé"], CharTokenizer("abc"))


@pytest.mark.parametrize("texts", ["yes", []])
def test_choices_that_are_none_are_refused(texts):
    with pytest.raises(ConfigError, match=r"must be several texts|no text matches"):
        Choices(texts, ByteTokenizer())


# In the loop


@pytest.fixture(scope="module")
def model():
    return random_model(vocab_size=23, block_size=12)


LETTERS = CharTokenizer("abcdefghijklmnopqrstuv")


def test_streamed_texts_of_prompts_of_unequal_length_match(model):
    """The window slides meanwhile. The constraint that was given is as it was, and serves each text."""
    constraint = Regex("([aeiou][^aeiou]{1,2}){2,4}", LETTERS)
    before = constraint.allowed()
    tokens = list(
        stream(
            model, [[0, 1, 2], [3], np.arange(15)], 40, Sampling(temperature=1.5), seed=0, num_samples=4,
            stop_ids=[LETTERS.end_of_text], constraint=constraint,
        )
    )  # fmt: skip
    texts = ["".join(LETTERS.decode([t.id]) for t in tokens if t.row == row and t.id != 22) for row in range(12)]
    assert all(re.fullmatch("([aeiou][^aeiou]{1,2}){2,4}", text) for text in texts)
    assert len(set(texts)) > 8
    assert sorted(token.row for token in tokens if token.ended) == [*range(12)]
    assert {token.ended for token in tokens} == {None, "stop"}
    assert constraint.allowed() is before


@pytest.mark.parametrize("settings", [{"temperature": 1.0, "top_k": None}, {"temperature": 0.5, "top_k": 3}])
def test_the_distribution_under_a_constraint_is_the_renormalised_one(model, settings):
    """Filters act on what is allowed: the 3 likeliest are the 3 likeliest of those."""
    constraint = Choices(["ab", "ba", "cab", "dab"], LETTERS)
    logits = model([[5, 6]]).data[0, -1]
    found = Sampling(**settings).distribution(logits, History(np.array([5, 6]), 2, allowed=constraint.allowed()))
    p = np.exp(logits / settings["temperature"])
    p[~constraint.allowed()] = 0
    if settings["top_k"]:
        p[p < np.sort(p)[-settings["top_k"]]] = 0
    np.testing.assert_allclose(found, p / p.sum(), rtol=1e-12)
    assert np.count_nonzero(found) == (settings["top_k"] or 4)


def test_greedy_text_takes_the_likeliest_of_what_is_allowed(model):
    constraint, text, expected = Regex("([ab]|c[d-v])*", LETTERS), [7, 8], []
    state = constraint.copy()
    for _ in range(10):
        logits = model([text[-12:]]).data[0, -1]
        text.append(int(np.where(state.allowed(), logits, -np.inf).argmax()))
        state.push(text[-1])
        expected.append(text[-1])
        if text[-1] == LETTERS.end_of_text:
            break
    tokens = stream(model, [[7, 8]], 10, Sampling(temperature=0), stop_ids=[LETTERS.end_of_text], constraint=constraint)
    assert [token.id for token in tokens] == expected


# What is shared, kept and refused


def test_a_copy_goes_its_own_way():
    first = Regex("ab|cd", ByteTokenizer())
    second = first.copy()
    first.push(ord("a"))
    assert allowed(first) == [ord("b")]
    assert allowed(second) == [ord("a"), ord("c")]
    assert first.copy().allowed() is first.allowed()


def test_masks_are_computed_once_and_cannot_be_changed():
    constraint = Regex("a*", ByteTokenizer())
    mask = constraint.allowed()
    constraint.push(97)
    constraint.push(97)
    assert constraint.allowed() is mask
    with pytest.raises(ValueError, match="read-only"):
        mask[0] = True


def test_only_so_many_masks_are_kept(monkeypatch):
    monkeypatch.setattr("npgpt.generation.constraints.MAX_MASKS", 3)
    constraint = Regex("(ab){10}", ByteTokenizer())
    for id in b"ab" * 10:
        constraint.push(id)
        assert len(constraint._masks._allowed) <= 3
    assert constraint.finished


@pytest.mark.parametrize("id", [98, 256, 99, -1, 99999])
def test_an_id_that_is_not_allowed_is_refused(id):
    constraint = Regex("ab", ByteTokenizer())
    with pytest.raises(ValueError, match=f"id {id} is not allowed"):
        constraint.push(id)
    assert allowed(constraint) == [97]


def test_ids_do_not_count_from_the_end():
    constraint = Regex("a*", ByteTokenizer())
    assert allowed(constraint)[-1] == 256 == len(constraint.allowed()) - 1
    with pytest.raises(ValueError, match="id -1 is not allowed"):
        constraint.push(-1)


def test_a_tokenizers_own_end_is_no_text_where_another_id_ends_it():
    tokenizer = OtherTokenizer(b"a", b"b")
    assert allowed(Regex(".*", tokenizer, stop_ids=[1])) == [0, 1]


def test_stop_ids_outside_the_vocabulary_are_refused():
    with pytest.raises(ConfigError, match=r"stop_ids must be ids from 0 to 256, not \[300\]"):
        Regex("a", ByteTokenizer(), stop_ids=[300])
