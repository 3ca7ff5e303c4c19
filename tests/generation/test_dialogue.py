"""Prompts of a conversation, what of an answer is shown, and the cache that is kept from one answer to the next."""

from itertools import islice

import numpy as np
import pytest
from helpers.texts import random_model, record
from hypothesis import given, strategies

from npgpt.errors import DataError
from npgpt.generation import Decoder, Sampling
from npgpt.generation.dialogue import NAME_STOP, STOP, AnswerText, ConversationDecoder, Prompt, TooLong, make_prompt
from npgpt.generation.stop import StopTexts
from npgpt.generation.token import Token
from npgpt.text.conversation import Conversation
from npgpt.text.tokenizers import BPETokenizer, ByteTokenizer, GPT2Tokenizer, make_tokenizer

BYTE, GPT2 = ByteTokenizer(), GPT2Tokenizer()
SYSTEM = ("system", "Be brief.")
TALK = [("user", "A: 三?"), ("assistant", " Yes.\n\nNo "), ("user", "é  \n"), ("assistant", "👩!"), ("user", "\n 'x'")]
TEXTS = [
    "System: Be brief.\n",
    "Human: A: 三?\nAssistant:  Yes.\n\nNo \n\n",
    "Human: é  \n\nAssistant: 👩!\n\n",
    "Human: \n 'x'\nAssistant:",
]


def tokenizer_of(name):
    return make_tokenizer(name, ["".join(TEXTS) * 3])


# Prompts


@pytest.mark.parametrize("name", ["byte", "gpt2", "bpe:300", "char"])
@pytest.mark.parametrize("system", [True, False])
def test_the_ids_are_those_of_the_text_that_fits(name, system):
    """For every size of the context: if not all fits, so much that three quarters of the room are taken at most."""
    tokenizer, new = tokenizer_of(name), 5
    messages = [SYSTEM, *TALK] if system else TALK
    texts = ["".join([*TEXTS[:system], *TEXTS[first:]]) for first in (1, 2, 3)]
    sizes = [len(tokenizer.encode(text)) for text in texts]
    for block_size in range(sizes[-1] - 2, sizes[0] + 12):
        room = block_size + 1 - min(new, block_size // 2)
        fitting = [i for i in range(3) if sizes[i] <= room]
        if not fitting:
            with pytest.raises(TooLong) as error:
                make_prompt(messages, tokenizer, block_size, new)
            assert (error.value.tokens, error.value.room) == (sizes[-1], room)
            continue
        first = 0 if sizes[0] <= room else 1 if sizes[1] <= 3 * room / 4 else 2
        prompt = make_prompt(messages, tokenizer, block_size, new)
        assert prompt.ids.tolist() == tokenizer.encode(texts[first]).tolist()
        assert prompt.left_out == 2 * first
        assert prompt.max_new_tokens == new


def test_messages_that_were_left_out_do_not_come_back():
    for left_out in (0, 2, 4):
        prompt = make_prompt([SYSTEM, *TALK], BYTE, 1000, 5, left_out)
        assert BYTE.decode(prompt.ids) == "".join([TEXTS[0], *TEXTS[1 + left_out // 2 :]])
        assert prompt.left_out == left_out


CONTENT = strategies.text(strategies.sampled_from("Hi aé \n\t:.'3三"), min_size=1, max_size=8).filter(str.strip)


@given(strategies.lists(CONTENT, min_size=1, max_size=7))
@pytest.mark.parametrize("tokenizer", [GPT2, BPETokenizer.from_texts([["Human: Hi\n\nHuman: Hi\n\n\n"]], 270)])
def test_exchanges_are_tokens_as_in_training(tokenizer, contents):
    """However messages begin and end, their ids don't depend on where the text begins."""
    contents = contents if len(contents) % 2 else contents[:-1]
    messages = [(("user", "assistant")[i % 2], content) for i, content in enumerate(contents)]
    text = Conversation.of(messages).text + "Assistant:"
    assert make_prompt(messages, tokenizer, 1000, 1).ids.tolist() == tokenizer.encode(text).tolist()
    learned = Conversation.of([*messages, ("assistant", "Hi")]).encode(tokenizer)[0]
    assert learned[: len(tokenizer.encode(text))].tolist() == tokenizer.encode(text).tolist()


def test_an_answer_gets_what_is_free_but_at_least_half_of_the_context():
    size = len(BYTE.encode(TEXTS[3]))
    last = TALK[-1:]
    assert make_prompt(last, BYTE, 100, 7).max_new_tokens == 7
    assert make_prompt(last, BYTE, 100, 1000).max_new_tokens == 101 - size
    assert make_prompt(last, BYTE, size, 1).max_new_tokens == 1
    assert make_prompt(last, BYTE, 100, 0).max_new_tokens == 0
    assert make_prompt(last, BYTE, 2 * size, 1000).max_new_tokens == size + 1
    with pytest.raises(TooLong, match=f"the message has {size} tokens, and there is room for {size - 1}"):
        make_prompt(last, BYTE, 2 * size - 4, 1000)
    with pytest.raises(TooLong, match="the system's message and the last one have"):
        make_prompt([SYSTEM, *last], BYTE, 2 * size, 1000)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "the last message must be of the role 'user'"),
        (TALK[:2], "the last message must be of the role 'user'"),
        ([("tool", "x")], "message 1: role 'tool' is none of system, user, assistant"),
        ([("user", "x"), ("assistant", " "), ("user", "x")], "message 2: content has no text"),
        ([("user", "a\x1b")], "message 1: content has a control character"),
        ([("user", "a"), SYSTEM, ("user", "a")], "message 2 is of the role 'system'"),
    ],
)
def test_what_is_no_conversation_is_refused(messages, words):
    with pytest.raises(DataError, match=words):
        make_prompt(messages, BYTE, 100, 5)


# Answers


@pytest.mark.parametrize(
    ("made", "answer"),
    [
        (" Good day.\n\nHuman: and", "Good day."),
        (" Two\n\nparts.\n\n<", "Two\n\nparts.\n\n<"),
        (" Two\n\nparts.\n\n", "Two\n\nparts."),
        ("\n\nHuman:", ""),
        (" a\nAssistant: b", "a"),
        (" a\nSystem: b", "a"),
        (" a\nHuman being", "a\nHuman being"),
        ("Human: a", "Human: a"),
        (" \x1b[31mred\x9b0m\r\n\x00\tb\x7f", "[31mred0m\n\tb"),
    ],
)
def test_what_of_an_answer_is_shown(made, answer):
    assert _shown(made, NAME_STOP) == answer
    assert _shown(made, STOP) == answer.split("\n\n")[0]


def test_an_empty_line_ends_an_answer():
    assert _shown(" One\ntwo\n\n\nthree", STOP) == "One\ntwo"


def _shown(made, stop):
    stops, text, shown = StopTexts(BYTE, stop), AnswerText(), ""
    for id in made.encode():
        ended = stops(Token(0, id))
        shown += text.push(stops.take(0))
        if ended:
            break
    shown += text.push(stops.take(0, finished=True))
    assert shown == text.so_far
    return shown


# The cache

SAMPLING = Sampling(temperature=1.0)


def decoder_of(**changes):
    return Decoder(random_model(dtype=np.float32, vocab_size=257, block_size=96, **changes))


def talk(conversation, questions, reuse=True, leave=None):
    """Answers to questions, each with what was said before. Without ``reuse`` nobody remembers anything."""
    messages, answers = [], []
    for i, question in enumerate(questions):
        prompt = make_prompt([*messages, ("user", question)], BYTE, 96, 12)
        if not reuse:
            conversation = ConversationDecoder(conversation.decoder, BYTE)
        answer = "".join(islice(conversation.answer(prompt, SAMPLING, seed=i), leave))
        answers.append(answer)
        messages += [("user", question), ("assistant", answer or "?")]
    return answers


@pytest.mark.parametrize("leave", [None, 5])
def test_answers_are_the_same_with_and_without_the_cache(leave):
    """Also after answers that were left before their end, and once the oldest messages have gone."""
    questions = ["Hi", "who?", "Hi", "a longer one", "b", "c"]
    conversation = ConversationDecoder(decoder_of(), BYTE)
    expected = talk(conversation, questions, reuse=False, leave=leave)
    assert len(set(expected)) == len(expected)
    assert talk(conversation, questions, leave=leave) == expected
    assert talk(conversation, questions, leave=leave) == expected  # from the beginning, with the last one's cache


def test_only_what_is_new_goes_through_the_model(monkeypatch):
    decoder = decoder_of()
    conversation = ConversationDecoder(decoder, BYTE)
    read = record(decoder.model, lambda ids, cache: ids.size)
    prompt = make_prompt([("user", "Hi")], BYTE, 96, 12)
    answer = list(conversation.answer(prompt, Sampling(temperature=0, logit_bias={257 - 1: -np.inf}), seed=0))
    assert len(answer) == prompt.max_new_tokens
    assert conversation.ended == "length"
    longer = Prompt(np.append(conversation._ids, [1, 2, 3]), 1)
    list(conversation.answer(longer, SAMPLING, seed=0))
    assert read == [len(prompt.ids), 4]  # the answer's last token had not been through it
    list(conversation.answer(longer, SAMPLING, seed=0))
    assert read[2:] == []  # one id goes through the model as a step


@pytest.mark.parametrize(("name", "calls"), [("prefill", 0), ("step", 0), ("step", 3)])
def test_an_interruption_at_any_place_leaves_a_cache_that_is_true(monkeypatch, name, calls):
    decoder = decoder_of()
    prompts = [make_prompt([("user", text)], BYTE, 96, 12) for text in ("Hello", "Help")]
    expected = list(ConversationDecoder(decoder, BYTE).answer(prompts[1], SAMPLING, seed=1))
    conversation, method = ConversationDecoder(decoder, BYTE), getattr(decoder, name)
    list(conversation.answer(Prompt(np.array([1]), 1), SAMPLING, seed=0))
    assert conversation.ended == "length"
    countdown = iter(range(calls))

    def interrupted(*arguments):
        if next(countdown, None) is None:
            raise KeyboardInterrupt
        return method(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(decoder, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(conversation.answer(prompts[0], SAMPLING, seed=0))
    assert conversation.ended is None
    assert list(conversation.answer(prompts[1], SAMPLING, seed=1)) == expected
