"""bench.book_run: a whole training run beside the same one in torch, and when the two may not be compared."""

import json
import math

import pytest
from helpers.running_bench import Stopped, bench, needs_torch, run_with, stop

from bench import book_run


def book_report(seconds=1.0, final=0.4, samples=2, steps=(0, 5), first=10.8):
    losses = {"first_val_loss": first, "best_val_loss": 6.2, "final_train_loss": final, "final_val_loss": 6.3}
    rest = {"peak_memory": 10**9, "samples": samples, "evaluations": [{"step": s} for s in steps]}
    return {"seconds": seconds, **losses, **rest}


def test_a_book_run_with_other_losses_steps_or_samples_makes_a_comparison_void():
    assert book_run.compare([book_report(2.0)], [book_report(3.0, final=0.41)])["ratio"] == 1.5
    for other in ({"final": 0.6}, {"final": math.nan}, {"samples": 1}, {"steps": (0, 4)}, {"first": 10.9}):
        result = book_run.compare([book_report()], [book_report(**other)])
        assert len(result["void"]) == 1
        assert "ratio" not in result


def test_a_book_run_in_bfloat16_may_differ_by_more(monkeypatch, capsys, tmp_path):
    far = [book_report(3.0, final=0.46)]
    sides = {"npgpt": [book_report(2.0)], "torch": far, "torch-autocast": far}
    run_with(monkeypatch, book_run, sides, "--peer=torch,torch-autocast", tmp_path)
    assert book_run.main() == 1
    output = capsys.readouterr().out
    assert "VOID: npgpt and torch did" in output
    assert "npgpt is 1.50 times as fast as torch-autocast" in output
    assert "| torch " not in output
    assert json.loads((tmp_path / "x.json").read_text())["comparisons"]["torch-autocast"]["void"] == []
    run_with(monkeypatch, book_run, sides, "--peer=torch,torch-autocast", "--matmul-precision=high", tmp_path)
    assert book_run.main() == 0


def test_book_run_passes_the_precision_to_npgpt(monkeypatch):
    monkeypatch.setattr(book_run, "run_module", stop)
    with pytest.raises(Stopped) as stopped:
        book_run.run_npgpt(book_run.Settings().training(), "medium")
    assert "--matmul-precision=medium" in stopped.value.args


@needs_torch
def test_book_run_on_nano(tmp_path):
    path = tmp_path / "book.json"
    done = bench("book_run", "--preset=nano", "--context=64", "--epochs=0.5", f"--json={path}")
    assert done.returncode == 0, done.stderr
    results = json.loads(path.read_text())
    ours, theirs = results["sides"]["npgpt"][0], results["sides"]["torch"][0]
    assert [e["step"] for e in ours["evaluations"]] == [0, 5, 10, 15, 18]
    assert ours["samples"] == theirs["samples"] == 3
    assert ours["best_val_loss"] == pytest.approx(theirs["best_val_loss"], rel=1e-4)
