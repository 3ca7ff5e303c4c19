"""nanoGPT's ckpt.pt: from a torch model of its shape and names, and from files that are not quite that."""

import io
import pickle
import re
import sys
from unittest import mock

import numpy as np
import pytest
from helpers.commands import command
from helpers.models import with_random_parameters
from helpers.torch_bytes import FALSE, NONE, TRUE, dict_, global_, int_, list_, storage, tensor, text, zip_file

import npgpt
from npgpt import GPT, GPTConfig
from npgpt.checkpoints import load, open_checkpoint, save
from npgpt.checkpoints.nanogpt import config_from_nanogpt
from npgpt.errors import CheckpointError, DataError, TokenizerError
from npgpt.gpt import parameter_shapes
from npgpt.text.corpus import read_corpus
from npgpt.text.tokenizers import CharTokenizer, GPT2Tokenizer

ARGS = {"n_layer": 3, "n_head": 2, "n_embd": 8, "block_size": 6, "bias": True, "vocab_size": 11, "dropout": 0.1}


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="compares with torch, which is not installed")


def nanogpt(torch, mask=False, **changes):
    """-> the state dict of such a model, with random numbers, and its sizes. Matrices of layers are (out, in)."""
    args = ARGS | changes
    model = with_random_parameters(GPT(GPTConfig(**args, activation="gelu")))
    state = {}
    for name, array in model.state_dict().items():
        in_layer = array.ndim == 2 and name.startswith("h.")
        state[f"transformer.{name}"] = torch.from_numpy(np.ascontiguousarray(array.T if in_layer else array))
        if mask and name.endswith("c_attn.weight"):
            T = args["block_size"]
            state[f"transformer.{name[:9]}bias"] = torch.tril(torch.ones(T, T)).view(1, 1, T, T)
    state["lm_head.weight"] = state["transformer.wte.weight"]
    return state, args


def checkpoint_of(torch, state, args, prefix=""):
    """What nanoGPT's train.py saves, after one step."""
    weight = torch.nn.Parameter(state["lm_head.weight"])
    optimizer = torch.optim.AdamW([weight], lr=1e-3, betas=(0.9, 0.95))
    weight.sum().backward()
    optimizer.step()
    return {
        "model": {prefix + name: tensor for name, tensor in state.items()},
        "optimizer": optimizer.state_dict(),
        "model_args": args,
        "iter_num": 2000,
        "best_val_loss": torch.tensor(1.25),
        "config": {"dataset": "shakespeare_char", "learning_rate": 1e-3, "compile": True},
    }


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_logits_are_those_of_torch(tmp_path, torch, bias, form, prefix):
    from helpers.torch_gpt import torch_logits

    state, args = nanogpt(torch, bias=bias, mask=prefix != "")
    checkpoint = checkpoint_of(torch, state, args, prefix)
    torch.save(checkpoint, tmp_path / "ckpt.pt", _use_new_zipfile_serialization=form == "zip")
    ids = np.random.default_rng(0).integers(0, 11, (2, 6))
    parameters = {
        name.removeprefix("transformer."): x.double().T if x.ndim == 2 and ".h." in name else x.double()
        for name, x in state.items()
    }
    config = GPTConfig(**args, activation="gelu")
    expected = torch_logits(config, parameters, torch.from_numpy(ids)).detach().numpy()
    for path in (tmp_path / "ckpt.pt", tmp_path):  # the file, and the folder that nanoGPT's training fills
        with npgpt.no_grad():
            found = load(path).eval()(ids).data
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)
    assert np.abs(expected).max() > 1


def build_nanogpt(state, **changes):
    """The bytes of what build-nanogpt's train_gpt2.py saves: its config is an object of its own class."""
    import torch

    names = ("block_size", "vocab_size", "n_layer", "n_head", "n_embd")
    config = type("GPTConfig", (), {"__module__": "__main__"})()
    vars(config).update({name: ARGS[name] for name in names} | changes)
    file = io.BytesIO()
    with mock.patch.object(sys.modules["__main__"], "GPTConfig", type(config), create=True):  # pickle looks it up
        torch.save({"model": state, "config": config, "step": 5, "val_loss": 3.1}, file)
    return file.getvalue()


def test_build_nanogpts_config_is_an_object(tmp_path, torch):
    """It has no "bias", and GPT-2's GELU."""
    state, _ = nanogpt(torch)
    (tmp_path / "model_00005.pt").write_bytes(build_nanogpt(state))
    found = open_checkpoint(tmp_path / "model_00005.pt")
    assert found.config == GPTConfig(11, 6, 3, 2, 8, activation="gelu_new")
    assert found.ignored_keys == ("lm_head.weight", "step", "val_loss")
    np.testing.assert_array_equal(
        load(tmp_path / "model_00005.pt").h[1].mlp.c_fc.weight.data, state["transformer.h.1.mlp.c_fc.weight"].numpy().T
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_kv_head": 2}, "config: 'n_kv_head' is unknown"),
        ({"n_layer": [1]}, "config: n_layer is a list, and a number was expected"),
        ({"n_layer": 4}, "3 layers in the file, 4 in its configuration"),
    ],
)
def test_build_nanogpts_configs_that_are_not_quite_that(tmp_path, torch, changes, message):
    state, _ = nanogpt(torch)
    (tmp_path / "a.pt").write_bytes(build_nanogpt(state, **changes))
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path / "a.pt")


def test_what_is_there_is_named(tmp_path, torch):
    state, args = nanogpt(torch, mask=True)
    torch.save(checkpoint_of(torch, state, args), tmp_path / "a")
    opened = open_checkpoint(tmp_path / "a")
    assert opened.format == "nanoGPT"
    assert opened.config == GPTConfig(**args, activation="gelu")
    masks = [f"transformer.h.{i}.attn.bias" for i in range(3)]
    rest = ["best_val_loss", "config", "iter_num", "lm_head.weight", "optimizer", *masks]
    assert list(opened.ignored_keys) == rest
    assert opened.tensors["h.0.attn.c_attn.weight"].shape == (8, 24)
    np.testing.assert_array_equal(
        opened.tensors["h.2.mlp.c_proj.weight"].numpy(),
        state["transformer.h.2.mlp.c_proj.weight"].numpy().T,
    )
    assert opened.tokenizer is None


def test_layers_that_are_one_in_the_file_are_refused(tmp_path, torch):
    """So a small file could make a large model."""
    state, args = nanogpt(torch, n_layer=40)
    for name in state:
        if ".h." in name:
            state[name] = state[re.sub(r"\.h\.\d+\.", ".h.0.", name)]
    torch.save({"model": state, "model_args": args}, tmp_path / "a")
    with pytest.raises(CheckpointError, match=r"a: the tensors take .* bytes of .*: several share elements"):
        open_checkpoint(tmp_path / "a")


@pytest.mark.parametrize(("vocab_size", "known"), [(50257, True), (50304, True), (50303, False)])
def test_gpt2s_vocabulary_may_be_filled_up(tmp_path, torch, vocab_size, known):
    state, args = nanogpt(torch, n_layer=1, n_head=1, n_embd=2, vocab_size=vocab_size)
    torch.save({"model": state, "model_args": args}, tmp_path / "a")
    assert isinstance(open_checkpoint(tmp_path / "a").tokenizer, GPT2Tokenizer) == known


def test_a_head_that_is_not_tied(tmp_path, torch):
    state, args = nanogpt(torch)
    torch.save(
        {"model": state | {"lm_head.weight": state["lm_head.weight"].clone()}, "model_args": args}, tmp_path / "a"
    )
    assert "lm_head.weight" not in open_checkpoint(tmp_path / "a").tensors  # the same numbers elsewhere
    torch.save({"model": state | {"lm_head.weight": state["lm_head.weight"] + 1}, "model_args": args}, tmp_path / "a")
    with pytest.raises(CheckpointError, match=r"a: tensor 'lm_head.weight' differs from 'transformer.wte.weight'"):
        open_checkpoint(tmp_path / "a")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("transformer.wte.weight"), r"lacks the tensors 'wte\.weight'"),
        (
            lambda state: state.update({"_orig_mod.lm_head.weight": 0 * state["lm_head.weight"]}),
            "'lm_head.weight' is th",
        ),
        (
            lambda state: state.update({"wte.weight": state["lm_head.weight"]}),
            "'wte.weight' has npgpt's name for it, not the format's",
        ),
        (
            lambda state: state.update({"transformer.h.0.attn.c_attn.weight": state["lm_head.weight"][0]}),
            "attn.c_attn.weight must be a matrix",
        ),
        (
            lambda state: state.update(
                {"transformer.h.0.attn.c_attn.weight": state["transformer.h.0.attn.c_attn.weight"].T}
            ),
            r"must have shape \(8, 24\), and has \(24, 8\): it looks transposed",
        ),
    ],
)
def test_models_that_are_not_quite_that(tmp_path, torch, change, message):
    state, args = nanogpt(torch)
    change(state)
    torch.save({"model": state, "model_args": args}, tmp_path / "a")
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(tmp_path / "a")
    assert str(caught.value).startswith(str(tmp_path / "a"))


# The sizes


def test_configurations():
    assert config_from_nanogpt(ARGS, "x") == GPTConfig(11, 6, 3, 2, 8, dropout=0.1, activation="gelu")
    without = config_from_nanogpt(ARGS | {"bias": False}, "x")
    assert (without.bias, without.has_qkv_bias, without.activation) == (False, False, "gelu")
    first = {key: value for key, value in ARGS.items() if key != "bias"}  # before there was a choice
    assert config_from_nanogpt(first, "x") == GPTConfig(11, 6, 3, 2, 8, dropout=0.1, activation="gelu_new")


BAD_ARGS = {
    "layers of text": ({"n_layer": "3"}, "n_layer is '3', and a number was expected"),
    "layers of a list": ({"n_layer": [[1] * 1000] * 1000}, "n_layer is a list, and a number was expected"),
    "a huge context": ({"block_size": 10**600}, "block_size must be a whole number of at least 1, not 1000"),
    "a bias of None": ({"bias": None}, "bias must be true or false, not None"),
    "other settings": ({f"{i} " * 50: 1 for i in range(99)}, "'0 0 0 .*' is unknown"),
}


@pytest.mark.parametrize("case", BAD_ARGS)
def test_bad_sizes(case):
    changes, place = BAD_ARGS[case]
    with pytest.raises(CheckpointError) as caught:
        config_from_nanogpt(ARGS | changes, "x: model_args")
    message = str(caught.value)
    assert re.search(place, message), message
    assert message.startswith("x: model_args: ")
    assert len(message) < 450


OBJECTS = {
    "a list": (list_(tensor()), "a dict of tensors was expected, not a list"),
    "a model that is a tensor": (
        dict_({"model": tensor(), "model_args": b"}"}),
        "model_args: 'block_size' is missing",
    ),
    "sizes that are None": (
        dict_({"model": b"}", "model_args": NONE}),
        "model_args: a dict was expected, not a NoneType",
    ),
    "an object without attributes": (
        dict_({"model": b"}", "config": global_("__main__.GPTConfig") + b")\x81"}),
        "config: 'block_size' is missing",
    ),
    "a dict for the object": (
        dict_({"model": b"}", "config": b"}"}),
        "'model': a tensor and its name were expected, not a dict",
    ),
    "a model without its sizes": (dict_({"model": b"}"}), "'model': a tensor and its name were expected, not a dict"),
}


@pytest.mark.parametrize("case", OBJECTS)
def test_objects_that_are_not_quite_that(tmp_path, case):
    value, place = OBJECTS[case]
    (tmp_path / "a").write_bytes(zip_file(value))
    with pytest.raises(CheckpointError, match=place) as caught:
        open_checkpoint(tmp_path / "a")
    assert str(caught.value).startswith(f"{tmp_path / 'a'}: ")


def test_sizes_that_would_print_without_end(tmp_path):
    """A list that holds the one before twice, 90 times, where a number should be."""
    doubling = b"]q\0" + b"](h\0h\0eq\0" * 90
    sizes = {key: int_(2) for key in ("n_layer", "n_head", "n_embd", "block_size", "vocab_size", "dropout")}
    value = dict_({"model": b"}", "model_args": dict_(sizes | {"bias": TRUE, "n_embd": b"(" + doubling + b"t"})})
    (tmp_path / "a").write_bytes(zip_file(value))
    with pytest.raises(CheckpointError, match="model_args: n_embd is a tuple, and a number was expected"):
        open_checkpoint(tmp_path / "a")


# meta.pkl

CHARACTERS = "\n !'abcé"


def meta(characters=CHARACTERS, **changes) -> dict:
    """What data/shakespeare_char/prepare.py pickles."""
    stoi = {character: id for id, character in enumerate(characters)}
    return {"vocab_size": len(characters), "itos": {id: c for c, id in stoi.items()}, "stoi": stoi} | changes


def ckpt(folder, config: dict | None = None, vocab_size=8):
    """A ckpt.pt without torch, in the folder out-x."""
    shapes = parameter_shapes(GPTConfig(vocab_size, 6, 1, 1, 2, bias=False))
    state, offset = {}, 0
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        theirs = shape[::-1] if "attn" in name or "mlp" in name else shape
        state[f"transformer.{name}"] = tensor(storage(count=1000), offset, theirs, (theirs[-1], 1)[-len(theirs) :])
        offset += size
    sizes = {"n_layer": 1, "n_head": 1, "n_embd": 2, "block_size": 6, "vocab_size": vocab_size, "dropout": 0}
    args = {key: int_(number) for key, number in sizes.items()} | {"bias": FALSE}
    settings = {} if config is None else {"config": dict_({key: text(value) for key, value in config.items()})}
    (folder / "out-x").mkdir()
    (folder / "out-x" / "ckpt.pt").write_bytes(
        zip_file(dict_({"model": dict_(state), "model_args": dict_(args), **settings}), {"0": bytes(4000)})
    )
    return folder / "out-x"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_characters_of_meta_pkl_beside_the_checkpoint(tmp_path, protocol):
    out = ckpt(tmp_path)
    (out / "meta.pkl").write_bytes(pickle.dumps(meta(), protocol))
    tokenizer = open_checkpoint(out).require_tokenizer()
    assert tokenizer.vocab_size == open_checkpoint(out).config.vocab_size == len(CHARACTERS)
    assert tokenizer.end_of_text is None
    assert tokenizer.encode("a b!").tolist() == [CHARACTERS.index(c) for c in "a b!"]
    assert tokenizer.decode(range(len(CHARACTERS))) == CHARACTERS
    assert tokenizer.encode_prompt("").tolist() == [0]  # a newline, as nanoGPT's sample.py begins
    with pytest.raises(TokenizerError, match="'z'"):
        tokenizer.encode("z")


def test_characters_of_the_dataset_that_the_checkpoint_names(tmp_path, monkeypatch):
    out = ckpt(tmp_path, {"dataset": "tiny_char"})
    assert open_checkpoint(out).tokenizer is None
    (tmp_path / "data" / "tiny_char").mkdir(parents=True)
    (tmp_path / "data" / "tiny_char" / "meta.pkl").write_bytes(pickle.dumps(meta()))
    monkeypatch.chdir(out)
    for path in (out, out / "ckpt.pt", "ckpt.pt"):
        assert open_checkpoint(path).tokenizer.characters == CHARACTERS
    ended = command("sample", "--model", ".", "--max-new-tokens", 5, "--greedy", cwd=out)
    assert (ended.code, ended.out) == (0, "\n" * 6)  # zeros: always the first character; and an end


@pytest.mark.parametrize("dataset", ["../secret", "/secret", "..", "", "a\0b", "x" * 200])
def test_a_dataset_that_is_no_plain_name_is_not_looked_for(tmp_path, dataset):
    out = ckpt(tmp_path, {"dataset": dataset})
    for folder in (tmp_path / "secret", tmp_path / "data"):
        folder.mkdir()
        (folder / "meta.pkl").write_bytes(b"never read")
    assert open_checkpoint(out).tokenizer is None


@pytest.mark.parametrize("to", ["huggingface", "safetensors", "gguf"])
def test_characters_without_an_end_of_text_are_kept_by_other_formats(tmp_path, to):
    characters = CharTokenizer("abc", has_end_of_text=False)
    save(GPT(GPTConfig(3, 6, 1, 1, 2)), tmp_path / "a", to, tokenizer=characters)
    assert open_checkpoint(tmp_path / "a").tokenizer.to_dict() == characters.to_dict()


class Evil:
    def __reduce__(self):
        return print, ("run",)


BAD_METAS = {
    "a program": (pickle.dumps(meta(itos=Evil()), 2), r"byte \d+: it asks for '(__builtin__|builtins).print'"),
    "a program in protocol 4": (pickle.dumps(meta(itos=Evil()), 4), r"byte \d+: "),
    "cut off": (pickle.dumps(meta())[:-3], r"byte \d+: "),
    "more after it": (pickle.dumps(meta()) + b".", "1 bytes after the pickle"),
    "large": (bytes(2_000_000), "larger than 1,048,576 bytes"),
    "a list": (pickle.dumps([meta()]), "vocab_size, itos with a character"),
    "words": (pickle.dumps(meta(["a", "bc"])), "vocab_size, itos with a character"),
    "a hole": (pickle.dumps(meta(itos={0: "a", 2: "b"})), "vocab_size, itos with a character"),
    "another size": (pickle.dumps(meta(vocab_size=9)), "vocab_size, itos with a character"),
    "no ids": (pickle.dumps(meta(vocab_size=0, itos=None, stoi={})), "vocab_size, itos with a character"),
    "fewer than none": (pickle.dumps(meta(vocab_size=-3, itos=5)), "vocab_size, itos with a character"),
    "another order": (pickle.dumps(meta("ba")), "must be sorted"),
    "stoi of another": (pickle.dumps(meta(stoi={"a": 0})), "and stoi, its inverse"),
    "another dataset's": (pickle.dumps(meta("abc")), "3 ids, and the model has 8: it is another dataset's"),
    "half a character": (pickle.dumps(meta(["a", "\ud800"])), r"byte \d+: a string that is not UTF-8|damaged"),
    "nested tuples": (
        b"\x80\x02}(X\x0a\0\0\0vocab_sizeK\x01X\x04\0\0\0itos}K\0)" + b"\x85" * 10**6 + b"sX\x04\0\0\0stoi}u.",
        "vocab_size, itos with a character",
    ),
    "deep": (b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".", ""),
}


@pytest.mark.parametrize("case", BAD_METAS)
def test_bad_metas(tmp_path, case, capsys):
    content, place = BAD_METAS[case]
    size = {"another order": 2, "words": 2, "half a character": 2, "a hole": 2}.get(case, len(CHARACTERS))
    out = ckpt(tmp_path, vocab_size=size)
    (out / "meta.pkl").write_bytes(content)
    with pytest.raises(CheckpointError, match=f"^{re.escape(str(out / 'meta.pkl'))}: .*({place})") as caught:
        _ = open_checkpoint(out).tokenizer
    assert len(str(caught.value)) < 300 + len(str(out))
    assert capsys.readouterr().out == ""
    load(out)  # the weights are fine


def test_texts_of_such_characters_are_not_joined_without_a_separator(tmp_path):
    characters = CharTokenizer("abc", has_end_of_text=False)
    (tmp_path / "a.txt").write_text("abc")
    assert read_corpus(tmp_path / "a.txt", characters).tokens.tolist() == [0, 1, 2]
    (tmp_path / "b.txt").write_text("cab")
    with pytest.raises(DataError, match=r"no <\|endoftext\|> to separate documents"):
        read_corpus(tmp_path, characters)
