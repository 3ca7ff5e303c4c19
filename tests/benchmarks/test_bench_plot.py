"""bench.plot draws what was measured, legibly."""

import json
import sys

import helpers.running_bench  # noqa: F401, makes bench importable
import pytest

from bench import kernel_cases, plot, train_step
from npgpt.errors import ConfigError


def step_result(**peers):
    """As bench.train_step writes it, with a peer of each name that is void or isn't."""
    phases = {"forward": 0.1, "backward": 0.2, "clip": 0.01, "optimizer": 0.05}
    job = train_step.Settings(preset="nano").job()
    return {
        "benchmark": "train_step",
        "job": job,
        "sides": {side: {"phases": phases, "seconds_per_step": 0.36} for side in ("npgpt", *peers)},
        "comparisons": {peer: {"void": void} for peer, void in peers.items()},
    }


def kernels_result():
    """As bench.kernels writes it for GPT-2, as if all kernels were half as fast as they could be at most."""
    sizes, peaks = {"B": 4, "T": 256, "C": 768, "H": 12, "V": 50257}, {"gflops": 233.0, "gbytes": 37.0}
    measured = {}
    for name, case in kernel_cases.cases(**sizes).items():
        seconds = 2 * max(case.flops / peaks["gflops"], case.bytes / peaks["gbytes"])
        measured[name] = {"flops": case.flops, "bytes": case.bytes, "gflops": case.flops / seconds}
    return {"benchmark": "kernels", "job": {"sizes": sizes}, "threads": 2, "peaks": peaks, "kernels": measured}


def test_plot_shows_what_was_measured():
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


@pytest.mark.parametrize("name", ["x.png", "x.svg"])
def test_a_folder_of_results_is_drawn(monkeypatch, tmp_path, name):
    pytest.importorskip("matplotlib")
    for i, result in enumerate([step_result(), {"benchmark": "startup"}, step_result(torch=False), kernels_result()]):
        (tmp_path / f"{i}.json").write_text(json.dumps(result))
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path), f"--out={tmp_path / name}"])
    assert plot.main() == 0
    assert (tmp_path / name).read_bytes().startswith(b"\x89PNG" if name == "x.png" else b"<?xml")


@pytest.mark.parametrize(
    ("content", "out", "message"),
    [
        ("no", "x.png", "this is not JSON"),
        ('{"benchmark": "startup"}', "x.png", "no result of bench.train_step"),
        ('{"benchmark": "kernels"}', "x.png", "has no '.*measure again"),
        ('{"benchmark": "kernels"}', "x.jpg", r"must end in \.png or \.svg"),
    ],
)
def test_a_result_that_cannot_be_drawn_is_refused(monkeypatch, tmp_path, content, out, message):
    pytest.importorskip("matplotlib")
    (tmp_path / "x.json").write_text(content)
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "x.json"), f"--out={tmp_path / out}"])
    with pytest.raises(ConfigError, match=message):
        plot.main()
    assert not (tmp_path / out).exists()


def test_plot_without_matplotlib_is_refused(monkeypatch):
    monkeypatch.setattr(plot, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["", "x.json", "--out=x.png"])
    with pytest.raises(ConfigError, match=r"^bench\.plot needs matplotlib: pip install -e '\.\[plot\]'$"):
        plot.main()
