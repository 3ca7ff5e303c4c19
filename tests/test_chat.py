"""python -m npgpt.chat: conversations through a pipe, in this process."""

import contextlib
import json
import re
import signal
from itertools import pairwise

import numpy as np
import pytest
from helpers.chat_runs import make_run
from helpers.commands import assert_refused, command, listing
from helpers.texts import random_model

import npgpt.generation.dialogue
from npgpt.chatting import talk as talks
from npgpt.chatting.settings import ChatSettings, changeable, changed
from npgpt.checkpoints import save
from npgpt.errors import ConfigError
from npgpt.generation import Decoder, Token
from npgpt.generation.prefix import shared_length
from npgpt.text.conversations import ConversationFile
from npgpt.text.files import progress
from npgpt.text.tokenizers import ByteTokenizer, CharTokenizer

BYTE = ByteTokenizer()
QUICK = ("--model", "runs/a", "--seed", 1, "--max-new-tokens", 8)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    work = tmp_path_factory.mktemp("chat")
    make_run(work / "runs" / "a")
    return work


@pytest.fixture
def work(made, tmp_path):
    """A new working folder with the run."""
    (tmp_path / "runs").symlink_to(made / "runs")
    return tmp_path


@pytest.fixture
def scripted(monkeypatch):
    """scripted(text, ...): the model's answers are these, in turn; ``asked`` gets the prompts, ``seeds`` the seeds."""

    def script(*answers, asked=None, seeds=None, ended="stop"):
        left = iter(answers)

        def stream(decoder, ids, max_new_tokens, sampling, seed, stop_if, stop_ids, **options):
            if asked is not None:
                asked.append(BYTE.decode(ids[0]))
            if seeds is not None:
                seeds.append(seed)
            new = [*next(left).encode()][:max_new_tokens]
            for i, id in enumerate(new):
                stopped = stop_if(Token(0, id))
                yield Token(0, id, ended="stop" if stopped else ended if i == len(new) - 1 else None)
                if stopped:
                    return

        monkeypatch.setattr(npgpt.generation.dialogue, "stream", stream)

    return script


def chat(work, *lines, flags=()):
    return command("chat", *QUICK, *flags, cwd=work, stdin="".join(f"{line}\n" for line in lines).encode())


TEMPLATE = (
    "warning: npgpt doesn't run chat templates (folder/tokenizer_config.json).\n"
    "Messages become lines of Human: and Assistant: instead. "
    "For the model's own form, send prompts to npgpt.serve's /v1/completions\n"
)


def test_a_chat_template_is_not_run_and_one_warning_says_so(work, scripted):
    asked = []
    scripted(" Ho", " Ha", asked=asked)
    model = random_model(vocab_size=257, block_size=64)
    save(model, work / "folder", tokenizer=BYTE)
    (work / "folder" / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    ended = chat(work, "Hi", "He", flags=("--model", "folder"))
    assert ended == (0, "Ho\nHa\n", TEMPLATE)
    assert asked[0] == "Human: Hi\nAssistant:"


def test_answers_alone_are_on_stdout_and_the_model_reads_what_was_said(work, scripted):
    asked = []
    scripted(" Good\nday.\n\nHuman: x", " \x1b[2Jé ", " x", asked=asked)
    ended = chat(work, "Hi", "", " ", "  /who?\r", "/reset", "é", flags=("--max-new-tokens", 24, "--system", "Be."))
    assert ended == (0, "Good\nday.\n[2Jé\nx\n", "the conversation is empty again\n")
    assert asked == [
        "System: Be.\nHuman: Hi\nAssistant:",
        "System: Be.\nHuman: Hi\nAssistant: Good\nday.\n\nHuman: /who?\nAssistant:",
        "System: Be.\nHuman: é\nAssistant:",
    ]


def test_the_oldest_exchanges_leave_the_context(work, scripted):
    asked = []
    scripted(*[" yes"] * 4, asked=asked)
    chat(work, *[f"question {i}?" for i in range(4)])
    assert asked[3] == "Human: question 2?\nAssistant: yes\n\nHuman: question 3?\nAssistant:"


class Typed:
    """Lines that a person types."""

    interactive, place = True, ""

    def __init__(self, *lines):
        self.lines = iter(lines)

    def read(self):
        return next(self.lines, None)

    def begin(self):
        pass

    end = begin


def test_a_person_is_told_that_an_answer_is_cut_and_once_that_messages_are_left_out(work, scripted, monkeypatch):
    for lines, ended, cut, left_out in ((["long " * 9] * 4, "length", 4, 1), (["Hi", "Ho"], "stop", 0, 0)):
        scripted(*[" a"] * len(lines), ended=ended)
        typed = Typed(*lines)
        monkeypatch.setattr("npgpt.chatting.console.open_console", lambda typed=typed: typed)
        told = command("chat", *QUICK, cwd=work).err
        assert told.count("(cut after 8 tokens: /set max-new-tokens 16 allows more)") == cut
        assert told.count("(the oldest messages don't fit into the context any more") == left_out


def test_an_answer_that_the_context_cuts(work, scripted, monkeypatch):
    """96 tokens are its context: half of it is kept free for an answer, and what the prompt leaves."""
    scripted(" a", ended="length")
    monkeypatch.setattr("npgpt.chatting.console.open_console", lambda: Typed("Hi"))
    told = command("chat", *QUICK, "--max-new-tokens", 1000, cwd=work).err
    room = 96 + 1 - len("Human: Hi\nAssistant:")
    assert f"(cut after {room} tokens: the context has no room for more)\n" in told


def test_a_pipe_gets_answers_alone(work, scripted):
    scripted(*[" a"] * 3, ended="length")
    assert chat(work, *["long " * 9] * 3) == (0, "a\n" * 3, "")


def test_most_prompts_begin_with_the_one_before_also_when_the_context_is_full(work, tmp_path, scripted):
    """So the cache holds most of their ids. With an exchange less each time it would hold the first few only."""
    make_run(tmp_path / "long", block_size=384)
    asked = []
    scripted(*[" yes"] * 60, asked=asked)
    chat(work, *[f"{i:2}?" for i in range(60)], flags=("--model", tmp_path / "long"))
    prompts = [np.frombuffer(text.encode(), np.uint8) for text in asked]
    reused = [shared_length(*pair) for pair in pairwise(prompts)]
    full = reused[14:]
    assert min(map(len, asked[14:])) > 250
    assert sum(n < 100 for n in full) < len(full) / 3
    assert sum(full) > sum(map(len, asked[15:])) / 2


def test_an_empty_line_ends_an_answer_unless_it_may_have_paragraphs(work, scripted):
    made = " a\n\nb\nHuman: c"
    scripted(made, made)
    flags = ("--max-new-tokens", 30)
    assert (chat(work, "Hi", flags=flags).out, chat(work, "Hi", flags=(*flags, "--paragraphs")).out) == (
        "a\n",
        "a\n\nb\n",
    )


def test_an_answer_without_text_is_no_message(work, scripted):
    asked = []
    scripted("\n\nHuman:", " a", asked=asked)
    assert chat(work, "Hi", "Ho").out == "\na\n"
    assert asked[1] == "Human: Ho\nAssistant:"


def test_a_seed_is_the_same_conversation_again(work):
    lines = ("Hi", "Ho", "Hi")
    once = chat(work, *lines, "/reset", *lines).out
    assert len(once) > 20
    assert once[: len(once) // 2] == once[len(once) // 2 :]
    assert chat(work, *lines).out == once[: len(once) // 2]
    assert chat(work, *lines, flags=("--seed", 2)).out != once[: len(once) // 2]
    assert chat(work, "/set seed 2", *lines).out == chat(work, *lines, flags=("--seed", 2)).out


def test_each_answer_has_a_seed_of_its_own(work, scripted):
    seeds = []
    scripted(*[" a"] * 4, seeds=seeds)
    chat(work, "Hi", "Hi", "/reset", "Hi", "Hi")
    assert seeds == [1, 2, 1, 2]


def test_settings_are_shown_and_changed(work):
    ended = chat(
        work, "/set", "/set temperature 0", "/set top_p 0.5", "/set top-p none", "/set max-new-tokens 3", "/set"
    )
    before, after = (dict(line.split() for line in half) for half in _halves(ended.err.splitlines()))
    assert (before["temperature"], before["seed"], before["top-k"], before["max-new-tokens"]) == ("0.8", "1", "50", "8")
    changes = {"temperature": "0.0", "max-new-tokens": "3"}
    assert after == {**before, **changes}
    assert "logit-bias" not in before
    greedy = chat(work, "Hi", flags=("--greedy",)).out
    assert chat(work, "/set temperature 0", "Hi").out == greedy != chat(work, "Hi").out
    assert chat(work, "/set temperature 0.8", "Hi", flags=("--greedy",)).out == chat(work, "Hi").out
    assert "0 (greedy)" in chat(work, "/set", flags=("--greedy",)).err


def _halves(lines):
    return lines[: len(lines) // 2], lines[len(lines) // 2 :]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("temperature", "-1", "temperature: must be a number of at least 0, not -1"),
        ("top-k", "none", "top-k: must be a whole number"),
        ("model", "x", "there is no setting 'model'"),
        ("greedy", "1", "there is no setting 'greedy'"),
        ("bad-words", "x", "there is no setting 'bad-words'"),
    ],
)
def test_settings_that_can_not_be(name, text, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        changed(ChatSettings(), name, text)


def test_every_setting_of_the_choice_can_be_changed():
    assert {*changeable()} == {
        "temperature", "top-k", "top-p", "min-p", "typical-p", "repetition-penalty", "presence-penalty",
        "frequency-penalty", "no-repeat-ngram-size", "seed", "max-new-tokens",
    }  # fmt: skip


def test_a_saved_conversation_is_one_that_can_be_trained_on(work, scripted):
    scripted(" a\x1b", ' "é"\n\nb\nHuman:')
    ended = chat(
        work, "Hi", "Ho", "/save my talk.jsonl", flags=("--system", "Be.", "--max-new-tokens", 40, "--paragraphs")
    )
    assert ended.err == "saved in my talk.jsonl\n"
    (line,) = (work / "my talk.jsonl").read_text(encoding="utf-8").splitlines()
    said = [(message["role"], message["content"]) for message in json.loads(line)["messages"]]
    assert said == [
        ("system", "Be."), ("user", "Hi"), ("assistant", "a"), ("user", "Ho"), ("assistant", '"é"\n\nb'),
    ]  # fmt: skip
    with progress([], "") as bar:
        assert len(list(ConversationFile(work / "my talk.jsonl").read(bar))) == 1
    assert_refused(chat(work, "/save b.jsonl", flags=("--system", "Be.")), "nothing was said yet that could be saved")


MISTAKES = [
    ("/save there.jsonl", "there.jsonl is there already"),
    ("/save a.txt", "must end in .jsonl"),
    ("/save gone/a.jsonl", "is not a folder"),
    ("/save ~no-such-user/a.jsonl", "~no-such-user/a.jsonl: there is no such user"),
    ("/save a\0.jsonl", "no NUL characters"),
    ("/save", "/help shows the commands"),
    ("/reset now", "/help shows the commands"),
    ("/set temperature", "/help shows the commands"),
    ("/set temperature hot", "temperature: must be a number of at least 0, not 'hot'"),
    ("/sett\x1b", r"there is no command '/sett\x1b'"),
    ("a\x1b", r"the message has a control character, '\x1b'"),
    ("a" * 99, "the message has 117 tokens, and there is room for 89"),
]


@pytest.mark.parametrize(("line", "words"), MISTAKES)
def test_a_mistake_ends_a_pipe_and_writes_nothing(work, scripted, line, words):
    scripted(" a")
    (work / "there.jsonl").write_text("mine")
    before = listing(work)
    ended = chat(work, "Hi", line, "Ho")
    assert ended.out == "a\n"
    assert_refused(ended._replace(out=""), f"line 2: {words}" if words.startswith("the") else words)
    assert listing(work) == before


def test_other_mistakes(work, tmp_path, monkeypatch):
    assert_refused(chat(work, "/save a.jsonl"), "nothing was said yet")
    assert_refused(command("chat", *QUICK, cwd=work, stdin=b"\xff\n"), "line 1: not UTF-8 text at byte 0")
    monkeypatch.setattr("npgpt.chatting.console.LINE_LIMIT", 10)
    assert_refused(chat(work, "x" * 11), "line 1: longer than 10 bytes")
    make_run(tmp_path / "short", block_size=8)
    make_run(tmp_path / "letters", CharTokenizer("ab"))
    for name, words in (("short", "the message has 23 tokens"), ("letters", "unknown to this tokenizer")):
        ended = command("chat", "--model", tmp_path / name, cwd=tmp_path)
        assert_refused(ended, "this model can't have a conversation", words)


def test_a_full_disk_leaves_no_file(work, scripted, monkeypatch):
    scripted(" a")

    @contextlib.contextmanager
    def full(path):
        raise talks.ConfigError(f"{path}: can't be written: no space")
        yield

    monkeypatch.setattr(talks, "checkpoint_file", full)
    assert_refused(chat(work, "Hi", "/save a.jsonl")._replace(out=""), "no space")
    assert not (work / "a.jsonl").exists()


def test_quit_help_and_a_last_line_without_its_end(work, scripted):
    asked = []
    scripted(" a", asked=asked)
    ended = command("chat", *QUICK, cwd=work, stdin=b"\xef\xbb\xbfHi\n/help\n/quit\nHo")
    assert (ended.code, ended.out) == (0, "a\n")
    assert asked == ["Human: Hi\nAssistant:"]
    assert "/set NAME VALUE" in ended.err
    assert max(map(len, ended.err.splitlines())) < 80
    scripted(" a")
    assert command("chat", *QUICK, cwd=work, stdin=b"Hi").out == "a\n"
    assert command("chat", *QUICK, cwd=work) == (0, "", "")


def interrupted(text):
    """A model's answer that Ctrl-C stops."""

    def stream(*arguments, stop_if, **options):
        for id in text.encode():
            stop_if(Token(0, id))
            yield Token(0, id)
        signal.raise_signal(signal.SIGINT)

    return stream


def test_ctrl_c_ends_a_pipe(work, monkeypatch):
    monkeypatch.setattr(npgpt.generation.dialogue, "stream", interrupted("a"))
    assert chat(work, "Hi", "Ho") == (130, "a\n", "stopped\n")


def test_what_could_have_been_a_stop_string_is_shown_and_kept_after_ctrl_c(work, monkeypatch):
    monkeypatch.setattr(npgpt.generation.dialogue, "stream", interrupted(" a\nHum"))
    assert chat(work, "Hi", flags=("--max-new-tokens", 20)) == (130, "a\nHum\n", "stopped\n")
    talk = talks.Talk(Decoder(random_model(vocab_size=257, block_size=96)), BYTE, ChatSettings())
    pieces = talk.answer("Hi")
    with pytest.raises(KeyboardInterrupt):
        list(pieces)
    assert (talk.held_back, talk.messages) == ("\nHum", [("user", "Hi"), ("assistant", "a\nHum")])
    talk.answer("Ho").close()  # before it has begun
    assert (talk.held_back, len(talk.messages)) == ("", 2)
