"""Talk, a conversation with a model: what was said, and how the next answer is made."""

from collections.abc import Generator
from contextlib import closing
from pathlib import Path

from npgpt.chatting.settings import ChatSettings
from npgpt.checkpoints import check_can_write
from npgpt.checkpoints.shared.atomic import checkpoint_file
from npgpt.errors import ConfigError, DataError, UserError
from npgpt.generation import Decoder
from npgpt.generation.dialogue import NAME_STOP, STOP, ConversationDecoder, Prompt, make_prompt
from npgpt.generation_settings import sampling_of
from npgpt.text.conversation import Message, check_content, json_line
from npgpt.text.conversations import is_conversations
from npgpt.text.tokenizers import Tokenizer


class Talk:
    """A conversation.

    messages    (role, content) of all that was said
    left_out    the number of oldest messages that no longer fit into a prompt; later prompts leave them out, too
    limit       the most tokens that the last answer could have
    ended       why the last answer has ended, as ``Token.ended``; None if it was stopped
    held_back   the end of an answer that was stopped, which was in none of its pieces: it could have been the beginning
                of a stop string
    """

    def __init__(self, decoder: Decoder, tokenizer: Tokenizer, settings: ChatSettings):
        """Raises UserError if the tokenizer can't encode the form of a conversation, or a setting can't be."""
        self.decoder, self.tokenizer = decoder, tokenizer
        self._conversation = ConversationDecoder(decoder, tokenizer)
        self.settings = settings  # its setter makes the sampling
        self.reset()
        try:
            self._prompt("Human")  # characters that are in every prompt
        except UserError as error:
            raise ConfigError(f"this model can't have a conversation: {error}") from None

    @property
    def settings(self) -> ChatSettings:
        return self._settings

    @settings.setter
    def settings(self, settings: ChatSettings) -> None:
        self._sampling = sampling_of(settings, self.tokenizer, self.decoder.config.vocab_size)
        self._settings = settings

    @property
    def ended(self) -> str | None:
        return self._conversation.ended

    def reset(self) -> None:
        """Forget all that was said. With a seed the same questions then get the same answers again."""
        system = self.settings.system
        self.messages: list[Message] = [] if system is None else [("system", system)]
        self.left_out = self._answers = self.limit = 0
        self.held_back = ""

    def answer(self, question: str) -> Generator[str, None, None]:
        """The pieces of the answer. When it ends, or is closed, question and answer are among the messages.

        If it is closed before its end, ``held_back`` is the last piece.

        Raises UserError at once, and changes nothing, if the question can't be asked.
        """
        prompt = self._prompt(question)
        self.left_out, self.limit, self.held_back = prompt.left_out, prompt.max_new_tokens, ""
        seed = None if self.settings.seed is None else self.settings.seed + self._answers
        self._answers += 1
        return self._pieces(question, prompt, seed)

    def _prompt(self, question) -> Prompt:
        try:
            check_content(question, "the message")
        except ValueError as error:
            raise DataError(str(error)) from None
        messages = [*self.messages, ("user", question)]
        block_size, new = self.decoder.config.block_size, self.settings.max_new_tokens
        return make_prompt(messages, self.tokenizer, block_size, new, self.left_out)

    def _pieces(self, question, prompt, seed):
        said, stop = "", NAME_STOP if self.settings.paragraphs else STOP
        try:
            with closing(self._conversation.answer(prompt, self._sampling, seed, stop)) as pieces:
                for piece in pieces:
                    said += piece
                    yield piece
        finally:
            self.held_back = self._conversation.held_back
            said += self.held_back
            if said:  # a message without text can't be
                self.messages += [("user", question), ("assistant", said)]

    def save(self, name: str) -> None:
        """Write a new .jsonl file, which ``npgpt.train`` reads. Raises UserError if there is one, or it can't be."""
        try:
            path = Path(name).expanduser()
        except RuntimeError:  # ~somebody
            raise ConfigError(f"{name}: there is no such user") from None
        if "\0" in name:
            raise ConfigError("a file's name has no NUL characters")
        if not is_conversations(path):
            raise ConfigError(f"{name}: the name must end in .jsonl, so that npgpt.train knows what is in it")
        if len(self.messages) < 2:
            raise ConfigError("nothing was said yet that could be saved")
        check_can_write(path)
        with checkpoint_file(path) as file:
            file.write(json_line(self.messages).encode())
