"""bench.decode measures what it says, and a side that computes something else is void."""

import json
import math
from importlib import import_module

import numpy as np
import pytest
from helpers.models import with_random_parameters
from helpers.running_bench import bench

from bench import decode, decode_timing, decode_works, npgpt_decode
from bench.processes import Finished, ProcessFailed
from npgpt import GPT, GPTConfig, no_grad
from npgpt.checkpoints import save
from npgpt.errors import ConfigError
from npgpt.text.tokenizers import GPT2Tokenizer

CONFIG = GPTConfig(vocab_size=61, block_size=32, n_layer=2, n_head=2, n_embd=32)


def test_decoding_and_the_first_token_are_timed(tmp_path):
    path = tmp_path / "decode.json"
    few = ("--tokens=3", "--warmup=1", "--prefill=20", "--rounds=1")
    done = bench("decode", "--preset=nano", "--work=first-token,float32", "--peer=none", *few, f"--json={path}")
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    (run,) = found["works"]["float32"]["npgpt"]["rounds"]
    assert len(run["seconds"]) == 3
    assert np.shape(run["logits"]) == (2, 1, 986)  # every 51st of 50,257
    assert 10**7 < run["resident"] <= run["peak"]
    side = found["works"]["float32"]["npgpt"]
    assert side["seconds"] == np.median(run["seconds"])
    assert side["gbytes_per_second"] == pytest.approx(4e-9 * (2 * 12 * 64**2 + 50257 * 64) / side["seconds"])
    assert found["works"]["first-token"]["npgpt"]["seconds"] > run["seconds"][0]
    assert "| float32: npgpt f32 " in done.stdout
    assert "| first-token: npgpt f32 " in done.stdout


def test_the_prompt_of_the_first_token_has_as_many_ids_as_the_others(tmp_path):
    job = decode.Settings(prompt=500).job(decode_works.WORKS["first-token"], "torch", tmp_path)
    assert len(GPT2Tokenizer().encode(decode.PROMPT)) == job["prompt"]


# The sides


def job(path, weights, **changes):
    sizes = {"batch_size": 3, "prompt": 5, "warmup": 1, "times": 2, "seed": 0}
    rest = {"matmul_precision": "highest", "repack": True, "path": str(path), "weights": weights}
    return {"work": "decode", "model": CONFIG.to_dict(), **sizes, **rest, **changes}


@pytest.mark.parametrize(
    ("side", "weights", "packages", "tolerance"),
    [
        ("npgpt", "f32", (), 1e-5),
        ("transformers", "float32", ("torch", "transformers"), 1e-5),
        ("torch", "float32", ("torch", "safetensors"), 1e-5),
        ("torch", "bfloat16", ("torch", "safetensors"), 3e-2),
        ("llama.cpp", "F32", ("llama_cpp",), 3e-3),
        ("llama.cpp", "Q4_0", ("llama_cpp",), 0.3),
    ],
)
def test_every_side_computes_the_models_logits(tmp_path, monkeypatch, side, weights, packages, tolerance):
    """Twice, as prefilling begins anew; of three texts, and of one."""
    for package in packages:
        pytest.importorskip(package)
    model = with_random_parameters(GPT(CONFIG))
    save(model, tmp_path / "huggingface")
    path = tmp_path / "huggingface"
    if side == "llama.cpp":
        path = tmp_path / "a.gguf"
        save(model, path, "gguf", weights)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for B in (3, 1):
        told = job(path, weights, batch_size=B)
        found = import_module(decode_works.MODULES[side]).Side(told)
        prompts, next_ids = decode_timing._ids(told)
        ids = np.concatenate([prompts, next_ids.T], axis=1)
        with no_grad():
            expected = model.eval()(ids).data
        for _ in range(2):
            logits = [found.prefill(prompts).copy(), *(found.step(ids).copy() for ids in next_ids)]
            for t, now in enumerate(logits):
                assert now.shape == (B, 61)
                assert decode.difference(now, expected[:, 4 + t]) < tolerance


def test_the_report_of_a_process(monkeypatch, capsys):
    calls = []

    class Side:
        threads = 7

        def __init__(self, told):
            assert told["work"] in ("decode", "prefill")

        def prefill(self, prompts):
            calls.append(("prefill", prompts.shape))
            return np.full((len(prompts), 2500), len(calls), float)

        def step(self, ids):
            calls.append(("step", ids.shape))
            return np.full((len(ids), 2500), len(calls), float)

    for work, name, shape in (("decode", "step", (3,)), ("prefill", "prefill", (3, 5))):
        calls.clear()
        monkeypatch.setattr("sys.argv", ["", json.dumps(job("", "", work=work))])
        decode_timing.run(Side)
        report = json.loads(capsys.readouterr().out)
        assert calls == [("prefill", (3, 5)), *[(name, shape)] * 3]
        assert len(report["seconds"]) == 2
        assert report["threads"] == 7
        assert np.array(report["logits"]).shape == (2, 3, 834)
        assert np.array(report["logits"])[:, 0, 0].tolist() == [1, 4]


def test_the_model_is_written_in_every_format(tmp_path):
    npgpt_decode.write(json.dumps(CONFIG.to_dict()), str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {
        "huggingface",
        *(f"{dtype}.gguf" for dtype in ("F32", "F16", "Q8_0", "Q4_0")),
    }
    weights = 2 * 12 * 32**2 + 61 * 32
    for name, npgpt, llama_cpp in (
        ("float32", 4 * weights, 4 * weights),
        ("bfloat16", 2 * weights, 2 * weights),
        ("int8", 34 / 32 * weights, 34 / 32 * weights),
        ("int4", 18 / 32 * weights, 18 / 32 * weights + (34 - 18) / 32 * 61 * 32),  # the head is Q8_0
    ):
        found = decode_works.bytes_read(CONFIG, tmp_path, decode_works.WORKS[name])
        assert (found["npgpt"], found["llama.cpp"]) == (npgpt, llama_cpp)


# What is made of the reports


def report(seconds, logit=1.0, bandwidth=50.0):
    logits = [[[1.0, 1.0]], [[1.0, logit]]]
    return {"seconds": seconds, "threads": 1, "resident": 2e8, "peak": 3e8, "logits": logits, "bandwidth": bandwidth}


@pytest.fixture
def main_with(monkeypatch, tmp_path):
    """A function that runs the command on the reports of its processes -> exit code, what is in the JSON."""

    def run(works, *arguments):
        measured = works, {name: dict.fromkeys(sides, 10**9) for name, sides in works.items()}
        monkeypatch.setattr(decode, "_measure", lambda *arguments: measured)
        monkeypatch.setattr(decode, "prepare", lambda threads: 1)
        monkeypatch.setattr(decode, "_is_installed", lambda peer: True)
        monkeypatch.setattr("sys.argv", ["", f"--work={','.join(works)}", *arguments, f"--json={tmp_path / 'x.json'}"])
        return decode.main(), json.loads((tmp_path / "x.json").read_text())["works"]

    return run


def test_rates_ratios_and_shares_of_the_memorys_bandwidth(main_with, capsys):
    ours = [report([0.1, 0.1, 9.0]), report([0.2, 0.2], bandwidth=20.0)]
    theirs = [report([0.2, 0.2]), report([0.5, 0.5])]
    batch = [report([0.25]), report([0.25])]
    code, works = main_with({"float32": {"npgpt": ours, "torch": theirs}, "batch": {"npgpt": batch}})
    assert code == 0
    npgpt, torch = works["float32"]["npgpt"], works["float32"]["torch"]
    assert (npgpt["tokens_per_second"], npgpt["gbytes_per_second"]) == (5, 5)
    assert (torch["ratio"], torch["lowest_ratio"], torch["highest_ratio"]) == (pytest.approx(0.35 / 0.2), 2.0, 2.5)
    assert works["batch"]["npgpt"]["tokens_per_second"] == 64
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if "float32: npgpt f32" in line)
    assert [cell.strip() for cell in row.split("|")[2:-1]] == ["200", "5", "5.0", "22%", "200", "300", ""]
    assert "1.75 (2.00 to 2.50)" in next(line for line in lines if "float32: torch float32" in line)
    assert lines[-1] == "16 texts at once give 12.80 times the tokens/s of one"


@pytest.mark.parametrize(
    ("work", "logit", "void"),
    [
        ("float32", 1.01, False),
        ("float32", 1.03, True),
        ("float32", math.nan, True),
        ("int8", 1.1, False),
        ("int8", 1.3, True),
    ],
)
def test_other_logits_than_npgpts_in_float32_make_a_timing_void(main_with, capsys, work, logit, void):
    """In any round; and npgpt's own in another format."""
    exact = {"npgpt": [report([0.1]), report([0.1])]}
    peer = "torch" if work == "float32" else "npgpt"
    works = {"float32": exact} | {
        work: {**exact, "llama.cpp": exact["npgpt"], peer: [report([0.2]), report([0.2], logit)]}
    }
    code, found = main_with(works)
    assert code == int(void)
    assert found[work][peer]["void"] == void
    output = capsys.readouterr().out
    assert (f"VOID: {work}, {peer} " in output) == void
    assert (f"| {work}: {peer} " in output) == (not void)
    assert f"| {work}: llama.cpp " in output


def test_the_difference_is_relative_and_infinite_without_numbers():
    assert decode.difference([[3.0, 4.0]], [[3.0, 5.0]]) == pytest.approx(1 / math.hypot(3, 5))
    assert decode.difference([[3.0, math.nan]], [[3.0, 5.0]]) == math.inf


# Peers


def test_a_peer_that_is_not_installed_is_left_out_with_a_line(monkeypatch, capsys):
    monkeypatch.setattr(decode, "find_spec", lambda name: None if name == "llama_cpp" else True)
    assert decode._is_installed("torch")
    assert not decode._is_installed("llama.cpp")
    assert capsys.readouterr().err == "bench: llama.cpp is left out: llama_cpp is not installed\n"


def test_llama_cpp_is_tried_without_packed_weights_if_it_fails(monkeypatch):
    asked = []

    def run_module(module, told):
        asked.append((module, json.loads(told)["repack"], json.loads(told)["times"]))
        if asked[-1][1] or "llamacpp" not in module:
            raise ProcessFailed("it crashed")
        return Finished("{}", 1.0, 1)

    monkeypatch.setattr(decode, "run_module", run_module)
    told = job("", "Q8_0")
    decode._try("llama.cpp", told)
    assert not told["repack"]
    assert asked == [("bench.peers.llamacpp_decode", repack, 1) for repack in (True, False)]
    with pytest.raises(ProcessFailed, match="crashed"):
        decode._try("torch", told)


@pytest.mark.parametrize(
    "flag", ["--work=float32,nothing", "--peer=nobody", "--batch-size=1", "--json=/missing/x.json"]
)
def test_a_wrong_flag_is_exit_code_2(flag):
    done = bench("decode", "--preset=nano", flag)
    assert done.returncode == 2
    assert 1 <= len(done.stderr.splitlines()) <= 3


def test_no_work_is_refused():
    with pytest.raises(ConfigError, match="--work none: there is nothing to measure"):
        decode.Settings(work="none").works()
