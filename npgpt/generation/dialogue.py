"""A dialogue with a model: from messages to a prompt that fits into its context, and from its tokens to an answer.

    prompt = make_prompt(messages, tokenizer, config.block_size, max_new_tokens)  # messages: (role, content), ...
    prompt.ids, prompt.max_new_tokens                # go to what makes tokens: ``stream``, the server's engine
    STOP, tokenizer.end_of_text                      # end an answer: one of these strings (or NAME_STOP), or this id
    text = AnswerText(); shown = text.push(piece)    # what to show of each piece of the text that is made
    ConversationDecoder(decoder, tokenizer)          # does it all for one conversation, and keeps its cache

Nothing here knows a terminal or a network.
"""

import warnings
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np

from npgpt.errors import CheckpointWarning, DataError
from npgpt.generation.decoder import Decoder
from npgpt.generation.prefix import shared_length
from npgpt.generation.sampling import Sampling
from npgpt.generation.stop import StopTexts
from npgpt.generation.stream import stream
from npgpt.streams import without_control
from npgpt.text.conversation import NAMES, Message, check_content, check_order, message_text
from npgpt.text.tokenizers import Tokenizer

# In training an answer ends with an empty line, and then a name or <|endoftext|> follows. A model that has learned the
# answers alone (--loss-on assistant) doesn't know what follows, so the empty line itself ends an answer; for a model
# whose answers have several paragraphs, a name does.
NAME_STOP = tuple(f"\n{name}:" for name in NAMES.values())
STOP = ("\n\n", *NAME_STOP)

KEPT = 3 / 4  # of the room for a prompt, once something must be left out


class TooLong(DataError):
    """What must be in the prompt doesn't fit: it has ``tokens``, and there is room for ``room``."""

    def __init__(self, tokens: int, room: int, what: str):
        super().__init__(f"{what} {tokens:,} tokens, and there is room for {room:,}")
        self.tokens, self.room = tokens, room


@dataclass(frozen=True)
class Prompt:
    """What the model continues: "...Human: x\\nAssistant:".

    ids             (n,), at most block_size
    max_new_tokens  of the answer: n + max_new_tokens is at most block_size + 1, so the window never slides
    left_out        so many of the messages didn't fit
    """

    ids: np.ndarray
    max_new_tokens: int
    left_out: int = 0


def warn_of_chat_template(place: str | None) -> None:
    """Warn that a model's chat template is not followed. ``place``: ``Checkpoint.chat_template``."""
    if place is not None:
        said = f"npgpt doesn't run chat templates ({place}).\nMessages become lines of Human: and Assistant: instead. "
        advice = "For the model's own form, send prompts to npgpt.serve's /v1/completions"
        warnings.warn(said + advice, CheckpointWarning, stacklevel=2)


def make_prompt(
    messages: Sequence[Message], tokenizer: Tokenizer, block_size: int, max_new_tokens: int, left_out: int = 0
) -> Prompt:
    """Make the prompt of a conversation whose last message is a user's.

    messages        (role, content): perhaps one of "system", then "user" and "assistant" in turns
    max_new_tokens  that the answer may have. So many, or half of the context if that is less, are kept free for it
    left_out        so many of the oldest messages are left out in any case, as they were from the prompt before

    What doesn't fit beside the answer is left out: the oldest questions first, each with its answer, but never the
    system's message or the last one. If something must be left out, enough is left out that the prompt takes at most
    KEPT of the room. The next few prompts then fit as they are. They begin with the same ids, which a cache still
    holds. The ids are those of the text that is left, as in training.

    Raises DataError if the messages can't be a conversation (it says which), TooLong if the system's message and the
    last one don't fit, and TokenizerError if one can't be encoded.

    >>> from npgpt.text.tokenizers import ByteTokenizer
    >>> talk = [("user", "1+1?"), ("assistant", "2"), ("user", "2+2?")]
    >>> prompt = make_prompt(talk, ByteTokenizer(), block_size=48, max_new_tokens=10)
    >>> ByteTokenizer().decode(prompt.ids), prompt.max_new_tokens, prompt.left_out
    ('Human: 2+2?\\nAssistant:', 10, 2)
    """
    check_messages(messages, last="user")
    room = block_size + 1 - max(1, min(max_new_tokens, block_size // 2))
    *before, (_, question) = messages
    system = before.pop(0)[1] if before and before[0][0] == "system" else None

    first = [] if system is None else [_before_a_user(message_text("system", system), tokenizer)]
    last = tokenizer.encode(message_text("user", question) + f"{NAMES['assistant']}:")
    count = sum(map(len, (*first, last)))
    if count > room:
        what = "the message has" if system is None else "the system's message and the last one have"
        raise TooLong(count, room, what)
    exchanges: list[np.ndarray] = []  # the newest first
    while len(before) > left_out and count <= room:
        text = "".join(message_text(*message) for message in before[-2:])
        exchanges.append(_before_a_user(text, tokenizer))
        count += len(exchanges[-1])
        before = before[:-2]
    left_out = len(before)
    if count > room:
        while exchanges and count > KEPT * room:
            count -= len(exchanges.pop())
            left_out += 2
    ids = np.concatenate([*first, *reversed(exchanges), last])
    return Prompt(ids, min(max_new_tokens, block_size + 1 - count), left_out)


def check_messages(messages: Sequence[Message], last: str = "assistant") -> None:
    """Raise DataError, which says what is wrong, unless these messages can be a conversation."""
    try:
        for number, (role, content) in enumerate(messages, 1):
            if role not in NAMES:
                raise ValueError(f"message {number}: role {role[:40]!r} is none of {', '.join(NAMES)}")
            check_content(content, f"message {number}: content")
        check_order([role for role, _ in messages], last)
    except ValueError as error:
        raise DataError(str(error)) from None


def _before_a_user(text, tokenizer):
    """The ids of a text after which "Human" follows. How newlines are split into tokens depends on that."""
    name = NAMES["user"]
    return tokenizer.encode(text + name)[: -len(tokenizer.encode(name))]


class AnswerText:
    """Passes on an answer as it comes, without the white space around it, and without control characters.

    Such characters may be none in a message, and a terminal would obey them. Tabs and newlines stay.

    >>> text = AnswerText()
    >>> [text.push(piece) for piece in (" ", " Good", " ", "day.\\x1b[2J", "\\n", "\\n")]
    ['', 'Good', '', ' day.[2J', '', '']
    """

    def __init__(self) -> None:
        self.so_far = ""
        self._space = ""  # may be the end

    def push(self, piece: str) -> str:
        """Take the next piece of text -> what can be shown now."""
        text = self._space + without_control(piece)
        if not self.so_far:
            text = text.lstrip()
        shown = text.rstrip()
        self._space = text[len(shown) :]
        self.so_far += shown
        return shown


class ConversationDecoder:
    """Answers one prompt after another, and keeps keys and values, so that only what is new goes through the model.

    ended       why the last answer has ended: as ``Token.ended``; None if nobody waited for its end
    held_back   text at the end of an answer that nobody waited for: it could have been the beginning of a stop string
    """

    def __init__(self, decoder: Decoder, tokenizer: Tokenizer):
        self.decoder, self.tokenizer = decoder, tokenizer
        self.ended: str | None = None
        self.held_back = ""
        self._cache = decoder.new_cache()
        self._ids = np.zeros(0, np.int64)  # the cache holds the first of them

    def answer(
        self, prompt: Prompt, sampling: Sampling, seed: int | None = None, stop: Sequence[str] = STOP
    ) -> Generator[str, None, None]:
        """The pieces of an answer, one for each token; many are "".

        The answer is the same whatever was answered before, up to rounding: keys and values of tokens made one by one
        may differ from those of a whole prompt in the last bits. An answer can be left at any token: the next one then
        begins with what has been through the model. Raises FloatingPointError as ``stream``.
        """
        self.ended, self.held_back = None, ""
        self._cache.lengths[0] = shared_length(self._ids[: self._cache.lengths[0]], prompt.ids)
        self._ids = prompt.ids.astype(np.int64)
        texts, text = StopTexts(self.tokenizer, stop, sampling.min_new_tokens), AnswerText()
        tokens = stream(
            self.decoder, [prompt.ids], prompt.max_new_tokens, sampling, seed,
            stop_ids=self.tokenizer.stop_ids, stop_if=texts, cache=self._cache,
        )  # fmt: skip
        try:
            for token in tokens:
                self._ids = np.append(self._ids, token.id)
                self.ended = token.ended
                yield text.push(texts.take(0, token.ended is not None))
        finally:
            self.held_back = text.push(texts.take(0, finished=True))
