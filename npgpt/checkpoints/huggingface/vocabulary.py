"""The tokenizer of a Hugging Face folder that has none in our own form.

It is read if it is a byte-pair encoding that cuts texts as GPT-2's does, as most models of GPT-2's architecture have:

    tokenizer.json           vocabulary, merges, added tokens, and how texts are cut
    vocab.json, merges.txt   vocabulary and merges in older folders; texts are cut as the tokenizer's class does
    added_tokens.json        their added tokens
    tokenizer_config.json    the class, and which token ends a text; in older folders special_tokens_map.json names it.
                             Perhaps a chat template, which newer folders have in chat_template.jinja

Any other encoding is unknown. So are merges that our encoder, which has ranks and no pairs, would not follow, two
files that disagree, and added tokens that are words or spaces: the library finds them in any text, and we encode no
text to added tokens. A tokenizer.json without a decoder is read, though the library would show its tokens as spelled.

Source: huggingface/tokenizers, serialization of its types; huggingface/transformers, tokenization_gpt2.py.
"""

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from npgpt.checkpoints.shared.mmap_file import MappedFile
from npgpt.checkpoints.shared.strict_json import items_at_most, parse_json
from npgpt.errors import CheckpointError, TokenizerError
from npgpt.text import gpt2_bpe
from npgpt.text.byte_level import BYTES, bytes_to_unicode, spelled_merges
from npgpt.text.byte_pairs import BPETokenizer
from npgpt.text.tokenizer import END_OF_TEXT
from npgpt.text.tokenizers import GPT2Tokenizer, Tokenizer

_MAX_BYTES = 10_000_000  # of a file; GPT-2's tokenizer.json takes 2 to 4 million
_MAX_ITEMS = 420_000  # a token takes up to four, so that of 100,000 tokens
_MAX_LENGTH = 3_000_000  # of all tokens together, whose merges take 2 s to check; GPT-2's is 320,000

# A BPE in tokenizer.json with one of these encodes otherwise.
_OTHERWISE = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges")

# Settings with which ids are put before or behind those of a text.
_ADDING = ("add_prefix_space", "add_bos_token", "add_eos_token")

# Classes of transformers that cut as GPT-2's (what their names begin with), and those that do what tokenizer.json says.
# Others have rules of their own.
_GPT2_CLASSES = ("GPT2", "CodeGen")
_ANY_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")

# What nobody writes in a text without meaning the token: <user>, [PAD].
_NAME = re.compile(r"[<\[].+[>\]]", re.DOTALL)


class _Vocabulary(NamedTuple):
    """What a file holds. Its contents are a stranger's: ids may be anything."""

    ids: dict[str, Any]  # of the tokens, spelled as characters
    merges: list[str] | None  # "a b", in order; None: the file has none
    added: dict[Any, Any]  # ids of added tokens, by their text


def tokenizer_of_folder(folder: Path, vocab_size: int, end: object = 50256) -> Tokenizer | None:
    """The folder's tokenizer; None if it is unknown.

    Without any vocabulary it is GPT-2's, if the model's ``vocab_size`` is and nothing speaks of another one. Raises
    CheckpointError on a damaged file.

    end     config.json's eos_token_id. None: the model was written with a tokenizer that is unknown
    """
    parts, whole = folder / "vocab.json", folder / "tokenizer.json"
    settings = _object(folder / "tokenizer_config.json")
    if settings is None or any(map(settings.get, _ADDING)) or not _is_known_class(settings, whole.exists()):
        return None
    special = _special_in(settings)
    if special is None:
        return None
    found = []
    if parts.exists():
        found.append(_of_vocab_json(folder, special))
    if whole.exists():
        found.append(_of_tokenizer_json(_json(whole)))
    if not found:
        is_others = any(folder.glob("*.model")) or (folder / "vocab.txt").exists()
        is_guess = end is not None and vocab_size == len(_gpt2_vocabulary()) and not is_others
        return GPT2Tokenizer() if is_guess else None
    vocabularies = [vocabulary for vocabulary in found if vocabulary is not None]
    if len(vocabularies) < len(found):
        return None
    tokenizer: Tokenizer | None = None
    is_gpt2 = all(map(_is_gpt2, vocabularies))
    if not is_gpt2 or any(vocabulary.added.keys() - {END_OF_TEXT} for vocabulary in vocabularies):
        roles = [settings, _object(folder / "special_tokens_map.json") or {}]
        tokenizer = _own_encoding(vocabularies, [_content(named.get("eos_token")) for named in roles], end)
    if is_gpt2 and (tokenizer is None or tokenizer.vocab_size > vocab_size):
        tokenizer = GPT2Tokenizer()
    return tokenizer if tokenizer is not None and tokenizer.vocab_size <= vocab_size else None


def has_tokenizer_files(folder: Path) -> bool:
    """Whether a tokenizer of any kind is in the folder."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "tokenizer.model", "vocab.txt"))


def chat_template_of_folder(folder: Path) -> str | None:
    """The file with the folder's chat template; None without one, or if tokenizer_config.json can't be read."""
    alone, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if alone.exists():
        return str(alone)
    try:
        values = _object(settings)
    except CheckpointError:  # for ``tokenizer_of_folder`` to raise, if the tokenizer is needed
        return None
    return str(settings) if values and values.get("chat_template") else None


def _is_known_class(settings: dict, is_told: bool) -> bool:
    """``is_told``: whether tokenizer.json says how texts are cut."""
    name = str(settings.get("tokenizer_class") or "GPT2")
    return name.startswith(_GPT2_CLASSES) or (is_told and name in _ANY_CLASSES)


def _special_in(settings: dict) -> set[str] | None:
    """The texts that tokenizer_config.json calls special; None if it adds a word or spaces, or something else."""
    tokens = settings.get("added_tokens_decoder") or {}
    special = set()
    for token in tokens.values() if isinstance(tokens, dict) else [tokens]:
        match token:
            case {"content": str(text), "special": True}:
                special.add(text)
            case {"content": str(text)} if _NAME.fullmatch(text):
                pass
            case _:
                return None
    return special


def _of_vocab_json(folder: Path, special: set[str]) -> _Vocabulary | None:
    """None if one of the files is something else, or a word or spaces were added."""
    ids, added = _json(folder / "vocab.json"), _object(folder / "added_tokens.json")
    if not isinstance(ids, dict) or added is None:
        return None
    if not all(text in special or _NAME.fullmatch(text) for text in added):
        return None
    return _Vocabulary(ids, _merges_in(folder / "merges.txt"), added)


def _of_tokenizer_json(values: object) -> _Vocabulary | None:
    """None if it encodes or decodes otherwise than GPT-2's, or a word or spaces were added."""
    match values:
        case {"model": {"vocab": dict(ids), "merges": list(merges)} as model, **steps} if (
            model.get("type", "BPE") == "BPE"
            and not any(map(model.get, _OTHERWISE))
            and steps.get("normalizer") is None
            and _is_gpt2s_cut(steps.get("pre_tokenizer"))
            and _adds_nothing(steps.get("post_processor"))
            and _decodes_bytes(steps.get("decoder"))
        ):
            added = {}
            tokens = steps.get("added_tokens") or []
            for token in tokens if isinstance(tokens, list) else [tokens]:
                match token:
                    case {"id": int(id), "content": str(text), **rest} if rest.get("special") or _NAME.fullmatch(text):
                        added[text] = id
                    case _:
                        return None
            return _Vocabulary(ids, list(map(_spelled_merge, merges)), added)
    return None


def _is_gpt2s_cut(pre_tokenizer: object) -> bool:
    match pre_tokenizer:
        case {"type": "Sequence", "pretokenizers": [only]}:
            pre_tokenizer = only
    match pre_tokenizer:
        case {"type": "ByteLevel", **rest}:
            return not rest.get("add_prefix_space") and bool(rest.get("use_regex", True))
    return False


def _adds_nothing(post_processor: object) -> bool:
    """Whether a text's ids stay as they are, and none comes before or behind them."""
    match post_processor:
        case None | {"type": "ByteLevel"} | {"type": "TemplateProcessing", "single": [{"Sequence": _}]}:
            return True
        case {"type": "Sequence", "processors": list(parts)}:
            return all(isinstance(part, dict) and part.get("type") == "ByteLevel" for part in parts)
    return False


def _decodes_bytes(decoder: object) -> bool:
    return decoder is None or (isinstance(decoder, dict) and decoder.get("type") == "ByteLevel")


def _own_encoding(found: list[_Vocabulary], names: Iterable[object], end: object) -> BPETokenizer | None:
    """The byte-pair encoding that all of these are.

    A text ends with the first of ``names`` that is there, with <|endoftext|>, or with the id ``end``.
    """
    ids, merges, added = found[-1]
    if merges is None or any((one.ids, one.merges) != (ids, merges) for one in found):
        return None
    made = {*map(bytes_to_unicode, BYTES), *(merge.replace(" ", "") for merge in merges)}
    if sum(map(len, made)) > _MAX_LENGTH:
        return None
    special = added | {token: id for token, id in ids.items() if token not in made}
    # A vocabulary spells bytes as characters, and these as themselves: a token of them alone is its own text.
    if not all(token in added or all("!" <= character <= "~" for character in token) for token in special):
        return None
    by_id = {id: text for text, id in special.items() if isinstance(id, int)}
    names = [*names, END_OF_TEXT, by_id.get(end) if isinstance(end, int) else None]
    name = next((name for name in names if isinstance(name, str) and name in special), None)
    try:
        tokenizer = BPETokenizer(merges, special, name)
        is_same = {bytes_to_unicode(token): id for token, id in tokenizer.ids.items()} | special == ids | added
        return tokenizer if is_same and spelled_merges(tokenizer.tokens) == merges else None
    except TokenizerError:
        return None


def _is_gpt2(found: _Vocabulary) -> bool:
    """Whether the n-th merge makes the n-th token. Where it was cut in two doesn't matter."""
    made = None if found.merges is None else [merge.replace(" ", "") for merge in found.merges]
    return found.ids == _gpt2_vocabulary() and made in (None, list(_gpt2_vocabulary())[256:-1])


def _content(token: object) -> object:
    """The text of a token that is stored as such, or with its settings."""
    return token.get("content") if isinstance(token, dict) else token


def _spelled_merge(merge: object) -> str:
    """ "a b", which newer files have as ["a", "b"]."""
    if isinstance(merge, list) and len(merge) == 2 and all(isinstance(part, str) for part in merge):
        return " ".join(merge)
    return merge if isinstance(merge, str) else ""


def _merges_in(file: Path) -> list[str] | None:
    """The lines "a b" of a merges.txt; None if there is none."""
    if not file.exists():
        return None
    mapped = MappedFile(file)
    text = bytes(mapped.take(0, min(mapped.size, _MAX_BYTES), "text")).decode(errors="replace")
    return [line for line in text.splitlines() if line and not line.startswith("#version")]


def _object(file: Path) -> dict | None:
    """The object in a file of JSON; {} if there is no such file, None if it holds something else."""
    values = _json(file) if file.exists() else {}
    return values if isinstance(values, dict) else None


def _json(file: Path) -> object:
    """The value in a file of JSON; None if it is too long for a vocabulary."""
    mapped = MappedFile(file)
    data = mapped.take(0, min(mapped.size, _MAX_BYTES), "JSON")
    if len(data) < mapped.size or items_at_most(data) > _MAX_ITEMS:
        return None
    return parse_json(data, str(file), max_items=_MAX_ITEMS)


@cache
def _gpt2_vocabulary() -> dict[str, int]:
    tokens = [*gpt2_bpe.tokens(), END_OF_TEXT.encode()]
    return {bytes_to_unicode(token): id for id, token in enumerate(tokens)}
