"""The tokenizer of a folder that has none of ours, against transformers and tokenizers."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers import mutations
from helpers.models import as_checkpoint
from hypothesis import given
from hypothesis import strategies as st

from checkpoints.huggingface.test_tokenizer import ODD, REASON, TEXTS, TOKENIZERS
from npgpt import GPT, GPTConfig
from npgpt.checkpoints import load, open_checkpoint
from npgpt.checkpoints.huggingface import vocabulary as reading
from npgpt.checkpoints.huggingface.tokenizer import tokenizer_json, write_tokenizer_files
from npgpt.checkpoints.huggingface.vocabulary import tokenizer_of_folder
from npgpt.checkpoints.huggingface.write import write as write_huggingface
from npgpt.errors import CheckpointError
from npgpt.text.byte_level import BYTES, bytes_to_unicode
from npgpt.text.byte_pairs import BPETokenizer
from npgpt.text.tokenizers import GPT2Tokenizer, tokenizer_from_dict


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


def test_a_folder_with_a_strangers_vocabulary(tmp_path):
    """Its weights load; what its ids mean is unknown, whatever their number; and so for copies of it."""
    config = GPTConfig(50257, 4, 1, 1, 2)
    write_huggingface(tmp_path / "a", as_checkpoint(GPT(config, seed=0), TOKENIZERS["gpt2"]))
    (tmp_path / "a" / "npgpt_tokenizer.json").unlink()
    assert open_checkpoint(tmp_path / "a").tokenizer.name == "gpt2"
    write(tmp_path / "a", "vocab.json", dict(zip(gpt2_vocabulary(), range(50256, -1, -1), strict=True)))
    read = open_checkpoint(tmp_path / "a")
    assert read.tokenizer is None
    with pytest.raises(CheckpointError, match=r"no tokenizer is known for its vocabulary of 50,257 ids:\nput one"):
        read.require_tokenizer()
    write_huggingface(tmp_path / "b", read)
    assert open_checkpoint(tmp_path / "b").tokenizer is None
    (tmp_path / "a" / "vocab.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"a/vocab\.json: not JSON at character 1"):
        _ = open_checkpoint(tmp_path / "a").tokenizer
    load(tmp_path / "a")  # the weights are fine


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


# Encodings of other programs: GPT-2's pattern, other merges, special tokens anywhere

MERGES = ["t h", "Ġ th", "Ġth e", "i n", "a n", "an d", "Ġ and"]
SPECIAL = {"<s>": 0, "<pad>": 1, "</s>": 264, "<ß |x|>": 266}


def own_folder(folder: Path, merges=MERGES, special=SPECIAL, config=None, cut=None, **model) -> None:
    """A tokenizer.json whose ids are those that ``special`` leaves, in order: the bytes, then the merges."""
    tokens = list(dict.fromkeys([*map(bytes_to_unicode, BYTES), *(merge.replace(" ", "") for merge in merges)]))
    rest = iter(tokens)
    names = {id: text for text, id in special.items()}
    ids = {names.get(id) or next(rest): id for id in range(len(tokens) + len(names))}
    in_vocabulary = {token: id for token, id in ids.items() if token.isascii() or id not in names}
    values = {
        "added_tokens": [{"id": id, "content": text, "special": True} for text, id in special.items()],
        "normalizer": None,
        "pre_tokenizer": cut or {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "post_processor": {"type": "ByteLevel", "trim_offsets": False},
        "model": {"type": "BPE", "vocab": in_vocabulary, "merges": merges, **model},
    }
    (folder / "tokenizer.json").write_text(json.dumps(values))
    (folder / "tokenizer_config.json").write_text(json.dumps(config or {"eos_token": "</s>"}))


def changed(folder: Path, change) -> None:
    """Change the values of a folder's tokenizer.json."""
    values = json.loads((folder / "tokenizer.json").read_text())
    change(values)
    (folder / "tokenizer.json").write_text(json.dumps(values))


def test_an_encoding_with_special_tokens_anywhere(tmp_path):
    own_folder(tmp_path)
    found = tokenizer_of_folder(tmp_path, 267)
    assert found.special == SPECIAL
    assert (found.vocab_size, found.end_of_text, found.stop_ids) == (267, 264, {264})
    h, th, the, space_and = 2 + 71, 258, 260, 265  # ids 0 and 1 are special, and 264, so that "Ġ and" is 265
    assert found.encode("the theh and").tolist() == [th, 2 + 68, the, h, space_and]
    assert found.decode([0, th, 264, space_and, 266]) == "<s>th</s> and<ß |x|>"
    assert 264 not in found.encode("a</s>b")
    assert tokenizer_from_dict(json.loads(json.dumps(found.to_dict()))).to_dict() == found.to_dict()
    assert tokenizer_of_folder(tmp_path, 266) is None  # more ids than the model
    changed(tmp_path, lambda values: values["model"].update(merges=[merge.split(" ") for merge in MERGES]))
    assert tokenizer_of_folder(tmp_path, 300).to_dict() == found.to_dict()


@pytest.mark.parametrize(
    ("config", "special_tokens_map", "end", "expected"),
    [
        ({"eos_token": "</s>"}, {"eos_token": "<s>"}, 1, 264),
        ({"eos_token": {"content": "<pad>", "lstrip": False}}, {}, 264, 1),
        ({"tokenizer_class": "GPT2TokenizerFast"}, {"eos_token": {"content": "</s>"}}, 1, 264),
        ({"eos_token": None}, {}, 264, 264),
        ({"eos_token": ["</s>"]}, {"eos_token": "nothing of the kind"}, 50256, None),
        ({"eos_token": "the"}, {}, [264], None),
    ],
)
def test_what_ends_a_text(tmp_path, config, special_tokens_map, end, expected):
    own_folder(tmp_path, config=config)
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(special_tokens_map))
    found = tokenizer_of_folder(tmp_path, 267, end)
    assert found.end_of_text == expected
    assert tokenizer_from_dict(found.to_dict()).end_of_text == expected
    own_folder(tmp_path, special={"<|endoftext|>": 263})
    assert tokenizer_of_folder(tmp_path, 267, end).end_of_text == 263


LETTERS = "".join(map(bytes_to_unicode, BYTES))


def to_id(token, id):
    return lambda values: values["model"]["vocab"].update({token: id})


AND = {
    "id": 265,
    "content": "Ġand",
}  # of its text a library that finds added tokens makes the same id, and we would not

UNKNOWN = {
    "another pattern": {"cut": {"type": "Split", "pattern": {"Regex": " "}}},
    "no pattern": {"cut": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}},
    "a space before": {"cut": {"type": "ByteLevel", "add_prefix_space": True}},
    "no pieces": {"cut": {"type": "Sequence", "pretokenizers": []}},
    "dropout": {"dropout": 0.1},
    "bytes for what is unknown": {"byte_fallback": True},
    "another model": {"type": "Unigram"},
    "merges that ranks don't follow": {"merges": ["b c", "a b", "c d", "ab cd"], "special": {"<s>": 0}},
    "a token made twice": {"merges": ["a b", "b c", "ab c", "a bc"], "special": {"<s>": 0}},
    "a merge of what isn't there": {"merges": ["ab c"], "special": {"<s>": 0}},
    "a merge that is none": {"merges": ["a b c"], "special": {"<s>": 0}},
    "long tokens": {"merges": [LETTERS[:i] + " " + LETTERS[i] for i in range(1, 150)], "special": {"<s>": 0}},
    "a merge that is a number": lambda values: values["model"]["merges"].append(5),
    "a decoder that joins otherwise": lambda values: values.update(decoder={"type": "BPEDecoder", "suffix": "</w>"}),
    "decoders in a list": lambda values: values.update(decoder={"type": "Sequence", "decoders": [{"type": "Fuse"}]}),
    "a decoder that is none": lambda values: values.update(decoder=5),
    "a special token spells the last one": lambda values: values["added_tokens"].append({**AND, "special": True}),
    "an added word": lambda values: values["added_tokens"].append({"id": 267, "content": "covid", "special": False}),
    "added spaces": lambda values: values["added_tokens"].append({"id": 267, "content": "   "}),
    "an ordinary token is special, too": lambda values: values["added_tokens"].append({"id": 263, "content": "and"}),
    "a frame": lambda values: values.update(post_processor={"type": "TemplateProcessing", "single": []}),
    "a frame in a list": lambda values: values.update(
        post_processor={"type": "Sequence", "processors": [{"type": "TemplateProcessing", "single": []}]}
    ),
    "another frame": lambda values: values.update(post_processor={"type": "RobertaProcessing"}),
    "a beginning": lambda values: values.update(
        post_processor={"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {}}]}
    ),
    "lower case": lambda values: values.update(normalizer={"type": "Lowercase"}),
    "an id twice": to_id("<s>", 1),
    "an id that is left out": to_id("and", 400),
    "an id that is text": to_id("and", "263"),
    "an id that is a list": to_id("<s>", [0]),
    "ids out of order": lambda values: values["model"]["vocab"].update({"in": 262, "an": 261}),
    "a byte is missing": lambda values: values["model"]["vocab"].pop("!"),
    "a token that no merge makes": to_id("Ġof", 267),
    "a special token with two ids": lambda values: values["added_tokens"][0].update(id=267),
    "added tokens that are none": lambda values: values.update(added_tokens=5),
    "an added token without a text": lambda values: values["added_tokens"][0].pop("content"),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_what_our_encoder_would_do_otherwise_is_unknown(tmp_path, case, monkeypatch):
    monkeypatch.setattr(reading, "_MAX_WORK", 1_000_000)
    how = UNKNOWN[case]
    own_folder(tmp_path, **({} if callable(how) else how))
    if callable(how):
        assert tokenizer_of_folder(tmp_path, 1000) is not None
        changed(tmp_path, how)
    assert tokenizer_of_folder(tmp_path, 1000) is None


def test_added_tokens_that_are_special_or_names(tmp_path):
    own_folder(tmp_path, special={})
    added = [("<user>", False), ("[PAD]", False), ("END", True), (" ", True)]
    tokens = [{"id": 263 + i, "content": text, "special": special} for i, (text, special) in enumerate(added)]
    changed(tmp_path, lambda values: values.update(added_tokens=tokens[:3]))
    assert tokenizer_of_folder(tmp_path, 300).special == {"<user>": 263, "[PAD]": 264, "END": 265}
    changed(tmp_path, lambda values: values.update(added_tokens=tokens))  # a space is a byte
    assert tokenizer_of_folder(tmp_path, 300) is None


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json"])
@pytest.mark.parametrize(
    ("settings", "is_known"),
    [
        ({}, True),
        ({"tokenizer_class": "CodeGenTokenizer"}, True),
        ({"tokenizer_class": "TokenizersBackend"}, None),  # in tokenizer.json all is said
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, None),
        ({"tokenizer_class": "RobertaTokenizer"}, False),
        ({"tokenizer_class": ["GPT2Tokenizer"]}, False),
        ({"add_bos_token": True}, False),
        ({"add_eos_token": True}, False),
        ({"added_tokens_decoder": {"263": {"content": "<user>", "special": False}}}, True),
        ({"added_tokens_decoder": {"263": {"content": "END", "special": True}}}, True),
        ({"added_tokens_decoder": {"263": {"content": "END", "special": False}}}, False),
        ({"added_tokens_decoder": [5]}, False),
    ],
)
def test_settings_beside_the_vocabulary(tmp_path, name, settings, is_known):
    """transformers' classes have rules of their own, and it adds the tokens of its settings."""
    own_folder(tmp_path, special={}, config=settings or {"model_max_length": 8})
    is_told = name == "tokenizer.json"
    if not is_told:
        vocabulary = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
        (tmp_path / "tokenizer.json").unlink()
        (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
        (tmp_path / "merges.txt").write_text("\n".join(MERGES), encoding="utf-8")
    assert (tokenizer_of_folder(tmp_path, 1000) is not None) == (is_told if is_known is None else is_known)


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


@pytest.mark.parametrize(
    "frame",
    [
        None,
        {"type": "ByteLevel"},
        {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}], "special_tokens": {}},
        {"type": "Sequence", "processors": [{"type": "ByteLevel"}]},
    ],
)
def test_frames_that_add_nothing(tmp_path, frame):
    """The third is what transformers 5 writes if there is none."""
    own_folder(tmp_path)
    changed(tmp_path, lambda values: values.update(post_processor=frame))
    assert tokenizer_of_folder(tmp_path, 1000) is not None


def test_long_tokens_and_many_of_them(tmp_path):
    """Up to limits that keep a stranger's file from taking minutes or a gigabyte."""
    own_folder(tmp_path, merges=[LETTERS[:i] + " " + LETTERS[i] for i in range(1, 150)], special={})
    assert tokenizer_of_folder(tmp_path, 405).token_bytes(404) == b"".join(BYTES[:150])
    pairs = [[a, b] for a in LETTERS for b in LETTERS]
    own_folder(tmp_path, merges=[" ".join(pair) for pair in pairs], special={})
    changed(tmp_path, lambda values: values["model"].update(merges=pairs))
    assert tokenizer_of_folder(tmp_path, 65792).vocab_size == 65792


def test_files_that_disagree_are_unknown(tmp_path):
    own_folder(tmp_path, special={"<s>": 0})
    vocabulary = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    assert tokenizer_of_folder(tmp_path, 1000) is None  # without merges, vocab.json says too little
    for merges, is_known in ((MERGES, True), ([MERGES[1], MERGES[0], *MERGES[2:]], False)):
        (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
        assert (tokenizer_of_folder(tmp_path, 1000) is not None) == is_known
    (tmp_path / "merges.txt").write_text("\n".join(MERGES), encoding="utf-8")
    (tmp_path / "vocab.json").write_text(json.dumps({**vocabulary, "<s>": 264}))
    assert tokenizer_of_folder(tmp_path, 1000) is None


def test_older_folders_without_tokenizer_json(tmp_path):
    own_folder(tmp_path, special={"<s>": 0})
    expected = tokenizer_of_folder(tmp_path, 1000)
    vocabulary = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]), encoding="utf-8")
    assert tokenizer_of_folder(tmp_path, 1000).to_dict() == expected.to_dict()
    (tmp_path / "added_tokens.json").write_text('{"<user>": 264, "</s>": 265}')
    found = tokenizer_of_folder(tmp_path, 1000)
    assert (found.special, found.end_of_text) == ({"<s>": 0, "<user>": 264, "</s>": 265}, 265)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "RobertaTokenizer"}')
    assert tokenizer_of_folder(tmp_path, 1000) is None


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


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the files of an encoding that the tokenizers library trained, and the library's tokenizer."""
    tokenizers = pytest.importorskip("tokenizers", reason=REASON)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    own = tokenizers.ByteLevelBPETokenizer()
    own.train_from_iterator([*TEXTS, *ODD], vocab_size=1200, special_tokens=special, show_progress=False)
    folder = tmp_path_factory.mktemp("trained")
    own.save_model(str(folder))
    (folder / "new").mkdir()
    own.save(str(folder / "new" / "tokenizer.json"))
    return folder, own


@pytest.mark.parametrize("files", ["", "new"])
def test_the_same_as_an_encoding_that_tokenizers_trained(trained, files):
    folder, theirs = trained
    ours = tokenizer_of_folder(folder / files, theirs.get_vocab_size())
    assert ours.special == {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4}

    def check(text):
        ids = ours.encode(text).tolist()
        assert ids == theirs.encode(text).ids
        assert ours.decode(ids) == theirs.decode(ids)

    for text in [*TEXTS, *ODD]:
        check(text)
    given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(" \n\t'ste1.é"), max_size=60))(check)()
    rng = np.random.default_rng(0)
    for _ in range(100):
        ids = rng.integers(0, ours.vocab_size, rng.integers(1, 40)).tolist()
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)


def test_written_and_read_back(tmp_path):
    """From our form, from tokenizer.json, from vocab.json with merges.txt; tiktoken's file has the ids."""
    ours = BPETokenizer(MERGES, {"<s>": 0, "</s>": 260, "<x y>": 265}, "</s>")
    write_tokenizer_files(tmp_path, ours, 64)
    assert len((tmp_path / "tokenizer.tiktoken").read_bytes().splitlines()) == 263
    assert (tmp_path / "tokenizer.tiktoken").read_bytes().splitlines()[-1] == b"IGFuZA== 264"  # " and"
    assert open_tokenizer(tmp_path / "npgpt_tokenizer.json") == ours.to_dict()
    for name in ("vocab.json", "tokenizer.json"):
        assert tokenizer_of_folder(tmp_path, 266).to_dict() == ours.to_dict()
        (tmp_path / name).unlink()


def open_tokenizer(path: Path) -> dict:
    return tokenizer_from_dict(json.loads(path.read_text(encoding="utf-8"))).to_dict()


def test_a_model_that_transformers_saved_with_an_encoding_of_its_own(tmp_path, trained):
    """The same text as transformers' generate, which stops at the tokenizer's end."""
    transformers = pytest.importorskip("transformers", reason=REASON)
    torch = pytest.importorskip("torch", reason=REASON)
    _, own = trained
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=own._tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    torch.manual_seed(0)
    sizes = {"vocab_size": len(wrapped), "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 64}
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=2)).eval()
    theirs.save_pretrained(tmp_path)
    wrapped.save_pretrained(tmp_path)
    tokenizer = open_checkpoint(tmp_path).require_tokenizer()
    assert (tokenizer.end_of_text, tokenizer.vocab_size) == (2, len(wrapped))
    prompt = wrapped("It was in the", return_tensors="pt")
    ids = theirs.generate(**prompt, max_new_tokens=20, do_sample=False, pad_token_id=1)[0]
    assert tokenizer.encode("It was in the").tolist() == prompt["input_ids"][0].tolist()
    found = load(tmp_path).generate([tokenizer.encode("It was in the")], max_new_tokens=20, temperature=0, stop_ids=[2])
    assert tokenizer.decode(found[0]) == wrapped.decode(ids)
