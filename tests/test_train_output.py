"""python -m npgpt.train: what it writes and says."""

import json
import math
import re

import pytest
from conftest import TEXT
from helpers.commands import RUN, command, metrics, train

from npgpt import load
from npgpt.generation import Token
from npgpt.training import evaluation, execute


def test_a_new_run_never_takes_an_old_ones_folder(folder):
    (folder / "empty folder").mkdir()
    outs = ([], [], ["--out", "deep/er/run"], ["--out", "empty folder"])
    ends = [command("train", *RUN, *out, cwd=folder).out for out in outs]
    models = [end.split("--model ")[1] for end in ends]
    assert models == ["runs/text\n", "runs/text-2\n", "deep/er/run\n", "'empty folder'\n"]
    assert sorted(path.name for path in folder.iterdir()) == ["deep", "empty folder", "runs", "text.txt"]


def test_results_go_to_stdout_and_all_else_to_stderr(folder):
    run, ended = train(folder, *RUN, "--max-steps", 20, "--log-every", 10, "--sample-every", 10, "--sample-tokens", 5)
    trained, saved = ended.out.splitlines()
    assert re.match(r"trained 20 steps in \d+:\d\d;", trained)
    best = metrics(run, "eval")[-1]["val_loss"]
    assert f"; best validation loss {best:.4f} after step 20" in trained
    assert saved == "saved in runs/text; continue a text with: python -m npgpt.sample --model runs/text"
    lines = ended.err.splitlines()
    assert lines[:3] == [
        "text:  472 characters, 472 tokens (47 for validation)",
        "       53 windows of 8 tokens, 26.5 steps an epoch, 20 steps",
        f"model: {load(run).num_parameters():,} parameters: 1 layers, 2 heads, 8 wide",
    ]
    first = metrics(run)[0]
    assert f" 0/20  train loss {first['train_loss']:.4f}  val loss {first['val_loss']:.4f}" in lines
    step = metrics(run, "train")[1]
    start = f"10/20  loss {step['loss']:.4f}  lr {step['lr']:.1e}  norm {step['grad_norm']:.2f}  160 tok, "
    assert any(line.startswith(start) and line.endswith(" left") for line in lines)
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("flags", "fewer"),
    [(("--warmup", 4), False), (("--warmup", 5), True), (("--warmup", 5, "--decay-steps", 9), True)],
)
def test_a_warm_up_that_never_ends_is_said_to(folder, flags, fewer):
    _, ended = train(folder, *RUN, *flags)  # four steps
    warning = "warning: --warmup takes 5 steps, and the schedule fewer: --lr is never reached\n"
    assert (warning in ended.err, "warning" in ended.err) == (fewer, fewer)


def test_a_runs_time_begins_when_its_kernels_are_compiled(folder, monkeypatch):
    now, compile_kernels, fit = [0.0], execute.compile_for_training, execute.fit

    def compile_slowly(*arguments, **adapter):
        compile_kernels(*arguments, **adapter)
        now[0] += 1000

    def fit_slowly(*arguments):
        now[0] += 7
        return fit(*arguments)

    monkeypatch.setattr(execute, "compile_for_training", compile_slowly)
    monkeypatch.setattr(execute, "fit", fit_slowly)
    monkeypatch.setattr(execute.time, "monotonic", lambda: now[0])
    run, ended = train(folder, *RUN)
    lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    assert {line["seconds"] for line in lines if "seconds" in line} == {7.0}
    assert ended.out.startswith("trained 4 steps in 0:07")


def test_metrics(folder):
    run, _ = train(folder, *RUN, "--sample-every", 2, "--sample-tokens", 3)
    with open(run / "metrics.jsonl", encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    fields = {
        "train": {"loss", "lr", "grad_norm", "tokens", "tokens_per_second", "seconds", "seconds_left"},
        "layers": {"gradient", "weight"},
        "eval": {"train_loss", "val_loss", "tokens", "seconds"},
        "passage": {"pieces", "losses", "activation"},
        "sample": {"text"},
        "process": {"command", "date", "parameters", "machine"},
    }
    for line in lines:
        assert set(line) == {"kind", "step"} | fields[line["kind"]]
        assert all(math.isfinite(v) and v >= 0 for v in line.values() if isinstance(v, int | float))
    assert [(line["step"], line["kind"]) for line in lines] == [
        (0, "process"), (0, "eval"), (0, "passage"), (0, "sample"), (1, "train"), (1, "layers"),
        (2, "train"), (2, "layers"), (2, "eval"), (2, "passage"), (2, "sample"), (3, "train"), (3, "layers"),
        (4, "train"), (4, "layers"), (4, "eval"), (4, "passage"), (4, "sample"),
    ]  # fmt: skip
    assert [line["tokens"] for line in lines if line["kind"] == "train"] == [16, 32, 48, 64]
    assert lines[-5]["seconds_left"] == 0
    (passage,) = {"".join(line["pieces"]) for line in lines if line["kind"] == "passage"}
    assert passage == TEXT[-47:][:9]  # the beginning of the validation part


@pytest.mark.parametrize(
    ("text", "typed", "prompt"),
    [
        (TEXT, None, "The "),
        (TEXT, "jury", "jury"),
        (TEXT, "", ""),
        ("αβγ " * 100, None, "αβ"),  # four bytes
        ("字b " * 100, None, "字b"),
        ("€字 " * 100, None, "€"),  # four bytes are one character and a third
    ],
)
def test_what_samples_begin_with(folder, text, typed, prompt):
    (folder / "text.txt").write_text(text, encoding="utf-8")
    typed = [] if typed is None else ["--sample-prompt", typed]
    run, _ = train(folder, *RUN, "--sample-every", 4, "--sample-tokens", 3, *typed)
    for sample in metrics(run, "sample"):
        assert sample["text"].startswith(prompt)
        assert len(sample["text"]) <= len(prompt) + 3
    assert json.loads((run / "config.json").read_text())["plan"]["sample_prompt"] == prompt


def test_the_first_document_may_be_shorter_than_the_prompt(folder):
    (folder / "a.txt").write_text("Hi")
    run, _ = train(folder, "a.txt", *RUN, "--tokenizer", "char", "--sample-every", 4)
    assert metrics(run, "sample")[0]["text"].startswith("Hi")


def test_a_sample_does_not_end_in_half_a_character(folder, monkeypatch):
    monkeypatch.setattr(evaluation, "stream", lambda *a, **k: (Token(0, byte) for byte in "né€".encode()[:-1]))
    run, ended = train(folder, *RUN, "--sample-every", 4, "--sample-prompt", "a")
    assert [sample["text"] for sample in metrics(run, "sample")] == ["ané", "ané"]
    assert "    | ané\n" in ended.err
