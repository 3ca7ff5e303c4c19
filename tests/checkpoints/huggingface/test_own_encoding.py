"""Byte-pair encodings of other programs, with GPT-2's pattern and special tokens anywhere: which are read, and how."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoints.huggingface.test_tokenizer import ODD, REASON, TEXTS
from npgpt.checkpoints import load, open_checkpoint
from npgpt.checkpoints.huggingface import vocabulary as reading
from npgpt.checkpoints.huggingface.tokenizer import write_tokenizer_files
from npgpt.checkpoints.huggingface.vocabulary import tokenizer_of_folder
from npgpt.text.byte_level import BYTES, bytes_to_unicode
from npgpt.text.byte_pairs import BPETokenizer
from npgpt.text.tokenizers import tokenizer_from_dict

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


AND = {"id": 265, "content": "Ġand", "special": True}  # the library has one token for both, and our encoder two

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
    "a special token spells the last one": lambda values: values["added_tokens"].append(AND),
    "an added word": lambda values: values["added_tokens"].append({"id": 267, "content": "covid", "special": False}),
    "added spaces": lambda values: values["added_tokens"].append({"id": 267, "content": "   "}),
    "an ordinary token is special, too": lambda values: values["added_tokens"].append(
        {"id": 263, "content": "and", "special": True}
    ),
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
    monkeypatch.setattr(reading, "_MAX_LENGTH", 10_000)
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


def test_a_list_of_one_pre_tokenizer_is_that_one(tmp_path):
    own_folder(tmp_path, cut={"type": "Sequence", "pretokenizers": [{"type": "ByteLevel", "add_prefix_space": False}]})
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
