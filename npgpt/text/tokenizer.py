"""Tokenizer, what all tokenizers have in common, and StreamDecoder, which makes text of ids as they come."""

import codecs
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from operator import index

import numpy as np

from npgpt.errors import TokenizerError

END_OF_TEXT = "<|endoftext|>"


class Tokenizer(ABC):
    """The interface of every tokenizer.

    ===========  =================================================================================================
    name         "gpt2", "char", "byte" or "bpe"
    vocab_size   V, the number of ids
    end_of_text  the id of <|endoftext|>, which separates documents. No text encodes to it, not even its own name.
                 None if there is no such id, as in nanoGPT's character datasets
    special      {text: id} of the tokens that no text encodes to: <|endoftext|>, and in others' tokenizers more
    dtype        of encoded ids: uint16, or uint32 if the vocabulary has more than 65,536
    ===========  =================================================================================================
    """

    name: str
    end_of_text: int | None

    def __init__(self, vocabulary: list[bytes]):
        """vocabulary: the UTF-8 bytes that each id stands for."""
        self._vocabulary = vocabulary
        self.vocab_size = len(vocabulary)
        self.dtype = np.dtype(np.uint16 if self.vocab_size <= 2**16 else np.uint32)

    @property
    def special(self) -> dict[str, int]:
        return {} if self.end_of_text is None else {END_OF_TEXT: self.end_of_text}

    @property
    def stop_ids(self) -> frozenset[int]:
        """The ids that end a text: that of <|endoftext|>, if there is one."""
        return frozenset() if self.end_of_text is None else frozenset([self.end_of_text])

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """Encode a text to ids (N,) of ``dtype``. Raises TokenizerError if it can't be encoded."""

    def encode_prompt(self, prompt: str) -> np.ndarray:
        """Encode a prompt. An empty one becomes what precedes a document: <|endoftext|>, or a newline without it."""
        if prompt or self.end_of_text is None:
            return self.encode(prompt or "\n")
        return np.array([self.end_of_text], self.dtype)

    def encode_stream(self, chunks: Iterable[str]) -> Iterator[np.ndarray]:
        """Encode a text that arrives in chunks. The arrays, joined, are what ``encode`` makes of the joined chunks."""
        return map(self.encode, chunks)

    def decode(self, ids: Iterable[int]) -> str:
        """Decode ids (N,) to text. Bytes that are not UTF-8 become U+FFFD. Raises TokenizerError on an unknown id."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    def decoder(self) -> "StreamDecoder":
        """A new decoder for ids that arrive one at a time, as they are generated."""
        return StreamDecoder(self)

    def token_bytes(self, id: int) -> bytes:
        """The bytes that one id stands for: a whole character, or part of one. Raises TokenizerError."""
        if not 0 <= index(id) < self.vocab_size:
            raise TokenizerError(f"there is no id {id}: the {self.name} tokenizer has ids 0 to {self.vocab_size - 1}")
        return self._vocabulary[id]

    def to_dict(self) -> dict:
        """The JSON object that a run stores; ``tokenizer_from_dict`` makes the same tokenizer of it."""
        return {"name": self.name}


class StreamDecoder:
    """Decodes ids one at a time. The bytes of a character that spans several ids are held until it is complete.

    Other bytes turn into U+FFFD, as in ``Tokenizer.decode``. A character that is unfinished at the end is dropped.

    >>> from npgpt.text.tokenizers import ByteTokenizer
    >>> decoder = ByteTokenizer().decoder()
    >>> [decoder.decode(id) for id in "né".encode()]
    ['n', '', 'é']
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def decode(self, id: int) -> str:
        """The text that this id completes; "" while a character is unfinished. Raises TokenizerError."""
        return self._decoder.decode(self._tokenizer.token_bytes(id))


def utf8(text: str) -> bytes:
    """A text's bytes. Raises TokenizerError on half of a surrogate pair, with its offset."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        found = f"{describe(text[error.start])} at offset {error.start}, half of a surrogate pair and not a character"
        raise TokenizerError(f"the text has {found}: was the text decoded with the right encoding?") from error


def describe(character: str) -> str:
    """A character in a message: its repr and its code point."""
    return f"{character!r} (U+{ord(character):04X})"
