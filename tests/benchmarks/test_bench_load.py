"""bench.load times loading, and refuses to if the logits differ."""

import json
from importlib.util import find_spec

import pytest
from helpers.running_bench import bench

from bench import load
from bench.processes import ProcessFailed
from npgpt.errors import ConfigError

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


def test_different_logits_make_the_comparison_void():
    load._check_same({"npgpt": [{"logits": [0.0, 1.0]}], "transformers": [{"logits": [0.00009, 1.0]}]})
    for other in (0.0002, float("nan")):
        with pytest.raises(ProcessFailed, match="void"):
            load._check_same({"npgpt": [{"logits": [0.0, 1.0]}], "transformers": [{"logits": [other, 1.0]}]})


def test_a_peer_without_transformers_is_refused(monkeypatch):
    monkeypatch.setattr(load, "find_spec", lambda name: None)
    load._check_peer("none")
    with pytest.raises(ConfigError, match=r"needs torch and transformers: pip install .*\n.*--peer none"):
        load._check_peer("transformers")
