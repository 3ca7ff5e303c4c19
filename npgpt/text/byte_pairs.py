"""Byte-pair encodings, computed by tiktoken: GPT-2's, and those trained on one's own text (bpe_training.py)."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial

import numpy as np

from npgpt.errors import TokenizerError
from npgpt.text import gpt2_bpe
from npgpt.text.bpe_training import MAX_TOKEN_BYTES, count_pieces, train_merges
from npgpt.text.byte_level import BYTES, bytes_to_unicode
from npgpt.text.tokenizer import END_OF_TEXT, Tokenizer, utf8


class BytePairTokenizer(Tokenizer):
    """Tokens in order of rank, then <|endoftext|>. A text is cut into pieces by GPT-2's pattern, within which bytes are
    merged: of all neighbours that are a token together, always those of the lowest rank (the first of several).
    """

    def __init__(self, tokens: Sequence[bytes]):
        super().__init__([*tokens, END_OF_TEXT.encode()])
        self.end_of_text = len(tokens)

    @property
    def tokens(self) -> tuple[bytes, ...]:
        """The bytes of every id but <|endoftext|>, in order of rank."""
        return tuple(self._vocabulary[:-1])

    @cached_property
    def _encoding(self):
        return gpt2_bpe.make_encoding(self.name, self.tokens)

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

    merges  in order, each a pair of earlier tokens. Their bytes are spelled as characters (``bytes_to_unicode``), a
            space between the two, as in Hugging Face's files

    >>> tokenizer = BPETokenizer(["t h", "Ġ th"])
    >>> tokenizer.encode("the thing").tolist(), tokenizer.vocab_size
    ([256, 68, 257, 72, 77, 70], 259)
    """

    name = "bpe"

    def __init__(self, merges: Sequence[str]):
        """Raises TokenizerError on what is no list of merges, each of two earlier tokens to a new one."""
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
        super().__init__(list(tokens.values()))
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
        return {"name": self.name, "merges": list(self.merges)}
