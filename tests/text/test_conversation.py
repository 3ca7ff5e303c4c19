"""The form of a conversation: who may speak when, and that what is written is read as the same."""

import pytest

from npgpt.text.conversation import Conversation, check_content, check_order, json_line
from npgpt.text.conversations import ConversationFile
from npgpt.text.files import progress

MESSAGES = [
    ("system", 'Be "brief".'),
    ("user", "三\tA\nHuman: x"),
    ("assistant", "é\n\n👩 \\"),
    ("user", "b"),
    ("assistant", "c"),
]


def test_a_line_is_read_as_the_same_conversation(tmp_path):
    (tmp_path / "a.jsonl").write_text(json_line(MESSAGES), encoding="utf-8")
    with progress([], "") as bar:
        assert list(ConversationFile(tmp_path / "a.jsonl").read(bar)) == [Conversation.of(MESSAGES)]


@pytest.mark.parametrize(
    ("roles", "last", "words"),
    [
        ([], "user", "the last message must be of the role 'user'"),
        (["system"], "user", "the last message must be of the role 'user'"),
        (["user"], "assistant", "the last message must be of the role 'assistant'"),
        (["user", "assistant"], "user", "the last message must be of the role 'user'"),
        (["assistant", "user"], "user", "message 1 is of the role 'assistant', where one of 'user' was expected"),
        (["system", "user", "user"], "user", "message 3 is of the role 'user', where one of 'assistant' was expected"),
        (["user", "system", "user"], "user", "message 2 is of the role 'system'"),
    ],
)
def test_an_order_that_can_not_be(roles, last, words):
    with pytest.raises(ValueError, match=words):
        check_order(roles, last)


def test_what_a_message_may_say():
    for content in ("a\tb\nc\r\n", "\u200d é"):
        check_content(content, "it")
    for content, words in ((" \n", "it has no text"), ("a\x1b", "a control character"), ("\ud83d", "half of a surr")):
        with pytest.raises(ValueError, match=words):
            check_content(content, "it")
