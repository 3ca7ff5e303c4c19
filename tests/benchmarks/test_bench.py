"""The measurements run, count right, and refuse to compare different work."""

import importlib
import json
import math
import sys

import numpy as np
import pytest
from helpers.running_bench import ROOT, Stopped, bench, needs_torch, run_with, stop

import npgpt
from bench import commandline, step_timing, train_step
from bench.commandline import table
from npgpt import GPT, GPTConfig, kernels
from npgpt.errors import ConfigError

# Counting


def test_flops_of_gpt2():
    gpt2 = GPTConfig.preset("gpt2")
    # 12 blocks with 768 x (2304 + 768 + 3072 + 3072) weights, and the head
    assert train_step.matrix_parameters(gpt2) == 12 * 768 * 9216 + 50257 * 768 == 123_532_032
    for B, T, gflop in ((4, 64, 190.65), (4, 256, 773.47), (4, 1024, 3267.85)):
        assert train_step.step_flops(gpt2, B, T) / 1e9 == pytest.approx(gflop, abs=0.01)


@pytest.mark.parametrize("tie_weights", [True, False])
@pytest.mark.parametrize("prefix", ["", "h.1.", "h.0.", "ln_f", "w", "lm_head", "h.1.attn.c_attn.bias", "h.1.mlp"])
def test_counted_flops_are_those_of_the_products_that_a_step_makes(prefix, tie_weights, monkeypatch):
    config = GPTConfig(vocab_size=11, block_size=8, n_layer=3, n_head=2, n_embd=6, n_inner=10, tie_weights=tie_weights)
    B, T, C, done = 3, 8, 6, []
    matmul, forward, backward = kernels.matmul, kernels.attention_forward, kernels.attention_backward
    causal = B * T * T * C  # one product of attention, half of it: a multiplication and an addition for each

    def counted(flops_of, kernel):
        return lambda *arguments, **named: done.append(flops_of(*arguments)) or kernel(*arguments, **named)

    monkeypatch.setattr(kernels, "matmul", counted(lambda a, b, *_: 2 * a.shape[0] * a.shape[1] * b.shape[1], matmul))
    monkeypatch.setattr(kernels, "attention_forward", counted(lambda *_: 2 * causal, forward))
    monkeypatch.setattr(kernels, "attention_backward", counted(lambda *_: 4 * causal, backward))
    model, ids = GPT(config), np.zeros((B, T), int)
    for name, p in model.named_parameters():
        p.requires_grad = name.startswith(prefix)
    loss = model.loss(ids, ids)
    if loss.requires_grad:
        loss.backward()
    assert train_step.step_flops(config, B, T, prefix) == sum(done)


# Comparing


def test_largest_difference_of_losses_is_relative_and_infinite_without_numbers():
    assert train_step.largest_difference([2.0, 1.1, 1.0], [2.0, 1.0, 1.0]) == pytest.approx(0.1)
    assert train_step.largest_difference([2.0, math.nan], [2.0, math.nan]) == math.inf
    assert train_step.largest_difference([2.0, 1.0], [2.0, math.inf]) == math.inf


def report(seconds, losses):
    return {"seconds": seconds, "phases": {"forward": seconds}, "losses": losses, "peak_memory": 10**9}


def test_ratio_of_medians_and_its_range():
    ours = [report([1.0, 1.0, 9.0], [3.0, 2.0]), report([2.0, 2.0, 2.0], [3.0, 2.0])]
    theirs = [report([2.0, 2.0, 2.0], [3.0, 2.0]), report([3.0, 3.0, 3.0], [3.0, 2.0])]
    result = train_step.compare(ours, theirs, 1e-3)
    assert not result["void"]
    assert (result["ratio"], result["lowest_ratio"], result["highest_ratio"]) == (2.5 / 2, 1.5, 2.0)


@pytest.mark.parametrize("theirs", [[3.0, 2.1], [3.0], [3.0, math.nan]])
def test_one_round_with_other_losses_makes_a_comparison_void(theirs):
    good, bad = report([1.0], [3.0, 2.0]), report([1.0], theirs)
    result = train_step.compare([good, good], [good, bad], 1e-3)
    assert result["void"]
    assert "ratio" not in result


@pytest.mark.parametrize(
    ("peer", "precision", "loss", "void"),
    [
        ("torch", "highest", 2.01, True),
        ("torch", "medium", 2.01, False),
        ("torch", "medium", 2.2, True),
        ("torch-autocast", "highest", 2.01, False),
        ("torch-autocast", "highest", 2.2, True),
        ("torch-compile", "highest", 2.01, True),
    ],
)
def test_a_void_comparison_is_printed_and_is_exit_code_1(monkeypatch, capsys, tmp_path, peer, precision, loss, void):
    """A side in bfloat16 may differ by more. Another peer beside it, torch-medium, is never void here."""
    sides = {"npgpt": [report([1.0], [3.0, 2.0])], "torch-medium": [report([2.0], [3.0, 2.0])]}
    sides[peer] = [report([2.0], [3.0, loss])]
    run_with(monkeypatch, train_step, sides, f"--peer=torch-medium,{peer}", f"--matmul-precision={precision}", tmp_path)
    assert train_step.main() == int(void)
    output = capsys.readouterr().out
    assert f"npgpt's matmul precision {precision}" in output
    assert "npgpt is 2.00 times as fast as torch-medium (" in output
    assert (f"VOID: npgpt and {peer} " in output) == void
    assert (f"times as fast as {peer} " in output) == (f"| {peer} " in output) == (not void)
    comparisons = json.loads((tmp_path / "x.json").read_text())["comparisons"]
    assert {name: comparison["void"] for name, comparison in comparisons.items()} == {"torch-medium": False, peer: void}


def test_a_table_is_markdown_with_aligned_columns():
    """A column's rule needs a hyphen to be one, even if the column is empty."""
    assert table(["", "s", ""], [["npgpt", "1.5", ""], ["x", "10", ""]]).splitlines() == [
        "|       |   s |    |",
        "| :---- | --: | -: |",
        "| npgpt | 1.5 |    |",
        "| x     |  10 |    |",
    ]


# Measuring


def test_train_step_sets_npgpts_precision(monkeypatch):
    from bench import npgpt_train_step

    monkeypatch.setattr(npgpt, "set_matmul_precision", stop, raising=False)
    job = train_step.Settings(preset="nano", matmul_precision="high").job()
    monkeypatch.setattr(sys, "argv", ["", json.dumps(job)])
    with pytest.raises(Stopped, match="high"):
        npgpt_train_step.main()


@pytest.mark.parametrize("path", sorted((ROOT / "bench").rglob("*.py")), ids=lambda path: path.stem)
def test_each_module_finds_what_it_imports(path):
    """Some are only run by the commands, in processes of their own."""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name.split(".")[0] in ("npgpt", "bench"):
            raise
        pytest.skip(f"needs {error.name}")


def test_phases_of_counted_steps_are_timed():
    calls = []

    def step(ids, targets, done):
        calls.append("step")
        done("forward")
        done("backward")
        return 1.0

    job = train_step.Settings(preset="nano", context=4, warmup=2, steps=3).job()
    found = step_timing.time_steps(step, job, lambda: calls.append("warmed up"))
    assert calls == ["step", "step", "warmed up", "step", "step", "step"]
    assert list(found["phases"]) == ["forward", "backward"]
    for i, seconds in enumerate(found["seconds"]):
        assert 0 < sum(phase[i] for phase in found["phases"].values()) <= seconds
    assert all(len(phase) == 3 for phase in found["phases"].values())


# Running


@pytest.mark.parametrize("peer", ["none", pytest.param("torch,torch-autocast,torch-medium", marks=needs_torch)])
def test_train_step_on_nano(tmp_path, peer):
    path = tmp_path / "step.json"
    flags = ["--preset=nano", "--steps=2", "--warmup=1", "--rounds=1", "--threads=1", f"--peer={peer}"]
    done = bench("train_step", *flags, f"--json={path}")
    assert done.returncode == 0, done.stderr
    results = json.loads(path.read_text())
    assert results["benchmark"] == "train_step"
    assert results["threads"] == 1
    assert results["job"]["model"]["n_embd"] == 64
    assert {"cpu", "cores", "memory_bytes", "python", "numpy", "blas", "numba", "commit"} <= results["machine"].keys()
    peers = [] if peer == "none" else peer.split(",")
    assert list(results["sides"]) == ["npgpt", *peers]
    assert results["matrix_parameters"] == 2 * 12 * 64 * 64 + 50257 * 64
    for side in results["sides"].values():
        (run,) = side["rounds"]
        assert len(run["seconds"]) == 2
        assert len(run["warmup_seconds"]) == 1
        assert len(run["losses"]) == 3
        assert list(side["phases"]) == ["forward", "backward", "clip", "optimizer"]
        assert all(len(seconds) == 2 for seconds in run["phases"].values())
        assert side["seconds_per_step"] == pytest.approx(sum(run["seconds"]) / 2)
        assert side["tokens_per_second"] == pytest.approx(4 * 64 / side["seconds_per_step"])
        assert side["gflops_per_second"] == pytest.approx(results["flops_per_step"] / side["seconds_per_step"] / 1e9)
        assert 5e7 < side["peak_memory"] < 5e9
    assert "| npgpt " in done.stdout
    assert list(results["comparisons"]) == peers
    for name in peers:
        assert results["comparisons"][name]["largest_loss_difference"] < 1e-4
        assert f"times as fast as {name} (" in done.stdout


@needs_torch
def test_train_step_with_frozen_parameters(tmp_path):
    flags = ["--preset=nano", "--steps=2", "--warmup=1", "--rounds=1", "--threads=1", "--train-only=h.1."]
    done = bench("train_step", *flags, f"--json={tmp_path / 'x.json'}")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "x.json").read_text())
    assert list(results["sides"]) == ["npgpt", "torch", "npgpt, all", "torch, all"]
    assert list(results["comparisons"]) == ["torch", "torch, all"]
    frozen, trained = (results["sides"][side]["rounds"][0]["losses"] for side in ("npgpt", "npgpt, all"))
    assert frozen[0] == trained[0]
    assert frozen[2] > trained[2]
    assert 1 / 3 < results["frozen"]["flops"] < 1
    assert list(results["frozen"]["measured"]) == ["npgpt", "torch"]
    assert "| arithmetic " in done.stdout


@pytest.mark.slow
@needs_torch
@pytest.mark.parametrize("command", ["train_step --steps=2 --warmup=1", "book_run --context=64 --epochs=0.1"])
def test_compiled_peers_on_nano(tmp_path, command):
    path = tmp_path / "x.json"
    flags = ["--preset=nano", "--rounds=1", "--peer=torch-compile,torch-autocast-compile", f"--json={path}"]
    done = bench(*command.split(), *flags)
    assert done.returncode == 0, done.stderr
    assert list(json.loads(path.read_text())["comparisons"]) == ["torch-compile", "torch-autocast-compile"]


@pytest.mark.slow
def test_startup_on_nano(tmp_path):
    path = tmp_path / "startup.json"
    done = bench("startup", "--preset=nano", "--max-steps=2", "--helps=1", "--starts=1", f"--json={path}")
    assert done.returncode == 0, done.stderr
    seconds = json.loads(path.read_text())["seconds"]
    assert seconds["compiling, cold"][0] > 0
    assert seconds["warm start to the first step"][0] < seconds["cold start to the first step"][0]


@pytest.mark.parametrize(
    "command",
    [
        "train_step --preset=nano --peer=none --n-head=5",
        "train_step --preset=nano --peer=none --threads=100000",
        "train_step --preset=nano --peer=none --json=HERE/missing/x.json",
        "train_step --preset=nano --peer=torch,nobody",
        "train_step --preset=nano --peer=none --train-only=h.2.",
        "book_run --preset=nano --peer=none --text=HERE/missing.txt",
        "startup --starts=x",
        "load --preset=nano --peer=torch",
        "plot HERE/missing.json --out=HERE/x.png",
    ],
)
def test_a_wrong_flag_of_a_measurement_is_exit_code_2(command, tmp_path):
    done = bench(*command.replace("HERE", str(tmp_path)).split())
    assert done.returncode == 2
    assert 1 <= len(done.stderr.splitlines()) <= 3
    assert "Traceback" not in done.stderr


def test_a_peer_without_torch_is_refused(monkeypatch):
    monkeypatch.setattr(commandline, "find_spec", lambda name: None)
    commandline.check_peer("none")
    with pytest.raises(ConfigError, match=r"needs torch .*\n.*--peer none"):
        commandline.check_peer("torch")


def test_a_compiled_peer_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setattr(commandline, "find_spec", lambda name: True)
    monkeypatch.setattr(commandline, "which", lambda name: None)
    commandline.check_peer("torch,torch-autocast")
    with pytest.raises(ConfigError, match=r"torch-compile needs a C\+\+ compiler.*\n.*--peer none"):
        commandline.check_peer("torch,torch-compile")
