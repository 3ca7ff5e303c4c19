"""The files in which transformers keeps a tokenizer, beside the weights of a Hugging Face folder.

    tokenizer.json            all of it, for the tokenizers library: what ``AutoTokenizer`` reads
    tokenizer_config.json     which class of transformers, and its settings
    special_tokens_map.json   <|endoftext|>'s roles; older versions read it
    vocab.json, merges.txt    of byte-pair encodings: what GPT-2's folder has, and the tools that read no tokenizer.json
    tokenizer.tiktoken        of one trained on one's own text: tiktoken's file, each token and its rank
    npgpt_tokenizer.json      our own form, which is what npgpt reads back

transformers encodes and decodes as npgpt does, with two exceptions that are matters of its library:

  - <|endoftext|> inside a text is its id there, and ordinary text here, and with ``split_special_tokens=True`` there.
  - GPT-2's encoding cuts a text at what Unicode calls letters and numbers. Each library knows the Unicode of its year,
    so a text with newer characters may be cut in other places (tiktoken 0.14 and tokenizers 0.23 agree on all of them).

Source: huggingface/tokenizers, serialization of its types; huggingface/transformers, tokenization_gpt2.py.
"""

from base64 import b64encode
from functools import cache
from pathlib import Path

from npgpt.checkpoints.shared.atomic import atomic_write, write_json
from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.checkpoints.shared.strict_json import MAX_ITEMS, items_at_most, parse_json
from npgpt.checkpoints.shared.tokenizers import OUR_TOKENIZER_FILE
from npgpt.text import gpt2_bpe
from npgpt.text.byte_level import bytes_to_unicode, spelled_merges
from npgpt.text.byte_pairs import BPETokenizer, BytePairTokenizer
from npgpt.text.tokenizer import END_OF_TEXT
from npgpt.text.tokenizers import CharTokenizer, GPT2Tokenizer, Tokenizer

# Spelled byte by byte, as characters; use_regex: cut into GPT-2's pieces first, within which bytes are merged.
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_PIECES_AS_BYTES = {**_BYTES, "use_regex": True}
_SINGLE_CHARACTERS = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}

# A folder's vocabulary is compared with GPT-2's, which takes 50 to 150 times less than this allows for to parse.
_MAX_BYTES = 10_000_000


def write_tokenizer_files(folder: Path, tokenizer: Tokenizer, block_size: int) -> None:
    """Write the files. ``block_size`` is what transformers warns at when a text is longer.

    Raises OSError; TokenizerError if a stranger's merges are no byte-pair encoding.
    """
    is_byte_pairs = isinstance(tokenizer, BytePairTokenizer)
    roles = ("bos_token", "eos_token", *(("unk_token",) if is_byte_pairs else ()))
    special = {} if tokenizer.end_of_text is None else dict.fromkeys(roles, END_OF_TEXT)
    settings = {
        **special,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,  # would take away the space before a full stop
        "model_max_length": block_size,
        "tokenizer_class": "GPT2Tokenizer" if is_byte_pairs else "PreTrainedTokenizerFast",
    }
    stored = tokenizer_json(tokenizer)
    write_json(folder / OUR_TOKENIZER_FILE, tokenizer.to_dict())
    write_json(folder / "tokenizer.json", stored)
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "special_tokens_map.json", special)
    if isinstance(tokenizer, BPETokenizer):
        with atomic_write(folder / "tokenizer.tiktoken") as file:
            file.writelines(b"%s %d\n" % (b64encode(token), rank) for rank, token in enumerate(tokenizer.tokens))
    if is_byte_pairs:
        write_json(folder / "vocab.json", stored["model"]["vocab"])
        with atomic_write(folder / "merges.txt") as file:
            file.write("\n".join(["#version: 0.2", *stored["model"]["merges"], ""]).encode())


def tokenizer_json(tokenizer: Tokenizer) -> dict:
    """The contents of a tokenizer.json."""
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    end = {} if tokenizer.end_of_text is None else {END_OF_TEXT: tokenizer.end_of_text}
    model: dict[str, object]
    decoder: dict[str, object]
    if isinstance(tokenizer, CharTokenizer):
        vocabulary = {character: id for id, character in enumerate(tokenizer.characters)}
        cut, model = _SINGLE_CHARACTERS, {"type": "WordLevel", "unk_token": "<unk>"}  # which isn't there: it raises
        decoder = {"type": "Fuse"}
    else:
        is_byte_pairs = isinstance(tokenizer, BytePairTokenizer)
        tokens = tuple(tokenizer.token_bytes(id) for id in range(tokenizer.vocab_size - 1))
        vocabulary = {bytes_to_unicode(token): id for id, token in enumerate(tokens)}
        cut, decoder = _PIECES_AS_BYTES if is_byte_pairs else _BYTES, _BYTES
        model = {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "merges": spelled_merges(tokens),
        }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": id, "content": content, **special} for content, id in end.items()],
        "normalizer": None,
        "pre_tokenizer": cut,
        "post_processor": None,
        "decoder": decoder,
        "model": {**model, "vocab": vocabulary | end},
    }


def tokenizer_of_folder(folder: Path, vocab_size: int, guess: bool = True) -> Tokenizer | None:
    """The tokenizer of a folder that has none of ours: GPT-2's, or None, which is unknown.

    What is there decides: vocab.json and merges.txt, tokenizer.json, tokenizer_config.json. Without a vocabulary it is
    GPT-2's, if ``guess``, where the model's ``vocab_size`` is, and nothing speaks of another one. Tokens added to
    GPT-2's have no text here. Raises CheckpointError on a damaged file.
    """
    gpt2 = _gpt2_vocabulary()
    settings = _json(folder / "tokenizer_config.json", {})
    if not isinstance(settings, dict) or settings.get("add_prefix_space"):
        return None
    found = []
    if (folder / "vocab.json").exists():
        found.append(_json(folder / "vocab.json") == gpt2)
        if (folder / "merges.txt").exists():
            found.append(_are_gpt2_merges(_merges_in(folder / "merges.txt")))
    if (folder / "tokenizer.json").exists():
        found.append(_is_gpt2(_json(folder / "tokenizer.json")))
    is_gpt2 = all(found)
    if not found:
        name = settings.get("tokenizer_class") or "GPT2"
        is_others = any(folder.glob("*.model")) or (folder / "vocab.txt").exists()
        is_gpt2 = guess and vocab_size == len(gpt2) and str(name).startswith("GPT2") and not is_others
    return GPT2Tokenizer() if is_gpt2 and len(gpt2) <= vocab_size else None


def _is_gpt2(values: object) -> bool:
    """Whether a tokenizer.json cuts texts as GPT-2 does."""
    match values:
        case {"model": {"vocab": vocabulary, "merges": list(merges)}, **others}:
            cut = others.get("pre_tokenizer")
            parts = cut.get("pretokenizers", [cut]) if isinstance(cut, dict) else []
            if not (isinstance(parts, list) and all(isinstance(part, dict) for part in parts)):
                return False
            is_plain = others.get("normalizer") is None and not any(part.get("add_prefix_space") for part in parts)
            return is_plain and vocabulary == _gpt2_vocabulary() and _are_gpt2_merges(merges)
    return False


def _are_gpt2_merges(merges: list) -> bool:
    """Whether the n-th merge makes the n-th token; each is "a b", or ["a", "b"]."""

    def joined(merge):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        return "".join(parts) if isinstance(parts, list) and all(isinstance(part, str) for part in parts) else ""

    return list(map(joined, merges)) == list(_gpt2_vocabulary())[256:-1]


def _merges_in(file: Path) -> list[str]:
    """The lines "a b" of a merges.txt."""
    mapped = MappedFile(file)
    text = bytes(mapped.take(0, min(mapped.size, _MAX_BYTES), "text")).decode(errors="replace")
    return [line for line in text.splitlines() if line and not line.startswith("#version")]


def _json(file: Path, otherwise: object = None) -> object:
    """The value in a file of JSON; None if it is too long for GPT-2's, ``otherwise`` if there is no such file."""
    if not file.exists():
        return otherwise
    mapped = MappedFile(file)
    data = mapped.take(0, min(mapped.size, _MAX_BYTES), "JSON")
    if len(data) < mapped.size or items_at_most(data) > MAX_ITEMS:
        return None
    return parse_json(data, str(file))


@cache
def _gpt2_vocabulary() -> dict[str, int]:
    tokens = [*gpt2_bpe.tokens(), END_OF_TEXT.encode()]
    return {bytes_to_unicode(token): id for id, token in enumerate(tokens)}
