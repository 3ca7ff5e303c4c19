"""The files in which transformers keeps a tokenizer, beside the weights of a Hugging Face folder.

    tokenizer.json            all of it, for the tokenizers library: what ``AutoTokenizer`` reads
    tokenizer_config.json     which class of transformers, and its settings
    special_tokens_map.json   <|endoftext|>'s roles; older versions read it
    vocab.json, merges.txt    of byte-pair encodings: what GPT-2's folder has, and the tools that read no tokenizer.json
    tokenizer.tiktoken        of one trained on one's own text: tiktoken's file, each token and its rank
    npgpt_tokenizer.json      our own form, which npgpt reads back; without it, vocabulary.py reads the others

transformers encodes and decodes as npgpt does, with two exceptions that are matters of its library:

  - The name of a special token, such as <|endoftext|>, inside a text is its id there, and ordinary text here, and with
    ``split_special_tokens=True`` there.
  - GPT-2's encoding cuts a text at what Unicode calls letters and numbers. Each library knows the Unicode of its year,
    so a text with newer characters may be cut in other places (tiktoken 0.14 and tokenizers 0.23 agree on all of them).

Source: huggingface/tokenizers, serialization of its types; huggingface/transformers, tokenization_gpt2.py.
"""

from base64 import b64encode
from pathlib import Path

from npgpt.checkpoints.shared.atomic import atomic_write, write_json
from npgpt.checkpoints.shared.tokenizers import OUR_TOKENIZER_FILE
from npgpt.text.byte_level import bytes_to_unicode, spelled_merges
from npgpt.text.byte_pairs import BPETokenizer, BytePairTokenizer
from npgpt.text.tokenizers import CharTokenizer, Tokenizer

# Spelled byte by byte, as characters; use_regex: cut into GPT-2's pieces first, within which bytes are merged.
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_PIECES_AS_BYTES = {**_BYTES, "use_regex": True}
_SINGLE_CHARACTERS = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}


def write_tokenizer_files(folder: Path, tokenizer: Tokenizer, block_size: int) -> None:
    """Write the files. ``block_size`` is what transformers warns at when a text is longer.

    Raises OSError; TokenizerError if a stranger's merges are no byte-pair encoding.
    """
    is_byte_pairs = isinstance(tokenizer, BytePairTokenizer)
    roles = ("bos_token", "eos_token", *(("unk_token",) if is_byte_pairs else ()))
    end = tokenizer.end_of_text
    special = {} if end is None else dict.fromkeys(roles, tokenizer.token_bytes(end).decode())
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
            file.writelines(b"%s %d\n" % (b64encode(token), id) for token, id in tokenizer.ids.items())
    if is_byte_pairs:
        write_json(folder / "vocab.json", stored["model"]["vocab"])
        with atomic_write(folder / "merges.txt") as file:
            file.write("\n".join(["#version: 0.2", *stored["model"]["merges"], ""]).encode())


def tokenizer_json(tokenizer: Tokenizer) -> dict:
    """The contents of a tokenizer.json."""
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    model: dict[str, object]
    decoder: dict[str, object]
    if isinstance(tokenizer, CharTokenizer):
        vocabulary = {character: id for id, character in enumerate(tokenizer.characters)}
        cut, model = _SINGLE_CHARACTERS, {"type": "WordLevel", "unk_token": "<unk>"}  # which isn't there: it raises
        decoder = {"type": "Fuse"}
    else:
        is_byte_pairs = isinstance(tokenizer, BytePairTokenizer)
        single = {bytes([byte]): byte for byte in range(256)}
        ids = tokenizer.ids if isinstance(tokenizer, BytePairTokenizer) else single
        vocabulary = {bytes_to_unicode(token): id for token, id in ids.items()}
        cut, decoder = _PIECES_AS_BYTES if is_byte_pairs else _BYTES, _BYTES
        model = {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "merges": spelled_merges(tuple(ids)),
        }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": id, "content": content, **special} for content, id in tokenizer.special.items()],
        "normalizer": None,
        "pre_tokenizer": cut,
        "post_processor": None,
        "decoder": decoder,
        "model": {**model, "vocab": vocabulary | tokenizer.special},
    }
