"""Runs that train an adapter: what they store, how they go on, and what the commands make of them."""

import json
import shutil

import numpy as np
import pytest
from conftest import TEXT
from helpers.commands import QUICK, TINY, assert_refused, command, everything, refused, train
from helpers.hub_models import put_in_cache

from npgpt import GPT, load
from npgpt.adapters import attach, load_quantized, open_adapter
from npgpt.adapters.files import METADATA_KEY
from npgpt.checkpoints import open_checkpoint, runs
from npgpt.checkpoints.runs import load_checkpoint
from npgpt.checkpoints.safetensors import read_safetensors, write_safetensors
from npgpt.checkpoints.shared import checksums
from npgpt.model_flags import WhichModel, open_model
from npgpt.training import execute

# Windows of 8 tokens, two micro-batches of 2, dropout in the model and in the adapter.
LORA = ("text.txt", "--init-from", "base", "--lora-rank", 3, "--lora-dropout", 0.2, "--dropout", 0.1, "--lr", 0.2)
LORA += ("--batch-size", 2, "--grad-accum", 2, "--stride", 25, "--max-steps", 6, "--eval-every", 3, "--eval-batches", 2)
LORA += ("--sample-every", 3, "--sample-tokens", 3, "--seed", 3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a base, and with runs lora and nf4 that trained adapters beside it."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text(TEXT)
    train(folder, "text.txt", *TINY, "--max-steps", 30, "--lr", 0.01, "--sample-every", 0, "--out", "base")
    for name, held in (("lora", "f32"), ("nf4", "nf4")):
        _, ended = train(folder, *LORA, "--lora-base", held, "--out", name)
        (folder / f"{name}.log").write_text(ended.err)
    return folder


def logits(model, ids=(72, 101, 32, 106)):
    return model(np.array([ids])).data


EACH = pytest.mark.parametrize("name", ["lora", "nf4"])


@EACH
def test_a_run_stores_the_adapter_its_moments_and_where_the_base_is(trained, name):
    weights, moments, state = load_checkpoint(trained / name / "last.safetensors")
    assert len(weights) == 8
    assert all(key.endswith((".lora.A", ".lora.B")) for key in weights)
    assert moments.keys() == {f"{kind}.{key}" for kind in ("exp_avg", "exp_avg_sq") for key in weights}
    assert state["step"] == 6
    assert runs.read_run_config(trained / name)[0].dropout == 0.1  # the run's, not that of its base
    adapter = open_adapter(trained / name)
    assert adapter.base == str(trained / "base")
    assert len(adapter.checksum) == 64
    assert adapter.base_format == ("nf4" if name == "nf4" else "f32")
    assert all(np.abs(B).max() > 1e-3 for _, B in adapter.matrices.values())  # it has learnt


@EACH
def test_what_a_run_says_before_it_trains(trained, name):
    log = (trained / f"{name}.log").read_text()
    assert "model: 3,008 parameters: 1 layers, 2 heads, 8 wide\n" in log
    held = "frozen, in NF4 and bfloat16" if name == "nf4" else "frozen"
    assert f"       {held}; an adapter of rank 3 beside 4 layers\n" in log
    assert "       384 parameters are trained, 12.77% of that number\n" in log
    assert "\nmemory: about " in log
    process = json.loads((trained / name / "metrics.jsonl").read_text().split("\n")[0])
    assert process["parameters"] == 3008  # in the report, too


@EACH
def test_the_model_of_a_run_is_the_one_that_was_trained(trained, name):
    """The base as it was held, with the adapter."""
    base, adapter = open_checkpoint(trained / "base"), open_adapter(trained / name)
    model = load_quantized(base) if name == "nf4" else load(trained / "base")
    before = logits(model)
    attach(model, adapter)
    found = logits(load(trained / name))
    np.testing.assert_allclose(found, logits(model), rtol=0, atol=1e-5)
    assert np.abs(found - before).max() > 1e-3
    best = logits(load(trained / name, checkpoint="best"))
    assert best.shape == found.shape


@pytest.mark.parametrize("checkpoint", ["last", "best"])
def test_which_of_a_runs_adapters_a_base_gets(trained, checkpoint):
    run = trained / "lora"
    _, found = open_model(WhichModel(model=str(trained / "base"), adapter=str(run), checkpoint=checkpoint))
    assert found.source == run / f"{checkpoint}.safetensors"


@EACH
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(trained, tmp_path, name, monkeypatch):
    monkeypatch.setattr(execute, "compile_for_training", lambda *of, **adapter: None)
    (tmp_path / "text.txt").write_text(TEXT)
    shutil.copytree(trained / "base", tmp_path / "base")
    for place in (9, 16):  # in a step's second batch; in an evaluation
        _interrupted_at(monkeypatch, place)
        ended = command(
            "train", *LORA, "--lora-base", "nf4" if name == "nf4" else "f32", "--out", f"at{place}", cwd=tmp_path
        )
        assert "stopped after step" in ended.err
        _interrupted_at(monkeypatch, 0)
        assert command("train", "--resume", f"at{place}", cwd=tmp_path).out.startswith("trained 6 steps")
        found, expected = everything(tmp_path / f"at{place}"), everything(trained / name)
        assert found["arrays"] == expected["arrays"]
        assert found["state"] == expected["state"]
        assert found["metrics"] == expected["metrics"]


def _interrupted_at(monkeypatch, place):
    """Press Ctrl-C while the loss is computed for the place-th time from now."""
    import signal

    from npgpt.adapters.quantized import QuantizedGPT

    left = [place]

    def counted(loss):
        def of(self, *batch):
            left[0] -= 1
            if left[0] == 0:
                signal.raise_signal(signal.SIGINT)
            return loss(self, *batch)

        return of

    monkeypatch.undo()
    monkeypatch.setattr(execute, "compile_for_training", lambda *of, **adapter: None)
    for model in (GPT, QuantizedGPT):
        monkeypatch.setattr(model, "loss", counted(model.loss))


@pytest.mark.parametrize(("name", "value"), [("lora_alpha", 5.0), ("lora_targets", "c_fc"), ("lora_rank", 2)])
def test_an_adapter_that_is_not_the_one_of_the_runs_settings(trained, tmp_path, name, value):
    """As when a file of another run was put here."""
    (tmp_path / "text.txt").write_text(TEXT)
    shutil.copytree(trained / "lora", tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["training"][name] = value
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    words = ["run/last.safetensors: the adapter is not the one that the run's settings describe"]
    refused("train", "--resume", "run", "--max-steps", 9, cwd=tmp_path, words=words)


def test_sampling(trained):
    typed = ("--max-new-tokens", 60, "--seed", 1, "--prompt", "The")
    alone = command("sample", "--model", "base", *typed, cwd=trained)
    texts = [
        command("sample", *of, *typed, cwd=trained)
        for of in (("--model", "lora"), ("--adapter", "lora"), ("--adapter", "lora/last.safetensors"),
                   ("--model", "base", "--adapter", "lora"))
    ]  # fmt: skip
    assert {(ended.code, ended.out) for ended in texts} == {(0, texts[0].out)}
    assert texts[0].out != alone.out


def test_measuring(trained, tmp_path):
    """An adapter with its base, whichever way the two are named, beside the base alone."""
    (tmp_path / "text.txt").write_text(TEXT[:300])
    figures, ways = [], [("lora", None), (None, "lora"), ("base", "lora")]
    for model, adapter in ways:
        out = tmp_path / f"{model}-{adapter}.json"
        of = [*(("--model", model) if model else ()), *(("--adapter", adapter) if adapter else ())]
        ended = command("evaluate", tmp_path / "text.txt", *of, "--against", "base", "--json", out, cwd=trained)
        assert ended.code == 0, ended
        values = json.loads(out.read_text())
        assert (values["settings"]["model"], values["settings"]["adapter"]) == (model, adapter)
        figures.append(values["results"])
    assert figures[0] == figures[1] == figures[2]
    (result,) = figures[0]
    assert result["against"]["kl_divergence"]["value"] > 0


def test_merging_and_peft(trained, tmp_path):
    for arguments in (("lora", tmp_path / "merged", "--merge"), ("nf4", tmp_path / "q.safetensors", "--merge"),
                      ("lora", tmp_path / "peft", "--to", "peft")):  # fmt: skip
        assert command("convert", *arguments, cwd=trained).code == 0
    np.testing.assert_allclose(logits(load(tmp_path / "merged")), logits(load(trained / "lora")), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(logits(load(tmp_path / "q.safetensors")), logits(load(trained / "nf4")))
    np.testing.assert_array_equal(logits(load(tmp_path / "peft")), logits(load(trained / "lora")))
    for path in (tmp_path / "peft", trained / "lora"):  # the run's own folder is peft's as well
        assert json.loads((path / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
            trained / "base"
        )
    first, second = (
        (path / "adapter_model.safetensors").read_bytes() for path in (tmp_path / "peft", trained / "lora")
    )
    assert first == second
    assert "format      adapter of rank 3 beside run of npgpt" in command("info", "lora", cwd=trained).out


def test_an_adapter_beside_a_model_by_name(trained, tmp_path, monkeypatch):
    """From the hub's cache: the run keeps the name, and finds the model by it again."""
    assert command("convert", trained / "base", "folder", cwd=tmp_path).code == 0
    files = {path.name: path.read_bytes() for path in (tmp_path / "folder").iterdir()}
    put_in_cache(tmp_path / "cache", "openai-community/gpt2", files)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text(TEXT)
    run, _ = train(tmp_path, *LORA, "--init-from", "gpt2", "--max-steps", 2, "--out", "run")
    assert open_adapter(run).base == "gpt2"
    assert command("train", "--resume", "run", "--max-steps", 4, cwd=tmp_path).out.startswith("trained 4 steps")
    assert command("sample", "--model", "run", "--max-new-tokens", 2, cwd=tmp_path).code == 0


def test_an_adapter_beside_what_an_adapter_made(trained, tmp_path):
    """Its base is the merged model, which is not written anywhere."""
    (tmp_path / "text.txt").write_text(TEXT)
    run, _ = train(tmp_path, *LORA, "--init-from", trained / "lora", "--max-steps", 2, "--out", "second")
    model = load(trained / "lora")
    attach(model, open_adapter(run))
    np.testing.assert_allclose(logits(load(run)), logits(model), rtol=0, atol=1e-5)


def test_a_base_that_has_changed_or_is_gone(trained, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    shutil.copytree(trained / "base", tmp_path / "base")
    train(tmp_path, *LORA, "--max-steps", 2, "--out", "run")
    weights = tmp_path / "base" / "last.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes((tmp_path / "base" / "step-000000.safetensors").read_bytes())
    for typed in (("train", "--resume", "run", "--max-steps", 4), ("sample", "--model", "run")):
        refused(*typed, cwd=tmp_path, words=["base", "has changed since the adapter was trained"])
    # A base that is named is taken as it is, with a warning.
    ended = command("sample", "--model", "base", "--adapter", "run", "--max-new-tokens", 2, cwd=tmp_path)
    assert ended.code == 0
    assert "warning: run/last.safetensors was trained beside another model than base/last.safetensors" in ended.err
    weights.write_bytes(whole)
    assert command("sample", "--model", "run", "--max-new-tokens", 2, cwd=tmp_path).code == 0
    (tmp_path / "base").rename(tmp_path / "moved")
    for typed in (("train", "--resume", "run", "--max-steps", 4), ("sample", "--model", "run")):
        refused(*typed, cwd=tmp_path, words=["run/last.safetensors: its base can't be opened"])


def test_an_adapter_that_is_its_own_base(trained, tmp_path):
    shutil.copytree(trained / "lora", tmp_path / "peft")
    for name in ("config.json", "last.safetensors", "best.safetensors"):
        (tmp_path / "peft" / name).unlink()
    config = tmp_path / "peft" / "adapter_config.json"
    values = json.loads(config.read_text())
    for base, words in ((str(tmp_path / "peft"), "is its own base"), (None, "doesn't say which model")):
        config.write_text(json.dumps(values | {"base_model_name_or_path": base}))
        refused("sample", "--model", tmp_path / "peft", cwd=trained, words=[words])


def test_an_adapter_of_another_model(trained, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    train(tmp_path, "text.txt", *QUICK, "--n-embd", 16, "--out", "other")
    refused("sample", "--model", "other", "--adapter", trained / "lora", cwd=tmp_path, words=["it is another model's"])
    train(tmp_path, "text.txt", *QUICK, "--tokenizer", "char", "--out", "characters")
    named = ("--model", "characters", "--adapter", trained / "lora")
    refused("sample", *named, cwd=tmp_path, words=["its tokens are others than those of the adapter"])


MISTAKES = {
    "an adapter of nothing": (("text.txt", "--lora-rank", 2), "name that model, as in --init-from"),
    "no rank": (("text.txt", "--init-from", "base", "--lora-alpha", 2), "give its rank, as in --lora-rank 8"),
    "no layer": ((*LORA, "--lora-targets", "wte"), "'wte' is no linear layer of a block: there are attn.c_attn"),
    "a large rank": ((*LORA, "--lora-rank", 9), "rank 9 is above the size of h.0.attn.c_attn, 8 x 24"),
    "a base that there isn't": ((*LORA, "--lora-base", "int3"), "'int3' is none of f32, nf4"),
    "the base": ((*LORA, "--train-only", "wte"), "'wte' matches no part of the adapter, such as h.0.attn.c_attn"),
    "the base beside a part": ((*LORA, "--train-only", "h.0,wte"), "'wte' matches no part of the adapter"),
    "the base, which is frozen": ((*LORA, "--freeze", "ln_f"), "'ln_f' matches no part of the adapter"),
    "all of it frozen": ((*LORA, "--freeze", "*.lora.*"), "nothing is left to train"),
    "resumed with others": (("--resume", "lora", "--lora-rank", 4), "keeps these settings: leave out --lora-rank"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_in_training(trained, case):
    arguments, words = MISTAKES[case]
    refused("train", *arguments, cwd=trained, words=[words])


@pytest.mark.parametrize(("arguments", "words"), [
    (("lora", "new"), "--merge writes the model"),
    (("base", "new", "--merge"), "is no adapter: there is nothing to --merge"),
    (("base", "new", "--to", "peft"), "is no adapter: neither a run"),
    (("lora", "new", "--to", "peft", "--merge"), "leave out --merge"),
    (("lora", "new", "--to", "peft", "--dtype", "F16"), "leave out --dtype"),
    (("lora", "base", "--to", "peft"), "base is there already"),
    (("lora", "no/new", "--to", "peft"), "no is not a folder that you may write to"),
])  # fmt: skip
def test_mistakes_in_converting(trained, arguments, words):
    assert_refused(command("convert", *arguments, cwd=trained), words)


def described(**changes):
    """Change what the metadata says of the adapter."""

    def change(arrays, metadata):
        values = json.loads(metadata[METADATA_KEY]) | changes
        return arrays, metadata | {METADATA_KEY: json.dumps({k: v for k, v in values.items() if v is not ...})}

    return change


def renamed(new):
    name = "h.0.mlp.c_fc.lora.A"
    return lambda arrays, metadata: ({new if key == name else key: x for key, x in arrays.items()}, metadata)


@pytest.mark.parametrize(("change", "words"), [
    (described(rank=2), "which is the rank, and is F32"),
    (described(rank="3"), "rank must be a whole number"),
    (described(alpha=-6.0), "alpha must be a number above 0"),
    (described(rank=[0] * 10**5), "rank must be a whole number"),
    (described(alpha=10**400), "alpha must be a number above 0"),
    (described(alpha=0), "alpha must be a number above 0"),
    (described(base_format="f31"), "an adapter's description was expected"),
    (described(checksum=...), "an adapter's description was expected"),
    (described(other=1), "an adapter's description was expected"),
    (described(targets=[1]), "an adapter's description was expected"),
    (renamed("h.0.mlp.c_fd.lora.A"), "'h.0.mlp.c_fd.lora.A' is none that npgpt knows"),
    (renamed("h.0.mlp.c_fc.lora.C"), "'h.0.mlp.c_fc.lora.C' is none that npgpt knows"),
    (renamed("h.1.mlp.c_fc.lora.A"), "only one of A and B is there for 'h.0.mlp.c_fc', 'h.1.mlp.c_fc'"),
])  # fmt: skip
def test_files_that_are_no_runs(trained, tmp_path, change, words):
    """Whole files, without checksums, in which something can't be."""
    shutil.copytree(trained / "lora", tmp_path / "run", ignore=shutil.ignore_patterns("best*", "step*"))
    path = tmp_path / "run" / runs.LAST_FILE
    arrays, metadata = read_safetensors(path)
    metadata.pop(checksums.KEY)
    arrays, metadata = change({name: array.copy() for name, array in arrays.items()}, metadata)
    write_safetensors(path, arrays, metadata)
    refused("sample", "--model", "run", cwd=tmp_path, words=[path.name, words])


@pytest.mark.parametrize("place", [b'\\"rank\\": 3', None])
def test_damaged_files_are_noticed(trained, tmp_path, place):
    """In the description, and in an array."""
    shutil.copytree(trained / "lora", tmp_path / "run", ignore=shutil.ignore_patterns("best*", "step*"))
    path = tmp_path / "run" / runs.LAST_FILE
    arrays, _ = read_safetensors(path)
    content = bytearray(path.read_bytes())
    array = arrays["h.0.mlp.c_fc.lora.A"].tobytes()
    content[content.index(place) + 9 if place else content.index(array) + 5] ^= 1
    path.write_bytes(content)
    refused("sample", "--model", "run", cwd=tmp_path, words=["is not what was written: the file is damaged"])
