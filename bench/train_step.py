"""python -m bench.train_step : a training step of npgpt and of its peers.

A step is: gradients to zero, forward, backward, clip them to norm 1, AdamW. Each side runs in a process of its own, one
after the other, several rounds. If a peer's losses differ, it has not done the same work, and its timing is void.

With --train-only PREFIX the parameters with other names are frozen, and each side runs a second time with all of them
trained, to show what freezing saves beside what arithmetic says.
"""

import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.commandline import Parser, check_json_path, check_peer, peer_names, peers, run, table, write_json
from bench.machine import describe, summary
from bench.peers.table import BFLOAT16, PEERS
from bench.processes import ProcessFailed, prepare, run_module, say, speedup
from npgpt import config
from npgpt.commandline import choice, count, flag
from npgpt.config import MATMUL_PRECISIONS, GPTConfig
from npgpt.errors import ConfigError

PRESETS = {
    **config.PRESETS,
    # nanoGPT's README, "I only have a macbook": Shakespeare's 65 characters
    "nanogpt-cpu": {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64, "vocab_size": 65, "bias": False},
}

OPTIMIZER = {"lr": 3e-4, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
SEED = 0
ALL = ", all"  # the sides that train all parameters, beside those with frozen ones


@dataclass(frozen=True)
class Settings:
    preset: str = flag("gpt2", choice(*PRESETS), "a model's size", "model")
    n_layer: int | None = flag(None, count(), "blocks (default: the preset's, as for the next three)", "model")
    n_head: int | None = flag(None, count(), "heads of attention", "model")
    n_embd: int | None = flag(None, count(), "width", "model")
    vocab_size: int | None = flag(None, count(), "size of the vocabulary", "model")
    train_only: str | None = flag(
        None, str, "freeze all parameters whose names don't begin with this, as h.11.", "work", metavar="PREFIX"
    )
    batch_size: int | None = flag(None, count(), "windows a batch (default: 4; 12 for nanogpt-cpu)", "work")
    context: int | None = flag(None, count(), "tokens a window (default: 256, or the preset's if less)", "work")
    steps: int = flag(20, count(), "counted steps a process", "work")
    warmup: int = flag(5, count(), "steps before them, which compile and are not counted", "work")
    rounds: int = flag(3, count(), "processes a side", "work")
    threads: int | None = flag(None, count(), "threads a process (default: one a core)", "work")
    peer: str = flag("torch", peer_names, f"whom to compare with: some of {', '.join(PEERS)}, or none", "work")
    matmul_precision: str = flag("highest", choice(*MATMUL_PRECISIONS), "of npgpt's matrix products", "work")
    json: str | None = flag(None, str, "write all that was measured to this file", "work", metavar="PATH")

    def model(self) -> GPTConfig:
        """The model's configuration. Raises ConfigError on impossible sizes."""
        said = {name: getattr(self, name) for name in ("n_layer", "n_head", "n_embd", "vocab_size")}
        sizes = {**PRESETS[self.preset], **{name: value for name, value in said.items() if value is not None}}
        model = GPTConfig(**sizes)
        return GPTConfig(**{**sizes, "block_size": max(model.block_size, self.context or 1)})

    def job(self) -> dict:
        """The work, as the measured processes read it."""
        model = self.model()
        return {
            "model": model.to_dict(),
            "batch_size": self.batch_size or (12 if self.preset == "nanogpt-cpu" else 4),
            "context": self.context or min(256, model.block_size),
            "steps": self.steps,
            "warmup": self.warmup,
            "seed": SEED,
            "optimizer": OPTIMIZER,
            "grad_clip": 1.0,
            "train_only": self.train_only or "",
            "matmul_precision": self.matmul_precision,
        }


def matrix_parameters(model: GPTConfig) -> int:
    """N: the weights that every token is multiplied with. The vocabulary head counts, tied or not; looking up an
    embedding multiplies nothing, and biases and layer norms hardly matter."""
    C = model.n_embd
    return model.n_layer * (4 * C * C + 2 * C * model.inner_size) + model.vocab_size * C


def step_flops(model: GPTConfig, B: int, T: int, train_only: str = "") -> int:
    """Floating-point operations of the products in a training step; a multiplication and an addition are two.

    Weights     2 N a token forward, twice that backward (for the input and for the weight): 6 N
    Attention   two products forward, q k^T and P v, four backward, of 2 T C a token and layer each, of which the causal
                mask leaves half: 6 n_layer T C

    If only the parameters whose names begin with ``train_only`` train, the forward pass stays the same. Backward, a
    weight's gradient is made if the weight trains, and its input's gradient if anything before it trains; so is
    attention's. With one block trained these are both for its weights, one for those above it and none below it.

    Source: Kaplan et al. 2020, section 2.1; Chowdhery et al. 2022, appendix B, which doesn't halve for the mask.
    """
    from npgpt.gpt import parameter_shapes  # loads Numba, which reads the number of threads

    C, T_C = model.n_embd, T * model.n_embd
    a_token, trains_before = 0, False
    for name, shape in parameter_shapes(model).items():  # in the order in which they are used
        trains = name.startswith(train_only)
        if name.startswith("h.") and len(shape) == 2:
            a_token += 2 * shape[0] * shape[1] * (1 + trains + trains_before)
        if name.endswith("attn.c_proj.weight"):
            a_token += 2 * T_C * (1 + 2 * trains_before)
        trains_before |= trains and name != "lm_head.weight"
    head = "wte.weight" if model.tie_weights else "lm_head.weight"
    a_token += 2 * model.vocab_size * C * (1 + head.startswith(train_only) + trains_before)
    return a_token * B * T


def largest_difference(ours: list[float], theirs: list[float]) -> float:
    """The largest difference of two runs' losses, relative to theirs; infinite if one is shorter or not finite."""
    if len(ours) != len(theirs) or not all(map(math.isfinite, [*ours, *theirs])):
        return math.inf
    return max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))


def main() -> int:
    parser = Parser("train_step", "Time a training step of npgpt, and of peers beside it.")
    parser.add_flags(Settings)
    settings = Settings(**vars(parser.parse_args()))
    job = settings.job()
    check_peer(settings.peer)
    check_json_path(settings.json)
    machine = describe()
    threads = prepare(settings.threads)
    results = {"benchmark": "train_step", "machine": machine, "threads": threads, "job": job}
    model, B, T = GPTConfig.from_dict(job["model"]), job["batch_size"], job["context"]
    _check_prefix(job["train_only"], model)

    rounds = _measure(settings, job, threads)

    flops = {suffix: step_flops(model, B, T, told["train_only"]) for suffix, told in _variants(job).items()}
    results["matrix_parameters"], results["flops_per_step"] = matrix_parameters(model), flops[""]
    results["sides"] = {
        side: _summary(runs, B * T, flops[ALL if side.endswith(ALL) else ""]) for side, runs in rounds.items()
    }
    least = 0 if settings.matmul_precision == "highest" else BFLOAT16
    results["comparisons"] = {
        peer + suffix: compare(rounds["npgpt" + suffix], rounds[peer + suffix], max(PEERS[peer].tolerance, least))
        for suffix in flops
        for peer in peers(settings.peer)
    }
    if job["train_only"]:
        results["frozen"] = _savings(results["sides"], flops)
    write_json(settings.json, results)
    _print(results, settings.rounds)
    return 1 if any(comparison["void"] for comparison in results["comparisons"].values()) else 0


def _check_prefix(prefix, model):
    from npgpt.gpt import parameter_shapes

    if not any(name.startswith(prefix) for name in parameter_shapes(model)):
        raise ConfigError(f"--train-only {prefix}: no parameter's name begins so, as h.0. or wte.weight would")


def _variants(job) -> dict[str, dict]:
    """{suffix of a side's name: its job}: a run with frozen parameters is compared with one that trains all."""
    return {"": job, ALL: {**job, "train_only": ""}} if job["train_only"] else {"": job}


def _savings(sides, flops) -> dict:
    """The share of the step that trains all which a step with frozen parameters takes: by arithmetic, and measured."""
    measured = {
        side: {of: s[of] / sides[side + ALL][of] for of in ("seconds_per_step", "peak_memory")}
        for side, s in sides.items()
        if side + ALL in sides
    }
    return {"flops": flops[""] / flops[ALL], "measured": measured}


def _measure(settings, job, threads) -> dict[str, list[dict]]:
    """-> {side: what each of its processes reported}"""
    sides = {}
    for suffix, told in _variants(job).items():
        sides["npgpt" + suffix] = ("bench.npgpt_train_step", told)
        for peer in peers(settings.peer):
            sides[peer + suffix] = ("bench.peers.torch_train_step", {**told, "mode": PEERS[peer].mode()})
    rounds = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        weights = str(Path(folder) / "weights.safetensors")
        run_module("bench.initial_weights", json.dumps(job["model"]), weights)
        for i in range(settings.rounds):
            for side, (module, told) in sides.items():
                finished = run_module(module, json.dumps({**told, "weights": weights}))
                report = {**json.loads(finished.output), "peak_memory": finished.peak_memory}
                if report["threads"] != threads:
                    raise ProcessFailed(f"{side} ran with {report['threads']} threads instead of {threads}")
                say(f"round {i + 1} of {settings.rounds}: {side} {median(report['seconds']):.4g} s a step")
                rounds[side].append(report)
    return rounds


def _summary(runs, tokens, flops) -> dict:
    seconds = median([s for run in runs for s in run["seconds"]])
    return {
        "seconds_per_step": seconds,
        "phases": {p: median([s for run in runs for s in run["phases"][p]]) for p in runs[0]["phases"]},
        "tokens_per_second": tokens / seconds,
        "gflops_per_second": flops / seconds / 1e9,
        "peak_memory": max(run["peak_memory"] for run in runs),
        "first_loss": runs[0]["losses"][0],
        "last_loss": runs[0]["losses"][-1],
        "rounds": runs,
    }


def compare(ours: list[dict], theirs: list[dict], tolerance: float) -> dict:
    """Reports of the same number of rounds -> how much faster ours is, or, if the losses differ, void."""
    difference = max(largest_difference(a["losses"], b["losses"]) for a, b in zip(ours, theirs, strict=True))
    if difference > tolerance:
        return {"void": True, "largest_loss_difference": difference, "tolerance": tolerance}
    seconds = ([run["seconds"] for run in runs] for runs in (ours, theirs))
    return {
        "void": False,
        "largest_loss_difference": difference,
        "tolerance": tolerance,
        **speedup(*seconds),
    }


def _print(results, rounds):
    job, comparisons = results["job"], results["comparisons"]
    print(summary(results["machine"]))
    print(
        f"batch {job['batch_size']}, context {job['context']}, {results['threads']} threads, npgpt's matmul precision "
        f"{job['matmul_precision']}; {results['flops_per_step'] / 1e9:.4g} GFLOP a step, with N = "
        f"{results['matrix_parameters']:,}\n"
    )
    if job["train_only"]:
        print(
            f"trained are the parameters whose names begin with {job['train_only']}; or all, where the table says so\n"
        )
    void = {peer for peer, comparison in comparisons.items() if comparison["void"]}
    rows = [
        [
            side,
            f"{s['seconds_per_step']:.4g}",
            f"{s['tokens_per_second']:,.0f}",
            f"{s['gflops_per_second']:.3g}",
            f"{s['peak_memory'] / 1e9:.2f} GB",
            f"{s['first_loss']:.4f} to {s['last_loss']:.4f}",
        ]
        for side, s in results["sides"].items()
        if side not in void
    ]
    if len(rows) > 1 or not comparisons:
        print(table(["", "s/step", "tokens/s", "GFLOP/s", "peak memory", "loss"], rows), end="\n\n")
    for peer, comparison in comparisons.items():
        if peer in void:
            print(
                f"VOID: npgpt and {peer} did not do the same work: their losses differ by "
                f"{comparison['largest_loss_difference']:.2g} of their size, and may by {comparison['tolerance']:g}"
            )
        else:
            print(
                f"npgpt is {comparison['ratio']:.2f} times as fast as {peer} "
                f"({comparison['lowest_ratio']:.2f} to {comparison['highest_ratio']:.2f} over {rounds} rounds); "
                f"the losses differ by at most {comparison['largest_loss_difference']:.1g} of their size"
            )
    if "frozen" in results:
        rows = [
            [side, f"{s['seconds_per_step']:.3f}", f"{s['peak_memory']:.3f}"]
            for side, s in results["frozen"]["measured"].items()
            if side not in void
        ]
        rows.append(["arithmetic", f"{results['frozen']['flops']:.3f}", ""])
        print("\n" + table(["share of the step that trains all", "time", "peak memory"], rows))


if __name__ == "__main__":
    run(main)
