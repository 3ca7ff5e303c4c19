"""The rehearsal: it foresees what a run will meet, and changes nothing."""

import numpy as np
import pytest
from conftest import ROOT, TEXT
from helpers.commands import command

from npgpt import GPTConfig, kernels, load
from npgpt import precompile as rehearsal

# All kernels that a command runs, with their types, must be among those that the rehearsal has noted before.
MEETS_WHAT_IS_NOTED = """
import sys
from npgpt import kernels
from npgpt import precompile as rehearsal
noted, compile_noted = {}, rehearsal.compile_noted
def listen(notes, *others):
    assert not met()
    noted.update(notes)
    compile_noted(notes, *others)
def met():
    modules = [value for name, value in sys.modules.items() if name.startswith("npgpt.kernels.")]
    launched = {id(f): f.dispatcher for m in modules for f in vars(m).values() if hasattr(f, "dispatcher")}
    return {(kernel, types) for kernel in launched.values() for types in kernel.signatures}
rehearsal.compile_noted = listen
from npgpt.COMMAND import main
main()
assert met() and met() <= noted.keys(), [(k.py_func, types) for k, types in met() - noted.keys()]
"""
RUNS = {
    "as a first run": (ROOT / "data" / "the-verdict.txt",),
    # So wide that products of one token's row are made by a kernel, and a vocabulary so small that the head's isn't.
    "one window at a time": (
        *("text.txt", "--tokenizer", "char", "--preset", "nano", "--n-embd", 320, "--batch-size", 1, "--dropout", 0.1),
        *("--position", "rotary", "--activation", "relu", "--no-bias", "--no-tie-weights", "--context", 32),
    ),
    "one head": (
        *("text.txt", "--tokenizer", "byte", "--n-head", 1, "--n-layer", 2, "--n-embd", 96, "--context", 32),
        *("--position", "sinusoidal", "--activation", "gelu", "--grad-accum", 2, "--recompute", "--sample-prompt", "T"),
    ),
}


@pytest.mark.parametrize("arguments", RUNS.values(), ids=RUNS)
def test_a_run_meets_nothing_that_was_not_foreseen(python, tmp_path, arguments):
    (tmp_path / "text.txt").write_text(TEXT)
    typed = [*map(str, arguments), "--max-steps=1", "--eval-batches=1", "--sample-tokens=3"]
    there = f"import os, sys; os.chdir({str(tmp_path)!r}); sys.path.insert(0, {str(ROOT)!r})\n"
    for name, sys_argv in (("train", ["train", *typed]), ("sample", ["sample", "--max-new-tokens", "3"])):
        done = python(there + f"sys.argv = {sys_argv}\n" + MEETS_WHAT_IS_NOTED.replace("COMMAND", name))
        assert done.returncode == 0, done.stderr


CONFIG = GPTConfig(vocab_size=8192, block_size=64, n_layer=3, n_head=2, n_embd=64)


@pytest.fixture
def notes(monkeypatch):
    noted = []
    monkeypatch.setattr(rehearsal, "compile_noted", lambda notes, stop: noted.append((notes, stop)))
    return noted


@pytest.mark.skipif(kernels.BACKEND != "numba", reason="nothing is compiled")
def test_without_samples_theirs_is_not_compiled(notes):
    for prompt in (0, 3):
        rehearsal.compile_for_training(CONFIG, 8, 64, prompt)
    (without, _), (with_them, _) = notes
    assert without.keys() < with_them.keys()


@pytest.mark.skipif(kernels.BACKEND != "numba", reason="nothing is compiled")
def test_a_rehearsal_that_fails_has_noted_what_came_before(notes, monkeypatch):
    monkeypatch.setattr(rehearsal, "AdamW", lambda *of: 1 / 0)
    rehearsal.compile_for_training(CONFIG, 8, 64, 3)
    assert len(notes[0][0]) > 5


def test_the_plain_versions_need_none(notes, monkeypatch):
    monkeypatch.setattr(kernels, "BACKEND", "numpy")
    rehearsal.compile_for_training(CONFIG, 8, 64, 3)
    assert notes == []


def test_a_run_without_one_is_the_same(tmp_path, monkeypatch):
    """And its way to ask whether a stop is wanted arrives."""
    (tmp_path / "text.txt").write_text(TEXT)
    typed = ("text.txt", "--tokenizer", "byte", "--preset", "nano", "--context", 8, "--max-steps", 1, "--dropout", 0.1)
    asked = []
    monkeypatch.setattr("npgpt.training.execute.compile_for_training", lambda *of: asked.append(of))
    without = command("train", *typed, cwd=tmp_path)
    monkeypatch.undo()
    rehearsed = command("train", *typed, cwd=tmp_path)
    assert without.code == rehearsed.code == 0
    one, other = (tmp_path / "runs" / name / "last.safetensors" for name in ("text", "text-2"))
    assert_the_same(load(one).state_dict(), load(other).state_dict())
    ((config, *numbers, stop),) = asked
    assert (config.n_layer, numbers, stop()) == (2, [8, 8, 4], False)


def assert_the_same(one, other):
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)
