"""Text for the model: files -> text -> tokens -> windows -> batches, and tokens back to text.

The names of what can be chosen stand here, where a command can read them without importing NumPy.
"""

from npgpt.errors import TokenizerError

TOKENIZERS = ("gpt2", "char", "byte", "bpe:N")  # npgpt.text.tokenizers.make_tokenizer
SPLITS = ("tokens", "documents")  # npgpt.text.corpus.train_val_split
LOSSES = ("all", "assistant")  # npgpt.text.batches.TokenDataset, with or without a corpus's answers

BPE_SIZES = range(257, 100_001)  # every byte and <|endoftext|> at least; what a file may hold at most


def tokenizer_name(text: str) -> tuple[str, int]:
    """A tokenizer's kind, and how many ids "bpe:N" is to have. Raises TokenizerError if there is none of that name.

    >>> tokenizer_name("gpt2"), tokenizer_name("bpe:4096")
    (('gpt2', 0), ('bpe', 4096))
    """
    kind, _, size = text.partition(":")
    if kind == "bpe" and size.isascii() and size.isdigit() and len(size) < 8 and int(size) in BPE_SIZES:
        return kind, int(size)
    if text not in TOKENIZERS[:3]:
        sizes = f"N at least {BPE_SIZES[0]:,} and at most {BPE_SIZES[-1]:,}"
        raise TokenizerError(f"there is no tokenizer {text[:40]!r}; there are {', '.join(TOKENIZERS)} ({sizes})")
    return text, 0
