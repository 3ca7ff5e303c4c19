"""python -m bench.book_run : a whole training run of npgpt, and the same one in torch, in one or more modes.

The run is that of chapter 5 of "Build a Large Language Model (From Scratch)": GPT-2 124M learns a short story in 10
epochs, with evaluations every 5 steps, samples and checkpoints. Each process is timed from its start to its end.
"""

import json
import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.commandline import Parser, check_json_path, check_peer, peer_names, peers, run, table, write_json
from bench.machine import ROOT, describe, summary
from bench.peers.table import FLOAT32, PEERS, Peer
from bench.processes import ProcessFailed, prepare, run_module, say, speedup
from npgpt.commandline import choice, count, flag, number
from npgpt.config import MATMUL_PRECISIONS, PRESETS
from npgpt.errors import ConfigError

# The book's settings, except that it samples after each epoch of 9 steps; here it is after every 10.
BOOK = {
    "lr": 4e-4, "weight_decay": 0.1, "eval_every": 5, "eval_batches": 5, "sample_every": 10, "sample_tokens": 50,
    "seed": 0, "split_by": "tokens",
}  # fmt: skip

# How far npgpt's losses may be from torch's, relatively. Both start from the same weights and see the same batches, but
# differences of rounding grow from step to step, and the training loss falls to a small part of its first value.
TOLERANCES = {"first_val_loss": 1e-3, "best_val_loss": 1e-2, "final_train_loss": 0.1}
# With one side in bfloat16, twice as far: the model mini's losses were 1e-4 apart in the end, in float32 4e-6.
BFLOAT16_TOLERANCES = {name: 2 * tolerance for name, tolerance in TOLERANCES.items()}


@dataclass(frozen=True)
class Settings:
    text: str = flag(str(ROOT / "data" / "the-verdict.txt"), str, "what to train on", "work", metavar="PATH")
    preset: str = flag("gpt2", choice(*PRESETS), "a model's size", "work")
    context: int = flag(256, count(), "tokens a window", "work")
    batch_size: int = flag(2, count(), "windows a batch", "work")
    epochs: float = flag(10.0, number("X", 0, open_low=True), "times through the text", "work")
    rounds: int = flag(1, count(), "runs a side", "work")
    threads: int | None = flag(None, count(), "threads a process (default: one a core)", "work")
    peer: str = flag("torch", peer_names, f"whom to compare with: some of {', '.join(PEERS)}, or none", "work")
    matmul_precision: str = flag("highest", choice(*MATMUL_PRECISIONS), "of npgpt's matrix products", "work")
    cold: bool = flag(False, bool, "npgpt compiles all its kernels anew in each run", "work")
    json: str | None = flag(None, str, "write all that was measured to this file", "work", metavar="PATH")

    def training(self) -> dict:
        """The run, as fields of npgpt's TrainSettings."""
        said = {name: getattr(self, name) for name in ("preset", "context", "batch_size", "epochs")}
        return {"texts": [str(Path(self.text).resolve())], **said, **BOOK}


def main() -> int:
    parser = Parser("book_run", "Time a whole training run of npgpt, and of torch doing the same.")
    parser.add_flags(Settings)
    settings = Settings(**vars(parser.parse_args()))
    check_peer(settings.peer)
    check_json_path(settings.json)
    if not Path(settings.text).is_file():
        raise ConfigError(f"--text {settings.text}: there is no such file")
    machine = describe()
    threads = prepare(settings.threads)
    training = settings.training()
    precision = settings.matmul_precision
    results = {"benchmark": "book_run", "machine": machine, "threads": threads, "cold": settings.cold}
    results.update(training=training, matmul_precision=precision)

    sides = ["npgpt", *peers(settings.peer)]
    say("a short run, so that kernels are compiled and libraries have been read from the disk")
    short = {**training, "epochs": None, "max_steps": 1}
    if not any(PEERS[peer].compile for peer in sides[1:]):  # what torch compiles is for one model; npgpt's is for all
        short["preset"] = "nano"
    _measure(short, sides, 1, threads, precision)
    say("the run")
    results["sides"] = rounds = _measure(training, sides, settings.rounds, threads, precision, settings.cold)

    results["comparisons"] = {}
    for peer in sides[1:]:
        rough = precision != "highest" or PEERS[peer].tolerance > FLOAT32
        tolerances = BFLOAT16_TOLERANCES if rough else TOLERANCES
        results["comparisons"][peer] = compare(rounds["npgpt"], rounds[peer], tolerances)
    write_json(settings.json, results)
    _print(results, training)
    return 1 if any(comparison["void"] for comparison in results["comparisons"].values()) else 0


def _measure(training, sides, rounds, threads, precision, cold=False) -> dict[str, list[dict]]:
    """-> {side: a report of each of its runs}"""
    reports = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as plan:
        if len(sides) > 1:
            run_module("bench.book_plan", json.dumps(training), plan)
        for _ in range(rounds):
            for side in sides:
                os.sync()  # so that this run doesn't wait for what the last one wrote
                report = run_npgpt(training, precision, cold) if side == "npgpt" else run_torch(plan, PEERS[side])
                if report.pop("threads", threads) != threads:
                    raise ProcessFailed(f"{side} did not run with {threads} threads")
                say(f"{side}: {report['seconds']:.1f} s")
                reports[side].append(report)
    return reports


def run_npgpt(training: dict, precision: str, cold: bool = False) -> dict:
    """python -m npgpt.train in a process, in a temporary folder -> seconds, peak memory, evaluations, samples"""
    said = {name: value for name, value in training.items() if name != "texts" and value is not None}
    if precision != "highest":
        said["matmul_precision"] = precision
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in said.items()]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        environment = {"NUMBA_CACHE_DIR": str(Path(folder) / "cache")} if cold else {}
        finished = run_module("npgpt.train", *training["texts"], *flags, f"--out={out}", environment=environment)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    evaluations = [{name: e[name] for name in ("step", "train_loss", "val_loss")} for e in lines if e["kind"] == "eval"]
    return _report(finished, evaluations, samples=sum(line["kind"] == "sample" for line in lines))


def run_torch(plan: str, peer: Peer) -> dict:
    """bench.peers.torch_book_run in a process -> as ``run_npgpt``, and its number of threads"""
    with tempfile.TemporaryDirectory() as folder:
        finished = run_module("bench.peers.torch_book_run", plan, folder, json.dumps(peer.mode()))
    told = json.loads(finished.output)
    return {**_report(finished, told["evaluations"], told["samples"]), "threads": told["threads"]}


def _report(finished, evaluations, samples):
    return {
        "seconds": finished.seconds,
        "peak_memory": finished.peak_memory,
        "first_val_loss": evaluations[0]["val_loss"],
        "final_train_loss": evaluations[-1]["train_loss"],
        "final_val_loss": evaluations[-1]["val_loss"],
        "best_val_loss": min(e["val_loss"] for e in evaluations),
        "samples": samples,
        "evaluations": evaluations,
    }


def compare(ours: list[dict], theirs: list[dict], tolerances: dict[str, float] = TOLERANCES) -> dict:
    """Reports of the same number of rounds -> how much faster ours is; void: the reasons not to compare them."""
    void = []
    for a, b in zip(ours, theirs, strict=True):
        if [e["step"] for e in a["evaluations"]] != [e["step"] for e in b["evaluations"]]:
            void.append("evaluations at different steps")
        if a["samples"] != b["samples"]:
            void.append(f"{a['samples']} samples and {b['samples']}")
        for name, tolerance in tolerances.items():
            if not math.isclose(a[name], b[name], rel_tol=tolerance):
                void.append(f"{name}: {a[name]:.4f} and {b[name]:.4f}, which differ by more than {tolerance:.1%}")
    if void:
        return {"void": void}
    return {"void": [], **speedup(*([[run["seconds"]] for run in runs] for runs in (ours, theirs)))}


def _print(results, training):
    comparisons = results["comparisons"]
    print(summary(results["machine"]))
    print(
        f"{training['preset']}, context {training['context']}, batch {training['batch_size']}, "
        f"{training['epochs']:g} epochs of {Path(training['texts'][0]).name}, {results['threads']} threads, npgpt's "
        f"matmul precision {results['matmul_precision']}"
        f"{', its kernels compiled in the run' if results['cold'] else ''}\n"
    )
    losses = ("final_train_loss", "final_val_loss", "best_val_loss")
    rows = [
        [
            side,
            f"{median(r['seconds'] for r in reports):.1f} s",
            f"{max(r['peak_memory'] for r in reports) / 1e9:.2f} GB",
            *(f"{reports[0][name]:.3f}" for name in losses),
        ]
        for side, reports in results["sides"].items()
        if not comparisons.get(side, {}).get("void")
    ]
    if len(rows) > 1 or not comparisons:
        header = ["", "whole run", "peak memory", *(name.replace("_", " ") for name in losses)]
        print(table(header, rows), end="\n\n")
    for peer, comparison in comparisons.items():
        if comparison["void"]:
            print(f"VOID: npgpt and {peer} did not do the same work: {'; '.join(comparison['void'])}")
        else:
            print(
                f"npgpt is {comparison['ratio']:.2f} times as fast as {peer} "
                f"({comparison['lowest_ratio']:.2f} to {comparison['highest_ratio']:.2f}; "
                f"runs of each: {len(results['sides']['npgpt'])})"
            )


if __name__ == "__main__":
    run(main)
