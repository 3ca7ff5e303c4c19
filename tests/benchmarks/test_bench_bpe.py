"""bench.bpe times both trainers, and refuses to if their merges differ."""

import json
from importlib.util import find_spec

import pytest
from conftest import ROOT
from helpers.running_bench import bench

from bench import bpe
from bench.processes import Finished, ProcessFailed

needs_tokenizers = pytest.mark.skipif(find_spec("tokenizers") is None, reason="needs tokenizers")
TEXT = ROOT / "data" / "the-verdict.txt"


@pytest.mark.parametrize("peer", ["none", pytest.param("tokenizers", marks=needs_tokenizers)])
def test_training_is_timed(tmp_path, peer):
    path = tmp_path / "bpe.json"
    done = bench("bpe", str(TEXT), "--vocab-size=400", "--rounds=1", f"--peer={peer}", f"--json={path}")
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    assert found["sides"].keys() == {"npgpt", peer} - {"none"}
    for side, (one,) in found["sides"].items():
        assert 0 < one["seconds"] < one["process"]
        assert f"| {side} " in done.stdout


def test_different_merges_make_the_comparison_void(monkeypatch, capsys):
    monkeypatch.setattr(bpe, "run_module", lambda module, *_: Finished(f'{{"seconds": 1, "merges": "{module}"}}', 2, 9))
    monkeypatch.setattr(bpe, "prepare", lambda threads: 1)
    monkeypatch.setattr(bpe, "check_installed", lambda *names: None)
    monkeypatch.setattr("sys.argv", ["", str(TEXT), "--rounds=1"])
    with pytest.raises(ProcessFailed, match="void"):
        bpe.main()
    assert capsys.readouterr().out == ""
