"""Tokenizers: text to ids and back. GPT-2's byte-pair encoding, characters, bytes. None needs a network."""

import codecs
import json
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from operator import index
from pathlib import Path

import numpy as np

from npgpt.errors import TokenizerError
from npgpt.text import TOKENIZERS, gpt2_bpe

END_OF_TEXT = "<|endoftext|>"


class Tokenizer(ABC):
    """The interface of every tokenizer.

    ===========  =================================================================================================
    name         "gpt2", "char" or "byte"
    vocab_size   V, the number of ids
    end_of_text  the id of <|endoftext|>, which separates documents. No text encodes to it, not even its own name.
                 None if there is no such id, as in nanoGPT's character datasets
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


class GPT2Tokenizer(Tokenizer):
    """GPT-2's byte-pair encoding of 50,257 ids (Radford et al. 2019, section 2.2), computed by tiktoken.

    >>> GPT2Tokenizer().encode("The verdict").tolist()
    [464, 15593]
    """

    name = "gpt2"
    end_of_text = 50256

    def __init__(self):
        super().__init__([*gpt2_bpe.tokens(), END_OF_TEXT.encode()])

    def encode(self, text: str) -> np.ndarray:
        _utf8(text)  # tiktoken would silently replace lone surrogates
        return np.array(gpt2_bpe.encode(text), dtype=self.dtype)

    def encode_stream(self, chunks: Iterable[str]) -> Iterator[np.ndarray]:
        """Encode on several threads (tiktoken releases the GIL), at most one chunk more than there are threads."""
        gpt2_bpe.encode("")  # builds the encoding once, before the threads need it
        threads = min(os.cpu_count() or 1, 8)
        with ThreadPoolExecutor(threads) as pool:
            pending = deque()
            for part in gpt2_bpe.safe_chunks(chunks):
                pending.append(pool.submit(self.encode, part))
                if len(pending) > threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()


class CharTokenizer(Tokenizer):
    """One id for each character of a text, by code point. The id after them, if wanted, is <|endoftext|>."""

    name = "char"

    def __init__(self, characters: str, has_end_of_text: bool = True):
        """characters: sorted by code point, without duplicates (else TokenizerError). ``from_texts`` finds them."""
        if not isinstance(characters, str) or not characters:
            raise TokenizerError("a character tokenizer needs at least one character")
        codes = _code_points(characters)
        if (codes[1:] <= codes[:-1]).any():
            raise TokenizerError("the characters of a character tokenizer must be sorted and without duplicates")
        end = [END_OF_TEXT.encode()] if has_end_of_text else []
        super().__init__([*(character.encode() for character in characters), *end])
        self.characters = characters
        self.end_of_text = len(characters) if has_end_of_text else None
        # From code point to id. No character has the id len(characters), so it marks unknown characters here. The last
        # entry serves all code points beyond the known ones.
        self.dtype = np.dtype(np.uint16 if len(characters) < 2**16 else np.uint32)
        self._ids = np.full(int(codes[-1]) + 2, len(characters), self.dtype)
        self._ids[codes] = np.arange(len(codes))

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> "CharTokenizer":
        """Make the tokenizer of all characters in some texts. Each text is read once.

        >>> tokenizer = CharTokenizer.from_texts(["banana", "bandana"])
        >>> tokenizer.characters, tokenizer.encode("band").tolist()
        ('abdn', [1, 0, 3, 2])
        """
        seen = np.zeros(0x110000, bool)  # every code point of Unicode
        for text in texts:
            seen[_code_points(text)] = True
        return cls("".join(map(chr, np.flatnonzero(seen))))

    def encode(self, text: str) -> np.ndarray:
        return self._encode(text, 0)

    def encode_stream(self, chunks: Iterable[str]) -> Iterator[np.ndarray]:
        offset = 0
        for chunk in chunks:
            yield self._encode(chunk, offset)
            offset += len(chunk)

    def to_dict(self) -> dict:
        end = {} if self.end_of_text is not None else {"end_of_text": False}
        return {"name": self.name, "characters": self.characters, **end}

    def _encode(self, text, offset):
        """offset: the text's position in a longer one, for the error message."""
        ids = self._ids[np.minimum(_code_points(text), len(self._ids) - 1)]
        unseen = ids == len(self.characters)
        if unseen.any():
            position = int(unseen.argmax())
            raise TokenizerError(
                f"the character {_describe(text[position])} at offset {offset + position} is unknown to this tokenizer "
                f"of {len(self.characters)} characters.\n"
                "Leave it out, train on a text that has it, or use --tokenizer gpt2 or byte, which take any character."
            )
        return ids


class ByteTokenizer(Tokenizer):
    """The ids 0 to 255 are the bytes of UTF-8, and 256 is <|endoftext|>.

    >>> ByteTokenizer().encode("né").tolist()
    [110, 195, 169]
    """

    name = "byte"
    end_of_text = 256

    def __init__(self):
        super().__init__([*(bytes([byte]) for byte in range(256)), END_OF_TEXT.encode()])

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(_utf8(text), np.uint8).astype(self.dtype)


def make_tokenizer(name: str, texts: Iterable[str] = ()) -> Tokenizer:
    """Make a tokenizer by its name. Only "char" reads the texts. Raises TokenizerError on an unknown name."""
    if name not in TOKENIZERS:
        raise TokenizerError(f"there is no tokenizer {name!r}; there are {', '.join(TOKENIZERS)}")
    if name == CharTokenizer.name:
        return CharTokenizer.from_texts(texts)
    return GPT2Tokenizer() if name == GPT2Tokenizer.name else ByteTokenizer()


def tokenizer_from_dict(values: dict) -> Tokenizer:
    """The inverse of ``Tokenizer.to_dict``. Raises TokenizerError on anything that ``to_dict`` doesn't make.

    >>> tokenizer_from_dict({"name": "char", "characters": "abc"}).decode([2, 0, 1])
    'cab'
    """
    if not isinstance(values, dict) or values.get("name") not in TOKENIZERS:
        raise TokenizerError(f"a stored tokenizer must be a JSON object whose name is one of {', '.join(TOKENIZERS)}")
    is_char = values["name"] == CharTokenizer.name
    stored_characters = values.get("characters", ""), values.get("end_of_text", True)
    tokenizer = CharTokenizer(*stored_characters) if is_char else make_tokenizer(values["name"])
    if tokenizer.to_dict() != values:
        raise TokenizerError(f"a stored {tokenizer.name} tokenizer must have exactly {', '.join(tokenizer.to_dict())}")
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, path: str | Path) -> None:
    """Write a tokenizer as a JSON file."""
    Path(path).write_text(json.dumps(tokenizer.to_dict(), indent=2) + "\n", encoding="utf-8")


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Read a tokenizer that ``save_tokenizer`` wrote. Raises TokenizerError, which names the file."""
    try:
        return tokenizer_from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
    except OSError as error:
        raise TokenizerError(f"can't read the tokenizer {path}: {error.strerror}") from error
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or brackets nested without end
        raise TokenizerError(f"{path} is not a stored tokenizer: it is not JSON ({error})") from error


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        found = f"{_describe(text[error.start])} at offset {error.start}, half of a surrogate pair and not a character"
        raise TokenizerError(f"the text has {found}: was the text decoded with the right encoding?") from error


def _code_points(text: str) -> np.ndarray:
    """(N,) uint32"""
    try:
        return np.frombuffer(text.encode("utf-32-le"), "<u4")
    except UnicodeEncodeError:
        _utf8(text)  # says what is wrong
        raise


def _describe(character: str) -> str:
    return f"{character!r} (U+{ord(character):04X})"
