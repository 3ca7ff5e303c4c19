"""Tokenizers: text to ids and back. Byte-pair encodings (byte_pairs.py), characters, bytes. None needs a network."""

from collections.abc import Iterable, Iterator

import numpy as np

from npgpt.errors import TokenizerError
from npgpt.text import TOKENIZERS, tokenizer_name
from npgpt.text.byte_pairs import BPETokenizer, GPT2Tokenizer
from npgpt.text.tokenizer import END_OF_TEXT, Tokenizer, describe, utf8

__all__ = [
    "BPETokenizer",
    "ByteTokenizer",
    "CharTokenizer",
    "GPT2Tokenizer",
    "Tokenizer",
    "make_tokenizer",
    "tokenizer_from_dict",
]


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
                f"the character {describe(text[position])} at offset {offset + position} is unknown to this tokenizer "
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

    def __init__(self) -> None:
        super().__init__([*(bytes([byte]) for byte in range(256)), END_OF_TEXT.encode()])

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(utf8(text), np.uint8).astype(self.dtype)


def make_tokenizer(name: str, texts: Iterable[str] = ()) -> Tokenizer:
    """Make a tokenizer by its name. "char" and "bpe:N" are made from the texts. Raises TokenizerError on another name.

    >>> make_tokenizer("bpe:259", ["banana bandana"]).merges
    ('a n', 'b an')
    """
    kind, size = tokenizer_name(name)
    if kind == BPETokenizer.name:
        return BPETokenizer.from_texts(([text] for text in texts), size)
    if kind == CharTokenizer.name:
        return CharTokenizer.from_texts(texts)
    return GPT2Tokenizer() if kind == GPT2Tokenizer.name else ByteTokenizer()


def tokenizer_from_dict(values: dict) -> Tokenizer:
    """The inverse of ``Tokenizer.to_dict``. Raises TokenizerError on anything that ``to_dict`` doesn't make.

    >>> tokenizer_from_dict({"name": "char", "characters": "abc"}).decode([2, 0, 1])
    'cab'
    """
    names = [name.partition(":")[0] for name in TOKENIZERS]
    if not isinstance(values, dict) or values.get("name") not in names:
        raise TokenizerError(f"a stored tokenizer must be a JSON object whose name is one of {', '.join(names)}")
    tokenizer: Tokenizer
    if values["name"] == CharTokenizer.name:
        tokenizer = CharTokenizer(values.get("characters", ""), values.get("end_of_text", True))
    elif values["name"] == BPETokenizer.name:
        end = values.get("end_of_text", END_OF_TEXT)
        tokenizer = BPETokenizer(values.get("merges", ()), values.get("special"), end)
    else:
        tokenizer = make_tokenizer(values["name"])
    if tokenizer.to_dict() != values:
        raise TokenizerError(f"a stored {tokenizer.name} tokenizer must have exactly {', '.join(tokenizer.to_dict())}")
    return tokenizer


def _code_points(text: str) -> np.ndarray:
    """(N,) uint32"""
    try:
        return np.frombuffer(text.encode("utf-32-le"), "<u4")
    except UnicodeEncodeError:
        utf8(text)  # says what is wrong
        raise
