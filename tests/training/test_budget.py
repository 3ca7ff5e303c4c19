"""A rehearsal changes nothing, the steps chosen end in time, and a run by the clock goes on as any other run."""

import json
import os
import re
import resource
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.commands import TINY, command, everything, refused, train

from npgpt import GPT, GPTConfig
from npgpt.config import PRESETS
from npgpt.errors import ConfigError
from npgpt.gpt import parameter_count, parameter_shapes
from npgpt.kernels.precision import get_matmul_precision
from npgpt.training import begin, budget, execute, memory, rehearsal
from npgpt.training.budget import choose_preset, choose_steps
from npgpt.training.memory import available_bytes, resident_bytes, step_bytes
from npgpt.training.pace import Pace
from npgpt.training.plan import Plan
from npgpt.training.progress import Progress
from npgpt.training.settings import TrainSettings

RUN = ("text.txt", *TINY, "--dropout", 0.2, "--grad-accum", 2, "--sample-tokens", 3, "--max-steps", 24)
PACE = Pace(step=0.01, evaluation=0.02, sample=0.01, save=0.05)


def test_a_rehearsal_changes_nothing(folder, monkeypatch):
    rehearsed, ended = train(folder, *RUN)
    assert re.search(r"\ntime:  about \d+:\d\d for 24 steps, 768 tokens \(", ended.err)
    monkeypatch.setattr(execute, "MAX_STEPS_UNTIMED", 24)
    run, ended = train(folder, *RUN)
    assert "time:" not in ended.err
    assert everything(run) == everything(rehearsed)


def test_a_run_that_has_begun_is_not_rehearsed(folder, monkeypatch):
    with monkeypatch.context() as slow:
        slow.setattr(Progress, "state_dict", lambda self: {"elapsed": 240.0})
        run, _ = train(folder, *RUN)
    monkeypatch.setattr(execute, "rehearse", None)
    monkeypatch.setattr(execute, "MIN_STEPS_TIMED", 24)
    ended = command("train", "--resume", run, "--max-steps", 36, cwd=folder)
    assert "\ntime:  about 2:00 for 12 steps, 384 tokens (as fast as before)\n" in ended.err


def test_the_steps_that_end_in_time():
    def plan_of(steps):
        return TrainSettings(max_steps=steps).resolve(n_windows=9, context=8)

    for seconds in (0.0, 1.0, 7.0, 60.0, 3600.0):
        steps = choose_steps(plan_of, PACE, seconds)
        enough = seconds * (1 - budget.MARGIN)
        assert steps == 1 or PACE.seconds(plan_of(steps)) <= enough
        assert PACE.seconds(plan_of(steps + 1)) > enough
    saves = PACE.seconds(plan_of(steps)) - steps * 0.01 - 11 * 0.03 - 10 * 0.05 / 3
    assert saves == pytest.approx(0.05 * enough / 60, abs=0.11)  # a minute apart


def test_a_run_by_the_clock_is_the_run_of_its_steps(folder, monkeypatch):
    """What is chosen is stored: it is the same run as with --max-steps, also when it is stopped and goes on.

    What the process has spent until the choice, on kernels and the rehearsal, is part of the time.
    """
    now = [0.0]

    def rehearse(run, stopped):
        now[0] += 4.0
        return PACE

    monkeypatch.setattr(execute, "rehearse", rehearse)
    monkeypatch.setattr(execute.time, "monotonic", lambda: now[0])
    by_clock = (*RUN[:-2], "--time-budget", "5s", "--schedule", "wsd")
    run, ended = train(folder, *by_clock)
    stored = json.loads((run / "config.json").read_text())
    steps = stored["plan"]["max_steps"]
    assert 5 < steps < 97  # of the one second that was left
    assert f" steps an epoch, {steps} steps\n" in ended.err
    assert (stored["plan"]["time_budget"], stored["plan"]["decay_steps"]) == (0.0, steps)
    same, _ = train(folder, *RUN[:-1], steps, "--schedule", "wsd")
    found, expected = everything(run), everything(same)
    for asked in (found, expected):
        del asked["config"]["training"]["time_budget"], asked["config"]["training"]["max_steps"]
    assert found == expected
    monkeypatch.setattr(execute, "rehearse", None)
    assert command("train", "--resume", run, "--max-steps", steps + 2, cwd=folder).code == 0


def test_a_run_that_was_stopped_before_its_steps_were_chosen(folder, monkeypatch):
    monkeypatch.setattr(execute, "rehearse", lambda run, stopped: (_ for _ in ()).throw(KeyboardInterrupt))
    assert command("train", *RUN[:-2], "--time-budget", "1s", cwd=folder).code == 130
    monkeypatch.setattr(execute, "rehearse", lambda run, stopped: PACE)
    monkeypatch.setattr(execute.time, "monotonic", lambda: 0.0)
    assert command("train", "--resume", cwd=folder).code == 0
    run = folder / "runs" / "text"
    assert json.loads((run / "config.json").read_text())["plan"]["max_steps"] > 5


def test_a_schedule_that_was_never_made_is_not_kept(folder, monkeypatch):
    monkeypatch.setattr(execute, "rehearse", lambda run, stopped: (_ for _ in ()).throw(KeyboardInterrupt))
    assert command("train", *RUN[:-2], "--time-budget", "1s", cwd=folder).code == 130
    monkeypatch.setattr(execute, "rehearse", lambda run, stopped: PACE)
    assert command("train", "--resume", "--max-steps", 40, "--sample-prompt", "Hello", cwd=folder).code == 0
    plan = json.loads((folder / "runs" / "text" / "config.json").read_text())["plan"]
    expected = TrainSettings(max_steps=40).resolve(1, 1)
    assert [plan[name] for name in ("max_steps", "decay_steps", "warmup")] == [40, 40, expected.warmup]
    assert (plan["time_budget"], plan["sample_prompt"]) == (0, "Hello")


# Presets


@pytest.mark.parametrize(
    ("speed", "free", "name"),
    [
        (1e9, 1e15, "nano"),  # floating-point operations a second
        (1e13, 1e15, "mini"),
        (1e14, 1e15, "small"),
        (1e15, 1e15, "gpt2"),
        (1e20, 1e15, "gpt2-xl"),
        (1e20, 6e9, "gpt2"),  # gpt2-medium with its moments and activations doesn't fit in
        (1e20, 1e6, "nano"),
    ],
)
def test_the_preset_goes_by_the_time(monkeypatch, speed, free, name):
    monkeypatch.setattr(budget, "_product_seconds", lambda M, K, N: 2 * M * K * N / speed)
    monkeypatch.setattr(budget, "available_bytes", lambda: free)
    assert choose_preset(TrainSettings(batch_size=2), 50257, seconds=3600) == name


@pytest.mark.parametrize(("speed", "vocab_size"), [(5e11, 50257), (1e11, 257)])
def test_the_preset_goes_by_the_parameters_outside_the_embeddings_and_by_the_vocabulary(monkeypatch, speed, vocab_size):
    """At 5e11 nano's own embeddings of GPT-2's tokens would ask for more; at 1e11 mini's products with 50,257 would."""
    monkeypatch.setattr(budget, "_product_seconds", lambda M, K, N: 2 * M * K * N / speed)
    monkeypatch.setattr(budget, "available_bytes", lambda: 1e15)
    assert choose_preset(TrainSettings(batch_size=2), vocab_size, seconds=3600) == "mini"


def test_presets_that_do_not_go_with_other_flags_are_passed_over(monkeypatch):
    monkeypatch.setattr(budget, "_product_seconds", lambda M, K, N: 2 * M * K * N / 1e9)
    assert choose_preset(TrainSettings(batch_size=2, n_head=12), 257, seconds=3600) == "small"
    with pytest.raises(ConfigError, match=r"no preset goes with the other flags\. Of the largest: .*1600.*by 11"):
        choose_preset(TrainSettings(batch_size=2, n_head=11), 257, seconds=3600)


def test_a_preset_by_the_time(folder, monkeypatch):
    refused("train", "text.txt", "--preset", "auto", cwd=folder, words=["--preset auto goes by the time: give"])
    precisions = []

    def choose(settings, vocab_size, seconds):
        precisions.append(get_matmul_precision())
        return "nano"

    monkeypatch.setattr(begin, "choose_preset", choose)
    monkeypatch.setattr(execute, "rehearse", lambda run, stopped: replace(PACE, step=0.5))
    typed = ("--tokenizer", "byte", "--preset", "auto", "--n-layer", 1, "--time-budget", "1s", "--batch-size", 1)
    typed += ("--context", 8, "--sample-tokens", 2, "--matmul-precision", "medium")
    run, ended = train(folder, "text.txt", *typed)
    assert precisions == ["medium"], "measured in another precision than the run's"
    assert "preset nano: the largest that --time-budget is long enough for\n" in ended.err
    assert json.loads((run / "config.json").read_text())["model"]["n_embd"] == 64
    assert command("train", "--resume", run, "--max-steps", 3, cwd=folder).code == 0


# Sizes


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_are_counted_without_making_them(name):
    for changes in (
        {},
        {"bias": False},
        {"tie_weights": False, "qkv_bias": False},
        {"position": "rotary", "n_inner": 5},
    ):
        config = GPTConfig.preset(name, **changes)
        shapes = parameter_shapes(config)
        assert parameter_count(config) == sum(int(np.prod(shape)) for shape in shapes.values())
        inside = [shape for n, shape in shapes.items() if not n.startswith(("wte", "wpe", "lm_head"))]
        assert parameter_count(config, embeddings=False) == sum(int(np.prod(shape)) for shape in inside)


def test_what_a_step_keeps_is_what_is_counted():
    """The activations that a model holds between the passes, counted as arrays: one more block's are 8 C + 2 I each."""
    import tracemalloc

    def kept(layers):
        model = GPT(GPTConfig(vocab_size=50, block_size=64, n_layer=layers, n_head=2, n_embd=32, n_inner=96))
        ids = np.zeros((4, 64), np.int64)
        model.loss(ids, ids).backward()  # what is made once is made
        tracemalloc.start()
        hidden = model.hidden_states(ids)
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        del hidden
        return size

    counted = 4 * 64 * (8 * 32 + 2 * 96) * 4
    assert kept(3) - kept(2) == pytest.approx(counted, rel=0.05)


def test_less_memory_with_recompute_and_more_with_accumulation():
    config = GPTConfig.preset("small")
    model = GPT.empty(config)
    usual = step_bytes(model, 8, 256, accumulates=False)
    assert step_bytes(model, 8, 256, accumulates=True) == usual + 4 * parameter_count(config)
    model.recompute = True
    assert step_bytes(model, 8, 256, accumulates=False) < 0.8 * usual


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="only Linux tells")
def test_what_the_system_says_of_memory():
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert total / 1000 < available_bytes() <= total  # in bytes, though the system counts in kB
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert 20e6 < resident_bytes() < 1.1 * peak  # what is reserved, and not used, is much more


def test_the_memory_that_is_available_is_more_than_the_free(monkeypatch):
    told = "MemTotal: 900 kB\nMemFree: 100 kB\nMemAvailable: 300 kB\n"
    monkeypatch.setattr(memory, "Path", lambda path: SimpleNamespace(read_text=lambda encoding: told))
    assert available_bytes() == 300 * 1024


def test_pace_by_hand():
    plan = Plan(8, 100, 1e-3, 0, 1e-4, 100, eval_every=100, sample_every=0, sample_prompt="")
    assert Pace(1.0, 0.0, 9.0, 0.0).seconds(plan) == 100
    assert Pace(1.0, 5.0, 9.0, 0.0).seconds(plan) == 110  # before the first step and after the last
    assert Pace(1.0, 5.0, 9.0, 0.0).seconds(replace(plan, eval_every=30)) == 125
    assert Pace(1.0, 0.0, 9.0, 0.0).seconds(replace(plan, sample_every=50)) == 127
    assert Pace(1.0, 0.0, 0.0, 0.0, line=2.0, log_every=10).seconds(plan) == 100 + 11 * 2.0
    assert Pace(1.0, 0.0, 0.0, 3.0).seconds(plan) == 100 + 1 + 2 * 3.0  # the best, one on the way, the last
    slow = Pace(10.0, 0.0, 0.0, 30.0)  # a save takes at most a twentieth of the time: after 600 seconds, not 60
    assert slow.seconds(plan) == 1000 + 10 + 2 * 30.0


def test_what_takes_longer_than_its_rehearsal(folder, monkeypatch):
    """Of an evaluation one batch is rehearsed, of a sample the first tokens."""
    monkeypatch.chdir(folder)
    sizes = {"tokenizer": "byte", "preset": "nano", "context": 8, "batch_size": 2}
    run = begin.prepare(TrainSettings(texts=("text.txt",), **sizes, eval_batches=3, sample_tokens=20))
    run.saver = SimpleNamespace(seconds=7.0)
    seconds = iter([0.5, 2.0, 1.0, 4.0])  # a line, a batch, a passage, eight tokens
    monkeypatch.setattr(rehearsal, "_second_time", lambda part, stopped: next(seconds))
    monkeypatch.setattr(rehearsal, "take_step", lambda run, lr: None)
    pace = rehearsal.rehearse(run, lambda: False)
    batches = {name: len(split) for name, split in run.evaluation.splits.items()}
    assert batches == {"train": 3, "val": 3}
    assert (pace.line, pace.evaluation, pace.sample, pace.save) == (0.5, 6 * 2.0 + 1.0, 10.0, 7.0)


def test_what_can_not_be_rehearsed(folder, monkeypatch):
    monkeypatch.chdir(folder)
    run = begin.prepare(TrainSettings(texts=("text.txt",), preset="nano", tokenizer="byte", batch_size=1, context=8))
    run.optimizer.steps = 1
    with pytest.raises(ValueError, match="its moments would change"):
        rehearsal.rehearse(run, lambda: False)
    run.optimizer.steps = 0
    assert rehearsal.rehearse(run, lambda: True) is None
    with pytest.raises(ConfigError, match="both say how long"):
        TrainSettings(time_budget=3.0, epochs=1.0)
