"""A run that was stopped and goes on gives what an unbroken one gives: weights, optimizer, state and log, bit for bit.

It is stopped in every way: Ctrl-C at each place where it can come, in a process of its own, twice, kill -9.
"""

import json
import signal
import subprocess
import sys

import pytest
from conftest import TEXT
from helpers.commands import (
    CONSTANT_LR,
    TINY,
    Ended,
    assert_refused,
    command,
    everything,
    metrics,
    refused,
    train,
)

from npgpt import GPT
from npgpt.checkpoints import runs
from npgpt.training import execute, plan
from npgpt.training.evaluation import Evaluation

# Epochs of 17 windows, so 4 1/4 steps of 2 batches of 2; evaluations of 4 batches after 0, 3, 6 and 7 steps, samples
# after 0, 2, 4, 6 and 7.
RUN = ("text.txt", *TINY, "--stride", 25, "--grad-accum", 2, "--dropout", 0.2, "--max-steps", 7, "--eval-every", 3)
RUN += ("--eval-batches", 2, "--sample-every", 2, "--sample-tokens", 3, "--log-every", 2, "--seed", 3)
LOSSES = 7 * 2 + 4 * 4  # how often the loss of a batch is computed in it


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    (folder / "text.txt").write_text(TEXT)
    run, ended = train(folder, *RUN)
    assert "17 windows of 8 tokens, 4.2 steps an epoch, 7 steps" in ended.err
    return everything(run)


@pytest.fixture
def interrupt(monkeypatch):
    """interrupt(n) presses Ctrl-C while the loss is computed for the n-th time from now."""
    calls = {"left": 0}
    loss = GPT.loss

    def counted(self, *batch):
        calls["left"] -= 1
        if calls["left"] == 0:
            signal.raise_signal(signal.SIGINT)
        return loss(self, *batch)

    monkeypatch.setattr(GPT, "loss", counted)
    monkeypatch.setattr(execute, "compile_for_training", lambda *of, **options: None)  # it would call loss, too
    return lambda n: calls.update(left=n)


def stopped(ended: Ended, number=signal.SIGINT) -> bool:
    """Whether a run has stopped as it should, and said how to go on; False if it went to its end."""
    if ended.out:
        assert ended.code == 0, ended
        return False
    assert ended.code == 128 + number, ended
    *_, last = ended.err.splitlines()
    assert "stopping after this step" in ended.err
    assert last.startswith("stopped after step ")
    assert last.endswith("; resume with: python -m npgpt.train --resume runs/text")
    return True


@pytest.mark.parametrize("place", range(1, LOSSES + 1))
def test_stopped_once_wherever_that_is(folder, interrupt, unbroken, place):
    """In an evaluation (the first, one in between, the last), in a step's first batch and in its second."""
    interrupt(place)
    assert stopped(command("train", *RUN, cwd=folder))
    interrupt(0)
    ended = command("train", "--resume", cwd=folder)
    assert ended.out.startswith("trained 7 steps")
    assert everything(folder / "runs" / "text") == unbroken


@pytest.mark.parametrize("places", [5, 6, 7])
def test_stopped_again_and_again(folder, interrupt, unbroken, places):
    """An evaluation takes the loss of four batches, so five places further there is always something done."""
    interrupt(places)
    ended = command("train", *RUN, cwd=folder)
    times = 0
    while stopped(ended):
        times += 1
        interrupt(places)
        ended = command("train", "--resume", "runs/text", cwd=folder)
    assert times >= 4
    assert everything(folder / "runs" / "text") == unbroken


def test_what_may_change(folder, interrupt, unbroken):
    """The log and the samples, as it says; the weights stay those of the unbroken run."""
    interrupt(9)
    assert stopped(command("train", *RUN, cwd=folder))
    interrupt(0)
    typed = ("--sample-every", 0, "--log-every", 1, "--eval-every", 3, "--sample-prompt", "jury", "--patience", 9)
    assert command("train", "--resume", "runs/text", *typed, cwd=folder).code == 0
    run = folder / "runs" / "text"
    assert everything(run)["arrays"] == unbroken["arrays"]
    assert [line["step"] for line in metrics(run, "train")] == [1, 2, 4, 5, 6, 7]
    assert [line["step"] for line in metrics(run, "sample")] == [0, 2]
    stored = json.loads((run / "config.json").read_text())
    assert (stored["training"]["log_every"], stored["training"]["patience"]) == (1, 9)
    assert (stored["plan"]["eval_every"], stored["plan"]["sample_every"], stored["plan"]["sample_prompt"]) == (
        3,
        0,
        "jury",
    )


def test_more_steps(folder):
    """A finished run goes on when it is told to; with a constant learning rate, as if it had been told so at once."""
    common = (*RUN, "--lr", 0.01, "--decay-steps", 5)
    run, _ = train(folder, *common, "--max-steps", 6)
    ended = command("train", "--resume", "--max-steps", 12, cwd=folder)
    assert ended.out.startswith("trained 12 steps")
    assert "\nto step 12 (was 6); learning rate 1.0e-03 now, 1.0e-03 at the end\n" in ended.err
    at_once, _ = train(folder, *common, "--max-steps", 12)
    assert everything(run) == everything(at_once)
    assert command("train", "--resume", run, "--epochs", 4, cwd=folder).out.startswith("trained 17 steps")


def test_more_steps_do_not_throw_the_learning_rate_up(folder, interrupt):
    """Also when the longer run is stopped and resumed once more; stretching the schedule has to be asked for."""
    run, _ = train(folder, *RUN, "--lr", 0.01, "--warmup", 0, "--log-every", 1)
    interrupt(3)
    assert stopped(command("train", "--resume", "--max-steps", 14, cwd=folder))
    interrupt(0)
    ended = command("train", "--resume", cwd=folder)
    assert "learning rate" not in ended.err
    rates = [line["lr"] for line in metrics(run, "train")]
    assert rates[:8] == sorted(rates[:8], reverse=True)
    assert rates[7:] == [pytest.approx(0.001)] * 7
    ended = command("train", "--resume", "--max-steps", 21, "--decay-steps", 21, cwd=folder)
    assert "to step 21 (was 14); learning rate 3.3e-03 now, 1.1e-03 at the end" in ended.err


def test_more_steps_for_a_run_that_was_too_short_for_its_warm_up(folder):
    """It goes on as if it had been told so at once: up to --lr, then down to --min-lr at the new end."""
    common = (*RUN, "--lr", 0.01, "--warmup", 10)
    run, ended = train(folder, *common, "--max-steps", 6)
    assert "warning: --warmup takes 10 steps, and the schedule fewer: --lr is never reached" in ended.err
    assert command("train", "--resume", "--max-steps", 9, cwd=folder).code == 0
    ended = command("train", "--resume", "--max-steps", 16, cwd=folder)
    assert "\nto step 16 (was 9); learning rate 1.0e-02 now, 1.6e-03 at the end\n" in ended.err
    at_once, _ = train(folder, *common, "--max-steps", 16)
    assert everything(run)["arrays"] == everything(at_once)["arrays"]


def test_a_schedule_that_was_ended_early_is_not_stretched(folder):
    """--decay-steps on resume may be below the default warm-up, which is long over."""
    run, _ = train(folder, *RUN, "--lr", 0.01, "--max-steps", 40, "--log-every", 1)
    for typed in (("--max-steps", 42, "--decay-steps", 1), ("--max-steps", 44)):
        assert command("train", "--resume", run, *typed, cwd=folder).code == 0
    assert [line["lr"] for line in metrics(run, "train")][40:] == [pytest.approx(0.001)] * 4


def test_fewer_steps_keep_the_schedule(folder, interrupt):
    interrupt(9)
    assert stopped(command("train", *RUN, "--lr", 0.01, "--warmup", 0, "--log-every", 1, cwd=folder))
    interrupt(0)
    ended = command("train", "--resume", "--max-steps", 5, cwd=folder)
    assert "to step 5 (was 7); learning rate 6.5e-03 now, 4.5e-03 at the end" in ended.err
    assert metrics(folder / "runs" / "text", "train")[-1]["step"] == 5


def test_the_stored_plan_counts_whatever_the_defaults_are_by_then(folder, interrupt, monkeypatch):
    typed = ("text.txt", *TINY, "--seed", 3, "--max-steps", 40, "--sample-tokens", 3)
    whole, _ = train(folder, *typed, "--out", "whole")
    interrupt(60)
    assert stopped(command("train", *typed, cwd=folder))
    interrupt(0)
    for name in ("MAX_STEPS", "WARMUP_PART", "MIN_LR_PART", "EVAL_PART"):
        monkeypatch.setattr(plan, name, 3)
    assert command("train", "--resume", cwd=folder).code == 0
    assert everything(folder / "runs" / "text") == everything(whole)


def test_a_run_that_was_stopped_early_goes_on_to_the_next_evaluation(folder, monkeypatch):
    monkeypatch.setattr(
        Evaluation, "losses", lambda self, step, stopped: setattr(self, "last_step", step) or {"val": 1}
    )
    run, ended = train(folder, *RUN, "--eval-every", 2, "--max-steps", 9, "--patience", 1)
    assert "trained 4 steps" in ended.out
    for _ in range(2):
        ended = command("train", "--resume", run, cwd=folder)
    assert "trained 8 steps" in ended.out
    assert "without progress in 3 evaluations" in ended.out


def test_a_run_of_a_version_that_kept_no_progress_apart_from_the_best_loss(folder):
    """What counts as progress is then measured from the best loss, as it was there."""
    typed = ("text.txt", *TINY, "--sample-every", 0, "--eval-every", 2, "--patience", 3, "--min-delta", 0.5)
    run, _ = train(folder, *typed, "--max-steps", 2)
    path, (weights, moments, state) = run / "last.safetensors", runs.load_checkpoint(run / "last.safetensors")
    best = state["early_stopping"]["best"]
    del state["early_stopping"]["reference"]
    arrays = ({name: array.copy() for name, array in part.items()} for part in (weights, moments))
    runs.save_checkpoint(path, *arrays, state, runs.read_run_config(run)[0])
    assert command("train", "--resume", run, "--max-steps", 4, cwd=folder).code == 0
    assert runs.load_checkpoint(path)[2]["early_stopping"]["reference"] == best


# Processes


def start(folder, *arguments, code="from npgpt.train import main; from npgpt.process import run; run(main)"):
    """A training process whose lines on stderr can be waited for."""
    typed = [sys.executable, "-c", f"import sys; {code}", *map(str, arguments)]
    return subprocess.Popen(typed, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(training, words):
    for line in training.stderr:
        if words in line:
            return
    raise AssertionError(f"{words!r} never came")


# With a constant learning rate the first steps of a long run are those of a short one.
LONG = (
    "text.txt",
    *TINY,
    *CONSTANT_LR,
    "--decay-steps",
    1,
    "--dropout",
    0.2,
    "--log-every",
    1,
    "--eval-every",
    2,
    "--sample-every",
    0,
)


def goes_on_as_unbroken(folder, *changed):
    """runs/text, wherever it was left, two steps further is a run that was unbroken until there."""
    run = folder / "runs" / "text"
    step = runs.load_checkpoint(run / "last.safetensors")[2]["step"] + 2
    assert command("train", "--resume", "runs/text", "--max-steps", step, *changed, cwd=folder).code == 0
    assert command("train", *LONG, "--max-steps", step, cwd=folder).code == 0
    assert everything(run) == everything(folder / "runs" / "text-2")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_process(folder, number):
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("nohup: the tests were started so that a hang-up is ignored")
    training = start(folder, *LONG, "--max-steps", 10**6)
    wait_for(training, "  lr ")
    training.send_signal(number)
    out, err = training.communicate(timeout=60)
    assert stopped(Ended(training.returncode, out, "stopping after this step\n" * ("stopping" in err) + err), number)
    goes_on_as_unbroken(folder)


def test_a_second_signal_ends_at_once(folder):
    """While it writes a sample of a million tokens, so that there is time for it."""
    assert command("train", *LONG, "--max-steps", 2, cwd=folder).code == 0
    run = folder / "runs" / "text"
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    changed = ("--max-steps", 9, "--eval-every", 9, "--sample-every", 3, "--sample-tokens", 10**6)
    training = start(folder, "--resume", *changed)
    wait_for(training, "3/9  loss")
    training.send_signal(signal.SIGINT)
    wait_for(training, "stopping after this step (again to stop at once, without saving)")
    training.send_signal(signal.SIGINT)
    out, err = training.communicate(timeout=60)
    assert (training.returncode, out, err) == (130, "", "stopped\n")
    for name in ("last.safetensors", "best.safetensors", "tokenizer.json"):
        assert (run / name).read_bytes() == before[name]
    goes_on_as_unbroken(folder, "--eval-every", 2, "--sample-every", 0, "--sample-tokens", 40)


@pytest.mark.parametrize("line", [3, 20, 37])
def test_kill(folder, line):
    """A kill at any moment, most of them while it writes: this run saves all the time."""
    code = "from npgpt.training import saver; saver.PART = saver.SAVE_EVERY = 0; from npgpt.train import main; main()"
    training = start(folder, *LONG, "--max-steps", 10**6, code=code)
    for _ in range(line):
        wait_for(training, "train loss")
    training.kill()
    training.communicate()
    assert training.returncode == -signal.SIGKILL
    assert metrics(folder / "runs" / "text", "eval")[line - 1]
    goes_on_as_unbroken(folder)
    *others, kept, tokenizer = sorted(path.name for path in (folder / "runs" / "text").iterdir())
    assert others == [
        ".lock", "best.safetensors", "config.json", "last.safetensors", "metrics.csv", "metrics.jsonl", "report.html",
    ]  # fmt: skip
    assert kept.startswith("step-")
    assert tokenizer == "tokenizer.json"


def test_settings_that_a_run_keeps(folder):
    """The advice is what a new run takes."""
    train(folder, *LONG, "--max-steps", 2)
    words = [
        "a resumed run keeps these settings: leave out --batch-size, --lr.\n",
        "begin a new run: with TEXT --init-from RUN it starts from this one's model",
    ]
    refused("train", "--resume", "runs/text", "--lr", 1, "--batch-size", 3, cwd=folder, words=words)
    train(folder, "text.txt", "--init-from", "runs/text", "--lr", 1, "--batch-size", 3, "--max-steps", 1)


def test_a_run_without_its_state(folder):
    """As earlier versions left it when they were killed early."""
    run, _ = train(folder, *LONG, "--max-steps", 2, "--keep", 0)
    (run / "last.safetensors").unlink()
    words = [
        "had not saved its state yet",
        "begin anew from its weights: python -m npgpt.train TEXT --init-from runs/text",
    ]
    refused("train", "--resume", "runs/text", cwd=folder, words=words)
    refused("train", "--resume", cwd=folder, words=["there is no run in runs/"])
    (run / "best.safetensors").unlink()
    refused("train", "--resume", "runs/text", cwd=folder, words=["has not saved its state yet"])


def test_a_run_in_progress_can_be_resumed_once_it_is_killed_even_in_its_first_seconds(folder):
    training = start(folder, *LONG, "--max-steps", 10**6)
    wait_for(training, "1/1000000  loss")
    ended = command("train", "--resume", cwd=folder)
    training.kill()
    training.communicate()
    assert_refused(ended, f"runs/text: this run is in progress (process {training.pid})")
    goes_on_as_unbroken(folder)
