"""nanoGPT's meta.pkl: what the ids of a dataset of characters mean. Beside its token files, and beside checkpoints.

A pickle of {"vocab_size": V, "itos": {id: character}, "stoi": {character: id}}, without <|endoftext|>.

Source: https://github.com/karpathy/nanoGPT, data/shakespeare_char/prepare.py.
"""

from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.checkpoints.shared.pickles import read_pickle
from npgpt.errors import CheckpointError, TokenizerError
from npgpt.text.tokenizers import CharTokenizer

META_FILE = "meta.pkl"
MAX_META_BYTES = 1 << 20  # shakespeare_char's takes 703


def read_meta(file: MappedFile, vocab_size: int | None = None) -> CharTokenizer:
    """The tokenizer in a dataset's meta.pkl, whose characters must be sorted. Raises CheckpointError.

    vocab_size      how many there must be: as many as the model's ids. None: any number
    """
    if file.size > MAX_META_BYTES:
        raise CheckpointError(f"{file.path}: larger than {MAX_META_BYTES:,} bytes, so it is not nanoGPT's")
    values, length = read_pickle(memoryview(file.take(0, file.size, "pickle")), str(file.path))
    if length != file.size:
        raise CheckpointError(f"{file.path}: {file.size - length:,} bytes after the pickle")
    try:
        size, itos, stoi = (values[key] for key in ("vocab_size", "itos", "stoi"))  # type: ignore[index]
        characters = [itos[id] for id in range(size)] if type(itos) is dict and type(stoi) is dict else [""]
    except (LookupError, TypeError):
        characters = [""]
    # In this order: the hash of a deeply nested tuple would overflow the stack.
    are_characters = all(isinstance(character, str) and len(character) == 1 for character in characters)
    if not are_characters or size != len(itos) or stoi != {character: id for id, character in enumerate(characters)}:
        raise CheckpointError(f"{file.path}: expected vocab_size, itos with a character per id, and stoi, its inverse")
    if vocab_size not in (None, size):
        raise CheckpointError(f"{file.path}: {size:,} ids, and the model has {vocab_size:,}: it is another dataset's")
    try:
        return CharTokenizer("".join(characters), has_end_of_text=False)
    except TokenizerError as error:
        raise CheckpointError(f"{file.path}: {error}") from None
