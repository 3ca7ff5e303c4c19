"""Whether a folder's tokenizer is GPT-2's, and damaged files."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers import mutations
from helpers.commands import refused
from helpers.models import as_checkpoint

from checkpoints.huggingface.test_tokenizer import ODD, REASON, TEXTS, TOKENIZERS
from npgpt import GPT, GPTConfig
from npgpt.checkpoints import load, open_checkpoint
from npgpt.checkpoints.huggingface import vocabulary as reading
from npgpt.checkpoints.huggingface.tokenizer import tokenizer_json, write_tokenizer_files
from npgpt.checkpoints.huggingface.vocabulary import chat_template_of_folder, tokenizer_of_folder
from npgpt.checkpoints.huggingface.write import write as write_huggingface
from npgpt.errors import CheckpointError
from npgpt.text.tokenizers import GPT2Tokenizer


def gpt2_vocabulary() -> dict[str, int]:
    return dict(reading._gpt2_vocabulary())


def write(folder: Path, name: str, vocabulary, **others) -> None:
    values = vocabulary
    if name == "tokenizer.json":
        merges = [[token[0], token[1:]] for token in list(vocabulary)[256:-1]]  # cut anywhere: the token counts
        cut = {"type": "ByteLevel", "add_prefix_space": False}
        model = {"vocab": vocabulary, "merges": merges}  # BPE, as old files don't say
        values = {"version": "1.0", "pre_tokenizer": cut, "model": model, **others}
    (folder / name).write_text(json.dumps(values))


def test_where_the_chat_template_is(tmp_path):
    alone, settings = tmp_path / "chat_template.jinja", tmp_path / "tokenizer_config.json"
    assert chat_template_of_folder(tmp_path) is None
    for values in ("{}", '{"chat_template": null}', '{"chat_template": ""}', "[]", '{"chat_template": '):
        settings.write_text(values)
        assert chat_template_of_folder(tmp_path) is None, values
    for values in ('{"chat_template": "{{ x }}"}', '{"chat_template": [{"name": "default", "template": "x"}]}'):
        settings.write_text(values)
        assert chat_template_of_folder(tmp_path) == str(settings)
    alone.touch()
    assert chat_template_of_folder(tmp_path) == str(alone)


def test_what_cuts_otherwise_is_not_gpt2(tmp_path):
    """The vocabulary is GPT-2's, and texts get other ids with it."""
    vocabulary = gpt2_vocabulary()
    spaced = {"type": "ByteLevel", "add_prefix_space": True}
    for others in (
        {"pre_tokenizer": spaced},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split"}, spaced]}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits"}, {"type": "ByteLevel"}]}},
        {"pre_tokenizer": {"type": "Split", "pretokenizers": [{"type": "ByteLevel"}]}},
        {"pre_tokenizer": None},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": 5}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": ["ByteLevel"]}},
        {"normalizer": {"type": "Lowercase"}},
        {"model": {"vocab": vocabulary, "merges": ["\u0120 t"]}},
        {"model": {"vocab": vocabulary}},
    ):
        write(tmp_path, "tokenizer.json", vocabulary, **others)
        assert tokenizer_of_folder(tmp_path, 50257) is None
    write(tmp_path, "tokenizer.json", vocabulary, normalizer=None, pre_tokenizer={**spaced, "add_prefix_space": False})
    assert tokenizer_of_folder(tmp_path, 50257) is not None
    for settings in ({"add_prefix_space": True}, {"add_bos_token": True}, {"tokenizer_class": "Qwen2Tokenizer"}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        assert tokenizer_of_folder(tmp_path, 50257) is None


def test_merges_beside_a_vocabulary(tmp_path):
    write(tmp_path, "vocab.json", gpt2_vocabulary())
    merges = [f"{token[0]} {token[1:]}" for token in list(gpt2_vocabulary())[256:-1]]
    for lines, is_gpt2 in ((merges, True), (merges[:-1], False), ([*merges[1:], merges[0]], False)):
        (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]), encoding="utf-8")
        assert (tokenizer_of_folder(tmp_path, 50257) is not None) == is_gpt2


@pytest.mark.parametrize("name", ["spiece.model", "vocab.txt", "tokenizer_config.json"])
def test_gpt2_is_not_guessed_where_something_speaks_of_another(tmp_path, name):
    (tmp_path / name).write_text('{"tokenizer_class": "T5Tokenizer"}')
    assert tokenizer_of_folder(tmp_path, 50257) is None
    (tmp_path / name).unlink()
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2TokenizerFast"}')
    assert tokenizer_of_folder(tmp_path, 50257) is not None


@pytest.mark.parametrize("name", ["vocab.json", "tokenizer.json"])
def test_the_vocabulary_that_is_there_decides(tmp_path, name):
    assert isinstance(tokenizer_of_folder(tmp_path, 50257), GPT2Tokenizer)
    for end, vocab_size in [(None, 50257), (0, 50256), (0, 50304)]:
        assert tokenizer_of_folder(tmp_path, vocab_size, end) is None
    write(tmp_path, name, gpt2_vocabulary())
    for end, vocab_size in [(0, 50257), (None, 50257), (0, 50304)]:
        assert isinstance(tokenizer_of_folder(tmp_path, vocab_size, end), GPT2Tokenizer)
    assert tokenizer_of_folder(tmp_path, 50256) is None
    other = gpt2_vocabulary()
    other["the"], other["a"] = other["a"], other["the"]
    write(tmp_path, name, other)
    assert tokenizer_of_folder(tmp_path, 50257) is None


def test_files_of_transformers(tmp_path):
    """GPT-2's files as transformers saves them; with an added token; and those of a vocabulary of its size."""
    transformers = pytest.importorskip("transformers", reason=REASON)
    write_tokenizer_files(tmp_path, TOKENIZERS["gpt2"], 1024)
    their = transformers.AutoTokenizer.from_pretrained(tmp_path, tokenizer_type="gpt2")
    their.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "npgpt_tokenizer.json").exists()
    assert isinstance(tokenizer_of_folder(tmp_path / "saved", 50257), GPT2Tokenizer)
    their.add_special_tokens({"pad_token": "[PAD]"})
    their.save_pretrained(tmp_path / "padded")
    assert tokenizer_of_folder(tmp_path / "padded", 50258).special == {"<|endoftext|>": 50256, "[PAD]": 50257}
    other = transformers.GPT2Tokenizer(vocab=dict(zip(gpt2_vocabulary(), range(50256, -1, -1), strict=True)), merges=[])
    other.save_pretrained(tmp_path / "other")
    assert tokenizer_of_folder(tmp_path / "other", 50257) is None


def test_words_among_an_older_folders_added_tokens(tmp_path):
    write(tmp_path, "vocab.json", gpt2_vocabulary())
    special = {"added_tokens_decoder": {"50258": {"content": "END", "special": True}}}
    for added, settings, is_known in (
        ('{"<user>": 50257}', {}, True),
        ('{"<user>": 50257, "END": 50258}', {}, False),
        ('{"<user>": 50257, "END": 50258}', special, True),
        ("[]", {}, False),
    ):
        (tmp_path / "added_tokens.json").write_text(added)
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        assert (tokenizer_of_folder(tmp_path, 50304) is not None) == is_known


def test_tokens_added_to_gpt2s(tmp_path):
    """They have a text and can end one, if there is an id for each; else the rest is GPT-2's still."""
    stored = tokenizer_json(GPT2Tokenizer())
    added = [*stored["added_tokens"], {"id": 50257, "content": "<|im_end|>"}]
    (tmp_path / "tokenizer.json").write_text(json.dumps({**stored, "added_tokens": added}))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    found = tokenizer_of_folder(tmp_path, 50304)
    assert (found.vocab_size, found.end_of_text, found.decode([464, 50257, 50256])) == (
        50258,
        50257,
        "The<|im_end|><|endoftext|>",
    )
    for text in [*TEXTS, *ODD]:
        np.testing.assert_array_equal(found.encode(text), TOKENIZERS["gpt2"].encode(text))
    assert isinstance(tokenizer_of_folder(tmp_path, 50257), GPT2Tokenizer)
    added[-1]["id"] = 50300
    (tmp_path / "tokenizer.json").write_text(json.dumps({**stored, "added_tokens": added}))
    assert isinstance(tokenizer_of_folder(tmp_path, 50304), GPT2Tokenizer)


def test_a_folder_with_a_strangers_vocabulary(tmp_path):
    """Its weights load; what its ids mean is unknown, whatever their number; and so for copies of it."""
    config = GPTConfig(50257, 4, 1, 1, 2)
    write_huggingface(tmp_path / "a", as_checkpoint(GPT(config, seed=0), TOKENIZERS["gpt2"]))
    (tmp_path / "a" / "npgpt_tokenizer.json").unlink()
    assert open_checkpoint(tmp_path / "a").tokenizer.name == "gpt2"
    write(tmp_path / "a", "vocab.json", dict(zip(gpt2_vocabulary(), range(50256, -1, -1), strict=True)))
    read = open_checkpoint(tmp_path / "a")
    assert read.tokenizer is None
    with pytest.raises(CheckpointError, match=r"^.*/a: npgpt can't read its tokenizer, (.*\n){2}.*load\('.*/a'\)$"):
        read.require_tokenizer()
    write_huggingface(tmp_path / "b", read)
    assert open_checkpoint(tmp_path / "b").tokenizer is None
    (tmp_path / "a" / "vocab.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"a/vocab\.json: not JSON at character 1"):
        _ = open_checkpoint(tmp_path / "a").tokenizer
    load(tmp_path / "a")  # the weights are fine


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model", "vocab.txt"])
def test_a_command_for_a_model_whose_tokenizer_is_of_another_kind(tmp_path, name):
    """The message names the folder, and what still works."""
    folder = tmp_path / "model"
    write_huggingface(folder, as_checkpoint(GPT(GPTConfig(300, 4, 1, 1, 2), seed=0)))
    (folder / name).write_text(json.dumps({"model": {"type": "WordPiece", "vocab": {"a": 0}}}))
    words = [f"{folder}: npgpt can't read its tokenizer", f"model = npgpt.load('{folder}')"]
    refused("sample", "--model", folder, cwd=tmp_path, words=words)
    assert load(folder).generate([[1, 2]], 3).shape == (1, 5)


OTHERS = {
    "a list": b"[]",
    "ids as text": b'{"!": "0"}',
    "the model a list": b'{"model": []}',
    "half a pair": b'{"\\ud800": 0, "model": {"vocab": {"\\ud800": 0}}}',
    "ten megabytes": b'{"a": "' + b"x" * 10_000_000 + b'"}',
    "many objects": b"[" + b"{}," * 3_000_000 + b"{}]",
    "as many as can be": b"[" + b"{}," * 120_000 + b"{}]",
}
BAD = {
    "empty": (b"", "not JSON at character 0"),
    "not UTF-8": (b'{"\xff": 0}', "not UTF-8 at byte 2"),
    "a token twice": (b'{"!": 0, "!": 1}', "the key '!' is there twice"),
    "deep": (b"[" * 200_000, "the JSON is nested too deeply"),
    "pickle": (b"\x80\x02}q\x00.", "not UTF-8 at byte 0"),
}


@pytest.mark.parametrize("name", ["vocab.json", "tokenizer.json"])
@pytest.mark.parametrize("case", [*OTHERS, *BAD])
def test_other_and_damaged_vocabularies(tmp_path, name, case):
    _ = reading._gpt2_vocabulary()
    content, place = (OTHERS[case], None) if case in OTHERS else BAD[case]
    path = tmp_path / name
    path.write_bytes(content)
    with mutations.memory_at_most(len(content)):
        if place is None:
            assert tokenizer_of_folder(tmp_path, 50257) is None
        else:
            with pytest.raises(CheckpointError, match=f"^{re.escape(str(path))}: {place}") as caught:
                tokenizer_of_folder(tmp_path, 50257)
            assert len(str(caught.value)) < 300 + len(str(path))
