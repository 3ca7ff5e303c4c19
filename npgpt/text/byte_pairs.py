"""Byte-pair encodings, computed by tiktoken: GPT-2's, and others with its pattern (bpe_training.py trains them)."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from operator import itemgetter

import numpy as np

from npgpt.errors import TokenizerError
from npgpt.text import gpt2_bpe
from npgpt.text.bpe_training import MAX_TOKEN_BYTES, count_pieces, train_merges
from npgpt.text.byte_level import BYTES, bytes_to_unicode
from npgpt.text.tokenizer import END_OF_TEXT, Tokenizer, utf8


class BytePairTokenizer(Tokenizer):
    """A text is cut into pieces by GPT-2's pattern, within which bytes are merged: of all neighbours that are a token
    together, always those of the lowest rank (the first of several).

    tokens       in order of rank
    special      {text: id}: the others. Ids that these leave are those of ``tokens``, in order
    end_of_text  which of ``special`` ends a text, or None

    Without ``special`` there is <|endoftext|> alone, after all tokens.
    """

    def __init__(
        self,
        tokens: Sequence[bytes],
        special: Mapping[str, int] | None = None,
        end_of_text: str | None = END_OF_TEXT,
    ):
        """Raises TokenizerError if the ids are not all from 0 up to their number, or ``end_of_text`` is not special."""
        special = {END_OF_TEXT: len(tokens)} if special is None else special
        super().__init__(_filled(tokens, special))
        self.tokens = tuple(tokens)
        self._special = dict(sorted(special.items(), key=itemgetter(1)))
        if end_of_text is not None and end_of_text not in list(self._special):
            raise TokenizerError(f"{str(end_of_text)[:60]!r}, which ends a text, is none of the special tokens")
        self.end_of_text = None if end_of_text is None else self._special[end_of_text]

    @property
    def special(self) -> dict[str, int]:
        return self._special

    @property
    def ids(self) -> dict[bytes, int]:
        """The id of every token that is not special, in order."""
        special = set(self._special.values())
        return dict(zip(self.tokens, (id for id in range(self.vocab_size) if id not in special), strict=True))

    @cached_property
    def _encoding(self):
        return gpt2_bpe.make_encoding(self.name, self.ids)

    def encode(self, text: str) -> np.ndarray:
        utf8(text)  # tiktoken would silently replace lone surrogates
        return np.array(gpt2_bpe.encode(text, self._encoding), dtype=self.dtype)

    def encode_stream(self, chunks: Iterable[str]) -> Iterator[np.ndarray]:
        """Encode on several threads (tiktoken releases the GIL), at most one chunk more than there are threads."""
        self.encode("")  # builds the encoding once, before the threads need it
        threads = min(os.cpu_count() or 1, 8)
        with ThreadPoolExecutor(threads) as pool:
            pending: deque[Callable[[], np.ndarray]] = deque()
            for part in gpt2_bpe.safe_chunks(chunks):
                try:
                    pending.append(pool.submit(self.encode, part).result)
                except RuntimeError:  # the system allows no more threads
                    pending.append(partial(self.encode, part))
                if len(pending) > threads:
                    yield pending.popleft()()
            while pending:
                yield pending.popleft()()


class GPT2Tokenizer(BytePairTokenizer):
    """GPT-2's byte-pair encoding of 50,257 ids (Radford et al. 2019, section 2.2).

    >>> GPT2Tokenizer().encode("The verdict").tolist()
    [464, 15593]
    """

    name = "gpt2"
    end_of_text = 50256

    def __init__(self) -> None:
        super().__init__(gpt2_bpe.tokens())

    @property
    def _encoding(self):
        return gpt2_bpe.gpt2_encoding()  # one for all: it takes 0.1 s to make


class BPETokenizer(BytePairTokenizer):
    """A byte-pair encoding of one's own, laid out as GPT-2's: 256 bytes, a token for each merge, <|endoftext|>.

    merges                in order, each a pair of earlier tokens. Their bytes are spelled as characters
                          (``bytes_to_unicode``), a space between the two, as in Hugging Face's files
    special, end_of_text  of an encoding that others made, as BytePairTokenizer describes them

    >>> tokenizer = BPETokenizer(["t h", "Ġ th"])
    >>> tokenizer.encode("the thing").tolist(), tokenizer.vocab_size
    ([256, 68, 257, 72, 77, 70], 259)
    """

    name = "bpe"

    def __init__(
        self,
        merges: Sequence[str],
        special: Mapping[str, int] | None = None,
        end_of_text: str | None = END_OF_TEXT,
    ):
        """Raises TokenizerError on what is no list of merges, each of two earlier tokens to a new one.

        It does so, too, where BytePairTokenizer does, and if a special token is spelled as an ordinary one.
        """
        tokens = {bytes_to_unicode(byte): byte for byte in BYTES}
        if not isinstance(merges, list | tuple):
            raise TokenizerError("the merges of a bpe tokenizer must be a list")
        for i, merge in enumerate(merges):
            a, b = merge.split(" ") if isinstance(merge, str) and merge.count(" ") == 1 else ("", "")
            if a not in tokens or b not in tokens or a + b in tokens:
                raise TokenizerError(f"merge {i:,} of a bpe tokenizer is not one of two earlier tokens to a new one")
            if len(a + b) > MAX_TOKEN_BYTES:
                raise TokenizerError(f"merge {i:,} of a bpe tokenizer gives more than {MAX_TOKEN_BYTES:,} bytes")
            tokens[a + b] = tokens[a] + tokens[b]
        super().__init__(list(tokens.values()), special, end_of_text)
        if twice := tokens.keys() & self.special:  # in other programs' files both would be one token
            raise TokenizerError(f"the special token {min(twice)[:60]!r} of a bpe tokenizer spells an ordinary one")
        self.merges = tuple(merges)

    @classmethod
    def from_texts(cls, documents: Iterable[Iterable[str]], vocab_size: int) -> "BPETokenizer":
        """Train on documents, each in chunks. There are fewer ids if no further pair occurs twice."""
        tokens: list[bytes] = list(BYTES)
        merges: list[str] = []
        for a, b in train_merges(count_pieces(documents), vocab_size - len(BYTES) - 1):
            merges.append(f"{bytes_to_unicode(tokens[a])} {bytes_to_unicode(tokens[b])}")
            tokens.append(tokens[a] + tokens[b])
        return cls(merges)

    def to_dict(self) -> dict:
        values = {"name": self.name, "merges": list(self.merges)}
        if self.special == {END_OF_TEXT: len(self.tokens)} and self.end_of_text is not None:
            return values
        end = None if self.end_of_text is None else self.token_bytes(self.end_of_text).decode()
        return {**values, "special": dict(self.special), "end_of_text": end}


def _filled(tokens: Sequence[bytes], special: Mapping[str, int]) -> list[bytes]:
    """The bytes of every id: special ones where they say, the tokens in order at the other places."""
    if not isinstance(special, dict) or not all(isinstance(text, str) and text for text in special):
        raise TokenizerError("the special tokens of a bpe tokenizer must be texts, each with its id")
    size = len(tokens) + len(special)
    texts = {id: utf8(text) for text, id in special.items() if type(id) is int and 0 <= id < size}
    if len(texts) < len(special):
        raise TokenizerError(f"the special tokens of a bpe tokenizer must have different ids from 0 to {size - 1}")
    if twice := set(tokens).intersection(texts.values()):
        raise TokenizerError(f"the token {min(twice)[:60]!r} of a bpe tokenizer is special and ordinary")
    rest = iter(tokens)
    return [texts[id] if id in texts else next(rest) for id in range(size)]
