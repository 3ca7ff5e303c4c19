"""python -m bench.plot RESULT.json... --out FILE.png : bench.train_step's results as bars, bench.kernels' as roofline.

Roofline (Williams, Waterman & Patterson 2009): a kernel that does I operations for each byte that it reads or writes is
limited by the peak of products and by I times the memory's bandwidth. One above the slope has its data in the cache.
"""

import json
import math
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from bench.commandline import Parser, run
from npgpt.commandline import pathname
from npgpt.errors import ConfigError

FORMATS = (".png", ".svg")
PHASES = {"forward": "#4477aa", "backward": "#ee6677", "clip": "#ccbb44", "optimizer": "#228833"}
WIDTH, DPI = 11, 150  # inches, dots an inch
FAR = 300  # dots between a point and its name, if there is room nowhere nearer


def main() -> int:
    parser = Parser("plot", "Draw what bench.train_step and bench.kernels wrote with --json.")
    parser.add_argument("results", nargs="+", type=pathname, metavar="PATH", help="JSON files, or folders of them")
    parser.add_argument("--out", required=True, type=pathname, metavar="FILE", help="a .png or .svg to write")
    given = parser.parse_args()
    if not find_spec("matplotlib"):
        raise ConfigError("bench.plot needs matplotlib: pip install -e '.[plot]'")
    if not given.out.endswith(FORMATS):
        raise ConfigError(f"--out {given.out}: the name must end in {' or '.join(FORMATS)}")
    results = [result for path in given.results for result in read(Path(path))]
    try:
        figure = draw(results)
    except KeyError as missing:
        raise ConfigError(f"a result has no {missing}: an earlier version wrote it, so measure again") from None
    figure.savefig(given.out)
    return 0


def read(path: Path) -> list[dict]:
    """Read the results in a file, or in all files of a folder. Raises ConfigError if none can be drawn."""
    found = []
    for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
        try:
            result = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{file}: can't be read: {error.strerror}") from None
        except ValueError:
            raise ConfigError(f"{file}: this is not JSON") from None
        if isinstance(result, dict) and result.get("benchmark") in ("train_step", "kernels"):
            found.append(result)
    if not found:
        raise ConfigError(f"{path}: there is no result of bench.train_step or bench.kernels")
    return found


def draw(results: list[dict]):
    """-> a figure: the results of train_step in two columns, below them those of kernels"""
    from matplotlib.figure import Figure

    steps = [result for result in results if result["benchmark"] == "train_step"]
    kernels = [result for result in results if result["benchmark"] == "kernels"]
    pairs = [steps[i : i + 2] for i in range(0, len(steps), 2)]
    bars = [max(len(step["sides"]) for step in pair) for pair in pairs]
    heights = [1 + 0.35 * n for n in bars] + [6.5] * len(kernels)
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.4), dpi=DPI, layout="constrained")
    grid = figure.add_gridspec(len(heights), 2, height_ratios=heights)
    for i, step in enumerate(steps):
        columns = slice(None) if len(pairs[i // 2]) == 1 else i % 2
        draw_step(figure.add_subplot(grid[i // 2, columns]), step, bars[i // 2])
    if steps:
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=4, frameon=False)
    rooflines = [draw_roofline(figure.add_subplot(grid[len(pairs) + i, :]), r) for i, r in enumerate(kernels)]
    figure.draw_without_rendering()  # this settles where axes are
    for axes, named in rooflines:
        write_names(axes, named)
    return figure


def draw_step(axes, result, bars):
    """Draw a bar for each side that did the same work, made of its phases' medians; there is room for ``bars``."""
    job, model = result["job"], result["job"]["model"]
    sides = [side for side in result["sides"] if not result["comparisons"].get(side, {}).get("void")]
    longest = max(result["sides"][side]["seconds_per_step"] for side in sides)
    unit, scale = ("s", 1) if longest >= 1 else ("ms", 1e3)
    for row, side in enumerate(sides):
        measured, left = result["sides"][side], 0
        for phase, seconds in measured["phases"].items():
            axes.barh(row, scale * seconds, left=left, color=PHASES[phase], label=None if row else phase)
            left += scale * seconds
        axes.text(left, row, f" {scale * measured['seconds_per_step']:.3g} {unit}", va="center")
    names = sides if job["matmul_precision"] == "highest" else [f"npgpt, {job['matmul_precision']}", *sides[1:]]
    axes.set_yticks(range(len(sides)), names)
    axes.set_ylim(bars - 0.5, -0.5)
    axes.margins(x=0.15)
    axes.set_xlabel(f"{unit} a step")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(
        f"layers {model['n_layer']}, width {model['n_embd']}, batch {job['batch_size']}, context {job['context']}"
        + (f", trained: {job['train_only']}" if job["train_only"] else ""),
        fontsize="medium",
    )


def draw_roofline(axes, result):
    """Draw Numba's kernels and the machine's measured peaks on logarithmic axes.

    -> the axes, and the points to name in them: {name: (operations for each byte, GFLOP/s)}
    """
    kernels = {name: (k["flops"] / k["bytes"], k["gflops"]) for name, k in result["kernels"].items()}
    flops, bandwidth = result["peaks"]["gflops"], result["peaks"]["gbytes"]
    ridge = flops / bandwidth
    x, y = np.transpose(list(kernels.values()))
    left, right = min(x) / 2, max(*x, ridge) * 6
    roof = np.geomspace(left, right, 400)
    axes.loglog()
    axes.scatter(x, y, s=24, color=PHASES["forward"], zorder=3)
    axes.plot(roof, np.minimum(roof * bandwidth, flops), color="black", linewidth=1)
    axes.set(xlim=(left, right), ylim=(min(*y, left * bandwidth) / 2, max(*y, flops) * 2.5))
    axes.set(xlabel="operations for each byte read or written", ylabel="GFLOP/s")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    sizes = ", ".join(f"{name} = {n:,}" for name, n in result["job"]["sizes"].items())
    axes.set_title(f"Numba's kernels with {sizes}, threads: {result['threads']}", fontsize="medium")
    middle = math.sqrt(left * ridge), math.sqrt(left * ridge) * bandwidth
    peaks = {f"memory: {bandwidth:.0f} GB/s": middle, f"products: {flops:.0f} GFLOP/s": (ridge * 2, flops)}
    return axes, {**kernels, **peaks}


def write_names(axes, named: dict[str, tuple[float, float]]):
    """Write each name as near to its point as possible without covering anything or crossing a name with its lead.

    Points are taken from right to left: in a crowd, the outer ones get the places beside them.
    """
    distances, angles = np.meshgrid(np.arange(10, FAR, 4), np.radians(np.arange(0, 360, 15)), indexing="ij")
    distances, angles = distances.reshape(-1, 1), angles.reshape(-1, 1)
    directions = np.hstack([np.cos(angles), np.sin(angles)])
    along = np.linspace(0, 1, 20)[:, None, None]
    pixels = axes.transData.transform
    line = _boxes(pixels(axes.lines[0].get_xydata()), 6)
    points = {name: _boxes(pixels([point]), 24) for name, point in named.items()}
    names, leads = np.empty((0, 4)), np.empty((0, 4))
    for name in sorted(named, key=lambda name: -named[name][0]):
        lead = {"arrowstyle": "-", "color": "gray", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
        text = axes.annotate(
            name, named[name], (0, 0), textcoords="offset points", ha="center", va="center", fontsize=8, arrowprops=lead
        )
        offsets = directions * (text.get_window_extent().size / 2 + distances)
        here = pixels(named[name])
        places = _boxes(here + offsets, text.get_window_extent().size + 4)
        ways = _boxes(here + along * offsets, 4)
        outside = (places < [*axes.bbox.min, -np.inf, -np.inf]) | (places > [np.inf, np.inf, *axes.bbox.max])
        taken = np.concatenate([line, names, leads, *(box for other, box in points.items() if other != name)])
        faults = 100 * outside.any(axis=1) + 10 * _overlaps(places, taken) + _overlaps(ways, names).sum(axis=0)
        best = np.argmin(faults * FAR + distances[:, 0])
        names, leads = np.vstack([names, places[best]]), np.vstack([leads, ways[:, best]])
        text.xyann = offsets[best] * 72 / DPI


def _boxes(centres, size):
    """(..., 2) -> (..., 4): left, lower, right and upper edge"""
    return np.concatenate([centres - np.divide(size, 2), centres + np.divide(size, 2)], axis=-1)


def _overlaps(boxes, others):
    """(..., 4), (N, 4) -> (...): how many of the others each one meets"""
    a, b = boxes[..., None, :], others
    return ((a[..., :2] < b[:, 2:]) & (a[..., 2:] > b[:, :2])).all(axis=-1).sum(axis=-1)


if __name__ == "__main__":
    run(main)
