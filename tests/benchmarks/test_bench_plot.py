"""bench.plot draws all results, and its labels overlap nothing."""

import json
import sys

import helpers.running_bench  # noqa: F401, makes bench importable
import pytest

from bench import kernel_cases, plot, train_step
from npgpt.errors import ConfigError


def step_result(**peers):
    """A result of bench.train_step with these peers: {name: whether the comparison is void}."""
    phases = {"forward": 0.1, "backward": 0.2, "clip": 0.01, "optimizer": 0.05}
    job = train_step.Settings(preset="nano").job()
    return {
        "benchmark": "train_step",
        "job": job,
        "sides": {side: {"phases": phases, "seconds_per_step": 0.36} for side in ("npgpt", *peers)},
        "comparisons": {peer: {"void": void} for peer, void in peers.items()},
    }


def kernels_result():
    """A result of bench.kernels for GPT-2 in which every kernel runs at half of its peak."""
    sizes, peaks = {"B": 4, "T": 256, "C": 768, "H": 12, "V": 50257}, {"gflops": 233.0, "gbytes": 37.0}
    measured = {}
    for name, case in kernel_cases.cases(**sizes).items():
        seconds = 2 * max(case.flops / peaks["gflops"], case.bytes / peaks["gbytes"])
        measured[name] = {"flops": case.flops, "bytes": case.bytes, "gflops": case.flops / seconds}
    return {"benchmark": "kernels", "job": {"sizes": sizes}, "threads": 2, "peaks": peaks, "kernels": measured}


def test_plot_shows_every_side_and_kernel_with_labels_that_do_not_overlap():
    text = pytest.importorskip("matplotlib.text")
    result = kernels_result()
    figure = plot.draw([step_result(torch=False, broken=True), result])
    bars, roofline = figure.axes
    assert [label.get_text() for label in bars.get_yticklabels()] == ["npgpt", "torch"]
    assert len(bars.patches) == 2 * 4
    named = {t.get_text(): t for t in roofline.texts}
    assert named.keys() == {*result["kernels"], "memory: 37 GB/s", "products: 233 GFLOP/s"}
    boxes = {name: text.Text.get_window_extent(t) for name, t in named.items()}
    for name, box in boxes.items():
        assert not box.count_overlaps([other for other in boxes.values() if other is not box]), name


def test_a_folder_of_results_is_drawn(monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    for i, result in enumerate([step_result(), {"benchmark": "startup"}, step_result(torch=False)]):
        (tmp_path / f"{i}.json").write_text(json.dumps(result))
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path), f"--out={tmp_path / 'x.png'}"])
    assert plot.main() == 0
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_a_result_of_an_earlier_version_is_refused(monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "x.json").write_text('{"benchmark": "kernels"}')
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "x.json"), f"--out={tmp_path / 'x.png'}"])
    with pytest.raises(ConfigError, match=r"has no '.*measure again"):
        plot.main()
    assert not (tmp_path / "x.png").exists()
