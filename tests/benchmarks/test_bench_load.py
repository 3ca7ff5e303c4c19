"""bench.load times loading, and refuses to if the logits differ."""

import json
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers.running_bench import bench

from bench import load
from bench.processes import Finished, ProcessFailed

needs_transformers = pytest.mark.skipif(find_spec("transformers") is None, reason="needs transformers")


@pytest.mark.parametrize("peer", ["none", pytest.param("transformers", marks=needs_transformers)])
def test_loading_is_timed_and_measured(tmp_path, peer):
    path = tmp_path / "load.json"
    done = bench("load", "--preset=nano", "--rounds=1", f"--peer={peer}", f"--json={path}")
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    assert found["sides"].keys() == {"npgpt", peer} - {"none"}
    assert found["bytes"] > 4 * 3_320_640
    for side, (one,) in found["sides"].items():
        assert 0 < one["loading"] < one["seconds"] < one["process"]
        assert one["memory"] > found["bytes"]
        assert f"| {side} " in done.stdout


@pytest.mark.parametrize(("logit", "void"), [(0.00009, False), (0.0002, True), (float("nan"), True)])
def test_different_logits_make_the_comparison_void_before_anything_is_printed(
    logit, void, monkeypatch, capsys, tmp_path
):
    def run_module(module, folder, *rest):
        if rest:  # --write
            Path(rest[1], "model.safetensors").parent.mkdir()
            Path(rest[1], "model.safetensors").write_bytes(b"8 bytes.")
        logits = [logit if "transformers" in module else 0.0, 1.0]
        return Finished(json.dumps({"seconds": 1, "loading": 1, "memory": 9, "logits": logits}), 2.0, 9)

    monkeypatch.setattr(load, "run_module", run_module)
    monkeypatch.setattr(load, "prepare", lambda threads: 1)
    monkeypatch.setattr(load, "check_installed", lambda *names: None)
    monkeypatch.setattr("sys.argv", ["", "--preset=nano", "--rounds=1", f"--json={tmp_path / 'x.json'}"])
    with pytest.raises(ProcessFailed, match="void") if void else nullcontext():
        load.main()
    assert ("2.00" in capsys.readouterr().out) == (tmp_path / "x.json").exists() == (not void)
