"""python -m bench.kernels : each kernel by itself: its NumPy version, its Numba twin, and torch's.

Each side runs in a process of its own, one after the other, several rounds. Where results differ from NumPy's, the row
says so, and the exit code is 1.
"""

import json
from dataclasses import dataclass
from statistics import median

import numpy as np

from bench.commandline import Parser, check_json_path, check_peer, run, table, write_json
from bench.kernel_cases import cases
from bench.machine import describe, summary
from bench.processes import prepare, run_module, say
from npgpt.commandline import choice, count, flag, number
from npgpt.config import GPTConfig
from npgpt.errors import ConfigError

TOLERANCE = 1e-4  # of a result's largest element: sums of 50,257 float32 products in other orders differ by 1e-5


@dataclass(frozen=True)
class Settings:
    batch_size: int = flag(4, count(), "windows a batch", "work")
    context: int = flag(256, count(), "tokens a window", "work")
    preset: str = flag("gpt2", choice("gpt2", "gpt2-medium", "mini", "small"), "a model's size", "work")
    seconds: float = flag(0.5, number("X", 0), "how long each kernel is timed in each process", "work")
    rounds: int = flag(3, count(), "processes a side", "work")
    threads: int | None = flag(None, count(), "threads a process (default: one a core)", "work")
    peer: str = flag("torch", choice("torch", "none"), "whom to compare with", "work")
    json: str | None = flag(None, str, "write all that was measured to this file", "work", metavar="PATH")

    def sizes(self) -> dict:
        model = GPTConfig.preset(self.preset)
        return {"B": self.batch_size, "T": self.context, "C": model.n_embd, "H": model.n_head, "V": model.vocab_size}


def main() -> int:
    parser = Parser("kernels", "Time each kernel: NumPy, Numba, and torch beside them.")
    parser.add_argument("words", nargs="*", metavar="WORD", help="only kernels with one of these words in their name")
    parser.add_flags(Settings)
    given = vars(parser.parse_args())
    words = given.pop("words")
    settings = Settings(**given)
    check_peer(settings.peer)
    check_json_path(settings.json)
    chosen = cases(**settings.sizes())
    names = [name for name in chosen if any(word in name for word in words or [""])]
    if not names:
        raise ConfigError(f"no kernel's name has {' or '.join(words)} in it; there are {', '.join(chosen)}")
    machine = describe()
    threads = prepare(settings.threads)
    job = {"sizes": settings.sizes(), "names": names, "seconds": settings.seconds}

    say("the machine's peaks")
    peaks = json.loads(run_module("bench.peaks").output)
    sides = {"numpy": ("bench.npgpt_kernels", "numpy"), "numba": ("bench.npgpt_kernels", "numba")}
    if settings.peer == "torch":
        sides["torch"] = ("bench.peers.torch_kernels",)
    reports = {side: [] for side in sides}
    for _ in range(settings.rounds):
        for side, (module, *version) in sides.items():
            say(side)
            reports[side].append(json.loads(run_module(module, json.dumps(job), *version).output))

    results = {"benchmark": "kernels", "machine": machine, "threads": threads, "job": job, "peaks": peaks}
    results["kernels"] = {name: measured(name, chosen[name], reports, peaks) for name in names}
    write_json(settings.json, results)
    _print(results)
    return 1 if any(kernel["differs"] for kernel in results["kernels"].values()) else 0


def measured(name, case, reports, peaks) -> dict:
    """One kernel: median seconds of each side, whose results differ from NumPy's, and Numba's share of the peak."""
    seconds, differs = {}, []
    exact = reports["numpy"][0][name]["results"]
    for side, rounds in reports.items():
        if name in rounds[0]:
            seconds[side] = median(s for report in rounds for s in report[name]["seconds"])
            if not same(rounds[0][name]["results"], exact):
                differs.append(side)
    counts = {"gflops": case.flops, "gbytes": case.bytes}
    speeds = {unit: n / seconds["numba"] / 1e9 for unit, n in counts.items()}
    limit = max(counts, key=lambda unit: counts[unit] / peaks[unit])  # what would take longest at its peak
    return {
        "seconds": seconds,
        "differs": differs,
        "flops": case.flops,
        "bytes": case.bytes,
        **speeds,
        "limit": limit,
        "share_of_peak": speeds[limit] / peaks[limit],
    }


def same(results, exact) -> bool:
    """Whether samples of results agree, of those that both sides have."""
    return all(
        a["shape"] == b["shape"] and np.abs(np.subtract(a["elements"], b["elements"])).max() <= TOLERANCE * b["largest"]
        for a, b in zip(results, exact, strict=False)
    )


def _print(results):
    sizes, peaks = results["job"]["sizes"], results["peaks"]
    print(summary(results["machine"]))
    print(
        f"{', '.join(f'{name} = {n:,}' for name, n in sizes.items())}, float32, {results['threads']} threads; peaks "
        f"measured here: {peaks['gflops']:.0f} GFLOP/s, {peaks['gbytes']:.0f} GB/s read\n"
    )
    rows = []
    for name, kernel in results["kernels"].items():
        seconds = kernel["seconds"]
        times = [f"{seconds[side] * 1e3:.2f}" if side in seconds else "-" for side in ("numpy", "numba", "torch")]
        speed = f"{kernel['gflops']:.0f} GFLOP/s" if kernel["limit"] == "gflops" else f"{kernel['gbytes']:.1f} GB/s"
        ratios = [f"{seconds[s] / seconds['numba']:.2f}" if s in seconds else "-" for s in ("numpy", "torch")]
        void = f"DIFFERS: {', '.join(kernel['differs'])}" if kernel["differs"] else ""
        rows.append([name, *times, speed, f"{kernel['share_of_peak']:.0%}", *ratios, void])
    header = ["", "NumPy ms", "Numba ms", "torch ms", "Numba", "of peak", "NumPy/Numba", "torch/Numba", ""]
    print(table(header, rows))


if __name__ == "__main__":
    run(main)
