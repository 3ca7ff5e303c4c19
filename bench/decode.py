"""python -m bench.decode : decoding by npgpt and its peers, beside what reading the weights from memory allows.

Each token needs all weights once, so at batch 1 the memory's bandwidth is the limit. It is measured in the same run.
Each side runs in a process of its own, one after the other, several rounds. All read the same random weights and are
fed the same ids. A peer whose logits differ has not done the same work, and its timing is void. Only the first token is
of npgpt's own prompt, a text, and of as many random ids for the others.
"""

import json
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from math import inf
from pathlib import Path
from statistics import median

import numpy as np

from bench.commandline import Parser, check_json_path, names_of, peers, run, table, write_json
from bench.decode_works import MODULES, PACKAGES, WORKS, Work, bytes_read
from bench.machine import describe, summary
from bench.processes import ProcessFailed, prepare, run_module, say, speedup
from npgpt.commandline import choice, count, flag
from npgpt.config import PRESETS, GPTConfig
from npgpt.errors import ConfigError

SEED = 0
PROMPT = "The old man looked at the sea, and he thought of all the fish."
PROMPT_IDS = 16  # GPT-2's tokens of it: the peers get as many ids for their first token
WORK_NAMES, PEER_NAMES = names_of(WORKS), names_of(PACKAGES)


@dataclass(frozen=True)
class Settings:
    preset: str = flag("gpt2", choice(*PRESETS), "a model's size", "work")
    work: str = flag(",".join(WORKS), WORK_NAMES, "what to measure: which of these", "work")
    prompt: int = flag(16, count(), "ids before the decoded ones", "work")
    tokens: int = flag(128, count(), "counted tokens a process", "work")
    warmup: int = flag(8, count(), "tokens before them, which compile and are not counted", "work")
    batch_size: int = flag(16, count(2), "texts at once in the work called batch", "work")
    prefill: int = flag(1000, count(), "ids of a prompt to prefill", "work")
    prefills: int = flag(5, count(), "counted prefills a process", "work")
    rounds: int = flag(3, count(), "processes a side and work", "work")
    peer: str = flag(",".join(PACKAGES), PEER_NAMES, "whom to compare with: which of these, or none", "work")
    threads: int | None = flag(None, count(), "threads a process (default: one a core)", "work")
    json: str | None = flag(None, str, "write all that was measured to this file", "work", metavar="PATH")

    def model(self) -> GPTConfig:
        """The preset, with as many positions as the work takes."""
        preset = GPTConfig.preset(self.preset)
        least = max(self.prompt + self.warmup + self.tokens, self.prefill)
        return GPTConfig.preset(self.preset, block_size=max(preset.block_size, least))

    def works(self) -> dict[str, Work]:
        """Those to measure, in the order of WORKS. Raises ConfigError if none is."""
        if self.work == "none":
            raise ConfigError(f"--work none: there is nothing to measure; there are {', '.join(WORKS)}")
        return {name: work for name, work in WORKS.items() if name in peers(self.work)}

    def job(self, work: Work, side: str, folder: Path) -> dict:
        """The work, as the measured process of a side reads it."""
        weights = work.weights if side == "npgpt" else work.peers[side]
        times = {"decode": (self.warmup, self.tokens), "prefill": (1, self.prefills), "first": (0, 0)}[work.kind]
        return {
            "work": work.kind,
            "model": self.model().to_dict(),
            "path": str(folder / (f"{weights}.gguf" if side == "llama.cpp" else "huggingface")),
            "weights": weights,
            "matmul_precision": work.precision if side == "npgpt" else None,
            "repack": True,
            "batch_size": self.batch_size if work.many else 1,
            "prompt": {"prefill": self.prefill, "first": PROMPT_IDS}.get(work.kind, self.prompt),
            "warmup": times[0],
            "times": times[1],
            "seed": SEED,
        }


def main() -> int:
    parser = Parser("decode", "Time decoding with npgpt, and with peers beside it.")
    parser.add_flags(Settings)
    settings = Settings(**vars(parser.parse_args()))
    works = settings.works()
    check_json_path(settings.json)
    machine = describe()
    threads = prepare(settings.threads)
    found = [peer for peer in peers(settings.peer) if _is_installed(peer)]

    with tempfile.TemporaryDirectory() as folder:
        rounds, read = _measure(settings, works, found, Path(folder), threads)

    results = {"benchmark": "decode", "machine": machine, "threads": threads}
    results["settings"] = {name: value for name, value in vars(settings).items() if name != "json"}
    results["works"] = {
        name: _summary(settings, works[name], sides, read[name], rounds) for name, sides in rounds.items()
    }
    write_json(settings.json, results)
    _print(settings, works, results)
    return 1 if any(side.get("void") for sides in results["works"].values() for side in sides.values()) else 0


def _is_installed(peer):
    missing = [package for package in PACKAGES[peer] if not find_spec(package)]
    if missing:
        say(f"{peer} is left out: {' and '.join(missing)} is not installed")
    return not missing


def _measure(settings, works, others, folder, threads) -> tuple[dict, dict]:
    """-> {work: {side: what each of its processes reported}}, {work: {side: bytes read a pass}}

    Memory may be twice as fast in one minute as in the next, so its GB/s are measured before and after each process.
    """
    say("writing the model")
    run_module("bench.npgpt_decode", "--write", json.dumps(settings.model().to_dict()), str(folder))
    jobs = {
        name: {side: settings.job(work, side, folder) for side in ("npgpt", *others) if side in ("npgpt", *work.peers)}
        for name, work in works.items()
    }
    for name, sides in jobs.items():
        for side, job in sides.items():
            say(f"trying {name}: {side} {job['weights']}")
            _try(side, job)
    rounds = {name: {side: [] for side in sides} for name, sides in jobs.items()}
    for i in range(settings.rounds):
        before = _bandwidth()
        for name, sides in jobs.items():
            for side, job in sides.items():
                report = _run(side, job)
                after = _bandwidth()
                before, report["bandwidth"] = after, (before + after) / 2
                if report.get("threads", threads) != threads:
                    raise ProcessFailed(f"{side} ran with {report['threads']} threads instead of {threads}")
                rounds[name][side].append(report)
                say(
                    f"round {i + 1} of {settings.rounds}: {name}, {side} {median(report['seconds']):.4g} s, "
                    f"the memory was read at {report['bandwidth']:.1f} GB/s"
                )
    return rounds, {name: bytes_read(settings.model(), folder, work) for name, work in works.items()}


def _bandwidth() -> float:
    return json.loads(run_module("bench.peaks").output)["gbytes"]


def _try(side, job):
    """Do a little of it, so that kernels are compiled and files are in the operating system's cache."""
    few = {**job, "warmup": min(job["warmup"], 1), "times": min(job["times"], 1)}
    try:
        _run(side, few)
    except ProcessFailed:
        # With weights packed again for this CPU, some versions crash on a vocabulary that is no multiple of 8 or 16.
        if side != "llama.cpp":
            raise
        say("llama.cpp failed, and goes on without packing weights again (use_extra_bufts)")
        job["repack"] = False
        _run(side, {**few, "repack": False})


def _run(side, job) -> dict:
    """A process -> its report. If the work is the first token, its seconds are those of the whole process."""
    if job["work"] != "first":
        return json.loads(run_module(MODULES[side], json.dumps(job)).output)
    if side == "npgpt":
        sample = ("--prompt", PROMPT, "--max-new-tokens=1", "--greedy")
        done = run_module("npgpt.sample", "--model", job["path"], *sample)
        return {"seconds": [done.seconds], "peak": done.peak_memory}
    done = run_module(MODULES[side], json.dumps(job))
    return {**json.loads(done.output), "seconds": [done.seconds]}


def difference(logits: list, expected: list) -> float:
    """The norm of the difference of some logits, relative to that of the expected; infinite if one is not finite."""
    a, b = np.array(logits), np.array(expected)
    relative = np.linalg.norm(a - b) / np.linalg.norm(b)
    return float(relative) if np.isfinite(relative) else inf


def _summary(settings, work, sides, read, rounds) -> dict:
    """{side: its medians, and how much faster npgpt is; or how far its logits are, if that is too far}"""
    found = {}
    for side, runs in sides.items():
        seconds = median([s for run in runs for s in run["seconds"]])
        ids = {"decode": 1, "prefill": settings.prefill, "first": None}[work.kind]
        tokens = ids and ids * (settings.batch_size if work.many else 1) / seconds
        found[side] = {"seconds": seconds, "tokens_per_second": tokens, "rounds": runs}
        found[side] |= {what: max(run[what] for run in runs) for what in ("resident", "peak") if what in runs[0]}
        if work.kind == "decode":
            found[side]["gbytes_per_second"] = read[side] / seconds / 1e9
            shares = [read[side] / median(run["seconds"]) / 1e9 / run["bandwidth"] for run in runs]
            found[side]["share_of_bandwidth"] = median(shares)
        if side != "npgpt":
            found[side] |= speedup(*([run["seconds"] for run in of] for of in (sides["npgpt"], runs)))
        # The logits of npgpt's first work of this kind are the exact ones.
        exact = next((n for n, w in WORKS.items() if (w.kind, w.many) == (work.kind, work.many) and n in rounds), None)
        if exact and work.kind != "first":
            expected = rounds[exact]["npgpt"][0]["logits"]
            found[side]["difference"] = max(difference(run["logits"], expected) for run in runs)
            found[side]["void"] = not found[side]["difference"] <= work.tolerance
    return found


def _print(settings, works, results):
    measured = [side for sides in results["works"].values() for side in sides.values()]
    bandwidths = [run["bandwidth"] for side in measured for run in side["rounds"]]
    print(summary(results["machine"]))
    print(
        f"{settings.preset}, {results['threads']} threads, medians of {settings.rounds} rounds; a prompt of "
        f"{settings.prompt} ids and {settings.tokens} counted tokens, or {settings.prefill} ids to prefill; the memory "
        f"was read at {min(bandwidths):.0f} to {max(bandwidths):.0f} GB/s before and after\n"
    )
    rows, void = [], []
    for name, sides in results["works"].items():
        for side, s in sides.items():
            weights = works[name].weights if side == "npgpt" else works[name].peers[side]
            if s.get("void"):
                void.append(
                    f"VOID: {name}, {side} {weights}: logits differ from npgpt's by {s['difference']:.2g} "
                    f"of their norm, and may by {works[name].tolerance:g}"
                )
                continue
            ratio = f"{s['ratio']:.2f} ({s['lowest_ratio']:.2f} to {s['highest_ratio']:.2f})" if "ratio" in s else ""
            gbytes = s.get("gbytes_per_second")
            rows.append(
                [
                    f"{name}: {side} {weights}",
                    _four_digits(1e3 * s["seconds"]),
                    _four_digits(s["tokens_per_second"]) if s["tokens_per_second"] else "",
                    f"{gbytes:.1f}" if gbytes else "",
                    f"{s['share_of_bandwidth']:.0%}" if gbytes else "",
                    f"{s['resident'] / 1e6:,.0f}" if "resident" in s else "",
                    f"{s['peak'] / 1e6:,.0f}",
                    ratio,
                ]
            )
    header = ["", "ms", "tokens/s", "GB/s", "of memory's", "resident MB", "peak MB", "npgpt's speedup"]
    print(table(header, rows))
    print("\n".join(void), end="\n" if void else "")
    if {"float32", "batch"} <= works.keys():
        one, many = (results["works"][name]["npgpt"]["tokens_per_second"] for name in ("float32", "batch"))
        print(f"\n{settings.batch_size} texts at once give {many / one:.2f} times the tokens/s of one")


def _four_digits(x):
    return f"{x:,.0f}" if x >= 1000 else f"{x:.4g}"


if __name__ == "__main__":
    run(main)
