"""Which tokenizer a GGUF file has: ids must mean what we say they mean."""

import re

import pytest
from helpers import mutations
from helpers.gguf_files import CONFIG, checkpoint_of, file_of, open_gguf, strings, text

from npgpt import GPTConfig
from npgpt.checkpoints import load, open_checkpoint
from npgpt.checkpoints.gguf.metadata import packed_strings
from npgpt.checkpoints.gguf.model import write as write_gguf
from npgpt.checkpoints.gguf.tokenizer import OURS
from npgpt.errors import CheckpointError
from npgpt.text import gpt2_bpe
from npgpt.text.byte_level import bytes_to_unicode
from npgpt.text.tokenizers import GPT2Tokenizer, tokenizer_from_dict

TOKENS = "tokenizer.ggml.tokens"
GPT2_TOKENS = [*map(bytes_to_unicode, gpt2_bpe.tokens()), "<|endoftext|>"]


def config_of(vocab_size: int) -> GPTConfig:
    return GPTConfig(vocab_size=vocab_size, block_size=2, n_layer=1, n_head=1, n_embd=2)


def written(tmp_path, vocab_size: int, tokenizer: dict | None):
    """The checkpoint and metadata of a file with this tokenizer."""
    path = tmp_path / "a.gguf"
    find = lambda: tokenizer and tokenizer_from_dict(tokenizer)  # noqa: E731
    write_gguf(path, checkpoint_of(config_of(vocab_size), find_tokenizer=find))
    return open_checkpoint(path), open_gguf(path)[1]


def tokens_of(metadata) -> list[str]:
    count, data = metadata.strings(TOKENS)
    found, position = [], 0
    for _ in range(count):
        end = position + 8 + int.from_bytes(data[position : position + 8], "little")
        found.append(data[position + 8 : end].decode())
        position = end
    assert position == len(data)
    return found


def test_the_place_of_a_chat_template(tmp_path):
    path, name = tmp_path / "a.gguf", "tokenizer.chat_template"
    path.write_bytes(file_of())
    assert open_checkpoint(path).chat_template is None
    path.write_bytes(file_of({name: text(name, "{{ messages }}")}))
    assert open_checkpoint(path).chat_template == f"{path}: key {name}"


# There and back


def test_gpt2(tmp_path):
    rows = 50304
    checkpoint, metadata = written(tmp_path, rows, {"name": "gpt2"})
    assert isinstance(checkpoint.tokenizer, GPT2Tokenizer)
    assert OURS not in metadata
    assert metadata.text("tokenizer.ggml.model") == "gpt2"
    assert metadata.text("tokenizer.ggml.pre") == "gpt-2"
    assert tokens_of(metadata) == GPT2_TOKENS + [f"[PAD{id}]" for id in range(50257, rows)]
    assert metadata.number("tokenizer.ggml.bos_token_id", "uint32") == 50256
    assert metadata.number("tokenizer.ggml.eos_token_id", "uint32") == 50256
    count, data = metadata.strings("tokenizer.ggml.merges")
    assert data.startswith(packed_strings(["Ġ t", "Ġ a", "h e", "i n"]))  # the first lines of OpenAI's vocab.bpe
    assert count == 50000


def test_a_byte_pair_encoding_of_ones_own(tmp_path):
    stored = {"name": "bpe", "merges": ["t h", "th e", "Ġ the"]}
    checkpoint, metadata = written(tmp_path, 300, stored)
    assert checkpoint.tokenizer.to_dict() == stored
    assert metadata.text("tokenizer.ggml.model") == "gpt2"
    assert tokens_of(metadata)[:261] == [*GPT2_TOKENS[:256], "th", "the", "Ġthe", "<|endoftext|>", "[PAD260]"]
    count, data = metadata.strings("tokenizer.ggml.merges")
    assert (count, data) == (3, packed_strings(["t h", "th e", "Ġ the"]))


def test_special_tokens(tmp_path):
    """Their texts are written as they are, and all of them are control tokens."""
    stored = {"name": "bpe", "merges": ["t h"], "special": {"<s>": 0, "é x": 1, "</s>": 258}, "end_of_text": "</s>"}
    checkpoint, metadata = written(tmp_path, 260, stored)
    assert checkpoint.tokenizer.to_dict() == stored
    tokens = tokens_of(metadata)
    assert [tokens[id] for id in (0, 1, 2, 257, 258, 259)] == ["<s>", "é x", "!", GPT2_TOKENS[255], "</s>", "th"]
    assert metadata.number("tokenizer.ggml.eos_token_id", "uint32") == 258
    gguf = pytest.importorskip("gguf", reason="reads with the gguf package, which is not installed")
    types = gguf.GGUFReader(tmp_path / "a.gguf").fields["tokenizer.ggml.token_type"].contents()
    assert [id for id, kind in enumerate(types) if kind == gguf.TokenType.CONTROL] == [0, 1, 258]


def test_types_of_tokens(tmp_path):
    gguf = pytest.importorskip("gguf", reason="reads with the gguf package, which is not installed")
    written(tmp_path, 260, {"name": "byte"})
    fields = gguf.GGUFReader(tmp_path / "a.gguf").fields
    kind = gguf.TokenType
    expected = [kind.NORMAL] * 256 + [kind.CONTROL] + [kind.UNUSED] * 3
    assert fields["tokenizer.ggml.token_type"].contents() == expected
    assert fields["tokenizer.ggml.token_type"].types[-1] == gguf.GGUFValueType.INT32


@pytest.mark.parametrize(
    ("tokenizer", "rows", "tokens"),
    [
        ({"name": "byte"}, 257, [bytes_to_unicode(bytes([i])) for i in range(256)] + ["<|endoftext|>"]),
        ({"name": "byte"}, 258, [bytes_to_unicode(bytes([i])) for i in range(256)] + ["<|endoftext|>", "[PAD257]"]),
        ({"name": "char", "characters": "\n az"}, 5, ["Ċ", "Ġ", "a", "z", "<|endoftext|>"]),
        ({"name": "char", "characters": "\n az"}, 11, None),  # more than half of the ids would mean nothing
        ({"name": "char", "characters": "aé"}, 3, None),
        ({"name": "char", "characters": "日本"}, 3, None),
        (None, 7, None),
    ],
)
def test_others(tmp_path, tokenizer, rows, tokens):
    checkpoint, metadata = written(tmp_path, rows, tokenizer)
    assert (checkpoint.tokenizer and checkpoint.tokenizer.to_dict()) == tokenizer
    if tokens is None:
        assert metadata.text("tokenizer.ggml.model") == "no_vocab"
        assert TOKENS not in metadata
    else:
        assert tokens_of(metadata) == tokens
        assert metadata.strings("tokenizer.ggml.merges") == (0, b"")
        assert metadata.number("tokenizer.ggml.eos_token_id", "uint32") == tokens.index("<|endoftext|>")
    assert metadata.number("gpt2.vocab_size", "uint32") == rows


# Files of others


def opened(tmp_path, keys: list[bytes], vocab_size: int = CONFIG.vocab_size):
    config = GPTConfig(**{**CONFIG.to_dict(), "vocab_size": vocab_size})
    (tmp_path / "a.gguf").write_bytes(file_of(dict(enumerate(keys)), config=config))
    return open_checkpoint(tmp_path / "a.gguf")


MODEL = text("tokenizer.ggml.model", "gpt2")


def test_a_file_without_a_word_about_it(tmp_path):
    assert opened(tmp_path, []).tokenizer is None
    assert isinstance(opened(tmp_path, [], 50257).tokenizer, GPT2Tokenizer)


@pytest.mark.parametrize(
    "keys",
    [
        [MODEL, strings(TOKENS, [*GPT2_TOKENS[:-1], "<|end|>"])],
        [MODEL, strings(TOKENS, [*GPT2_TOKENS[:300], GPT2_TOKENS[301], GPT2_TOKENS[300], *GPT2_TOKENS[302:]])],
        [text("tokenizer.ggml.model", "llama"), strings(TOKENS, GPT2_TOKENS)],
        [text("tokenizer.ggml.model", "no_vocab")],
    ],
    ids=["another last one", "two exchanged", "not byte-level", "none"],
)
def test_as_many_tokens_as_gpt2_but_others(tmp_path, keys):
    """Many GPT-2s in other languages have 50,257 tokens. Their weights are read; no text becomes ids of another's."""
    checkpoint = opened(tmp_path, keys, 50257)
    assert checkpoint.tokenizer is None
    with pytest.raises(CheckpointError, match=r"a\.gguf: no tokenizer is known for its vocabulary of 50,257 ids"):
        checkpoint.require_tokenizer()
    load(tmp_path / "a.gguf")
    write_gguf(tmp_path / "b.gguf", checkpoint)  # nor does it become GPT-2's on the way through another file
    assert open_checkpoint(tmp_path / "b.gguf").tokenizer is None


def test_gpt2_as_the_converter_of_llama_cpp_writes_it(tmp_path):
    padded = [*GPT2_TOKENS, *(f"[PAD{id}]" for id in range(50257, 50260))]
    assert isinstance(opened(tmp_path, [MODEL, strings(TOKENS, padded)], 50260).tokenizer, GPT2Tokenizer)


def ours(value: str | bytes) -> bytes:
    return text(OURS, value)


BAD_TOKENIZERS = {
    "too few tokens": (
        [MODEL, strings(TOKENS, ["a"] * 10)],
        "key tokenizer.ggml.tokens: 10 tokens, and the model has 11",
    ),
    "tokens that are a text": ([MODEL, text(TOKENS, "abc")], "array of string was expected, and it is string"),
    "tokens without a model": ([strings(TOKENS, ["a"] * 11)], "key tokenizer.ggml.model is not there"),
    "ours not UTF-8": ([ours(b'{"name": "\xff"}')], "key npgpt.tokenizer: not UTF-8 at byte 10"),
    "ours not JSON": ([ours("{name}")], "key npgpt.tokenizer: not JSON"),
    "ours unknown": ([ours('{"name": "llama"}')], "key npgpt.tokenizer: a stored tokenizer must be a JSON object"),
    "another's": ([ours('{"name": "byte"}')], "its tokenizer has 257 ids, and the model 11"),
    "two that differ": (
        [ours('{"name": "char", "characters": "abcdefghij"}'), strings(TOKENS, [*"bacdefghij", "<|endoftext|>"])],
        "keys npgpt.tokenizer and tokenizer.ggml.tokens hold different tokens",
    ),
    "long and wide": (
        [ours('{"name": "char", "characters": "🙂' + "a" * 5_200_000 + '"}')],
        "npgpt.tokenizer: the characters of .* sorted",
    ),
}


@pytest.mark.parametrize("case", BAD_TOKENIZERS)
def test_bad_tokenizers(tmp_path, case):
    keys, place = BAD_TOKENIZERS[case]
    path = tmp_path / "a.gguf"
    path.write_bytes(file_of(dict(enumerate(keys))))
    message = mutations.refusal(lambda: open_checkpoint(path).tokenizer, path)
    assert re.search(place, message or "was read"), message
