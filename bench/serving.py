"""python -m bench.serving : npgpt's server beside npgpt.sample and beside llama.cpp's server.

Each server is a process of its own, and the sides take turns. One client, a third process, asks both for the same: the
same prompts, as many tokens, the same way to choose them. Both read the same weights. Before anything counts, each
continues some prompts greedily. A server whose texts leave npgpt's own early has not done the same work, and so has one
that made more or fewer tokens: its timing is void.
"""

import json
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from shutil import which
from statistics import mean, median

from bench.commandline import Parser, check_json_path, run, table, write_json
from bench.machine import describe, summary
from bench.processes import prepare, run_module, say, speedup
from bench.serving_servers import GGUF, llama_command, npgpt_command, running
from bench.serving_works import CHECKED, requests
from npgpt.commandline import choice, count, flag, pathname
from npgpt.config import PRESETS, GPTConfig
from npgpt.errors import ConfigError

INSIDE, NPGPT, LLAMA = "npgpt.sample", "npgpt.serve", "llama-server"
# The least mean share of a greedy text that is as npgpt makes it alone. Rounding alone sends some texts another way:
# llama.cpp's keys are in float16, and with Q8_0 and Q4_0 it rounds activations to 8 bits. Wrong logits give about 0.
LEAST_EQUAL = {"f32": 0.5, "bf16": 0.3, "int8": 0.1, "int4": 0.03}


@dataclass(frozen=True)
class Settings:
    preset: str = flag("gpt2", choice(*PRESETS), "a model's size", "work")
    model: str | None = flag(None, pathname, "a model with GPT-2's tokens (default: random weights)", "work")
    weights: str = flag("f32", choice(*GGUF), "of npgpt; llama.cpp has F32, F16, Q8_0 or Q4_0", "work")
    streams: int = flag(8, count(2), "texts at once in the work called many", "work")
    prompt: int = flag(16, count(), "tokens of a prompt", "work")
    tokens: int = flag(128, count(2), "tokens that each request makes", "work")
    long_prompt: int = flag(100, count(8), "tokens of the prompts whose first token is timed", "work")
    times: int = flag(3, count(), "counted groups of requests a process and work", "work")
    rounds: int = flag(3, count(), "processes a side", "work")
    peer: str = flag("llama.cpp", choice("llama.cpp", "none"), "whom to compare with", "work")
    llama_server: str = flag(LLAMA, str, "the program, if it is not on the PATH", "work", metavar="PATH")
    threads: int | None = flag(None, count(), "threads a process (default: one a core)", "work")
    json: str | None = flag(None, str, "write all that was measured to this file", "work", metavar="PATH")

    def works(self, **extra: object) -> dict:
        return requests(self.streams, self.prompt, self.tokens, self.long_prompt, self.times, extra)


def main() -> int:
    parser = Parser("serving", "Time npgpt's server, npgpt without one, and llama.cpp's server.")
    parser.add_flags(Settings)
    settings = Settings(**vars(parser.parse_args()))
    if settings.peer != "none" and not which(settings.llama_server):
        raise ConfigError(
            f"there is no {settings.llama_server} here: --llama-server says where it is\n"
            "To measure npgpt alone: --peer none"
        )
    check_json_path(settings.json)
    machine = describe()
    threads = prepare(settings.threads)
    with tempfile.TemporaryDirectory() as folder:
        rounds = _measure(settings, Path(folder), threads)
    results = {"benchmark": "serving", "machine": machine, "threads": threads}
    results["settings"] = {name: value for name, value in vars(settings).items() if name != "json"}
    results["sides"] = {side: summarize(settings, runs, rounds[INSIDE]) for side, runs in rounds.items()}
    results["rounds"] = rounds
    write_json(settings.json, results)
    _print(settings, results)
    return 1 if any(side["void"] for side in results["sides"].values()) else 0


def _measure(settings, folder, threads) -> dict[str, list[dict]]:
    """-> {side: what each of its processes reported}"""
    say("writing the model")
    config = GPTConfig.preset(settings.preset)
    least = max(settings.prompt + settings.tokens, settings.prompt + CHECKED, settings.long_prompt + 1)
    config = replace(config, block_size=max(config.block_size, least))
    source = str(Path(settings.model).resolve()) if settings.model else ""
    write = (json.dumps(config.to_dict()), source, str(folder), GGUF[settings.weights])
    run_module("bench.npgpt_stream", "--write", *write)
    positions = json.loads((folder / "huggingface" / "config.json").read_text())["n_positions"]
    servers = {NPGPT: partial(npgpt_command, folder, settings.weights, settings.streams, threads)}
    if settings.peer != "none":
        program = which(settings.llama_server)
        servers[LLAMA] = partial(llama_command, program, folder, settings.streams, positions, threads)
    rounds = {side: [] for side in (INSIDE, *servers)}
    for i in range(settings.rounds):
        job = {"path": str(folder / "huggingface"), "weights": settings.weights, "works": settings.works()}
        rounds[INSIDE].append(json.loads(run_module("bench.npgpt_stream", json.dumps(job)).output))
        say(f"round {i + 1} of {settings.rounds}: {INSIDE}, {median(rounds[INSIDE][-1]['one']):.4g} s a text")
        for side, command in servers.items():
            # llama.cpp's further samplers are left out: what remains is what npgpt does.
            extra = {"samplers": ["top_k", "temperature"]} if side == LLAMA else {}
            with running(command, folder / "log") as port:
                job = {"port": port, "works": settings.works(**extra)}
                report = json.loads(run_module("bench.serving_client", json.dumps(job)).output)
            rounds[side].append(report)
            one, many = (median(group["seconds"] for group in report[work]) for work in ("one", "many"))
            say(f"round {i + 1} of {settings.rounds}: {side}, {one:.4g} s a text, {many:.4g} s for all at once")
    return rounds


def summarize(settings: Settings, runs: list[dict], alone: list[dict]) -> dict:
    """The reports of a side, and those of npgpt without a server -> medians, and whether they are void.

    one, many       tokens/s, prompts included
    first, shared   seconds to the first token
    client          the share of one core that the client took, at most
    equal           the mean share of the greedy texts up to the first character that is another
    """
    if runs is alone:
        one = settings.tokens / median(s for run in runs for s in run["one"])
        return {"one": one, "first": median(s for run in runs for s in run["first"]), "void": ""}
    texts = zip(runs[0]["check"][0]["texts"], alone[0]["check"], strict=True)
    found = {"equal": mean(share_equal(*pair) for pair in texts), "void": ""}
    for work, streams in (("one", 1), ("many", settings.streams)):
        groups = [group for run in runs for group in run[work]]
        found[work] = streams * settings.tokens / median(group["seconds"] for group in groups)
        if any(made != settings.tokens for group in groups for made in group["tokens"]):
            found["void"] = f"some texts have not {settings.tokens} tokens"
    for work in ("first", "shared"):
        found[work] = median(s for run in runs for group in run[work] for s in group["first"])
    shares = [group["client"] / group["seconds"] for run in runs for work in ("one", "many") for group in run[work]]
    found["client"] = max(shares)
    if found["equal"] < LEAST_EQUAL[settings.weights]:
        found["void"] = f"only {found['equal']:.0%} of the greedy texts are as npgpt makes them without a server"
    return found


def share_equal(text: str, expected: str) -> float:
    """The share of a text that stands before the first other character. Bytes that are no text are left out."""
    text, expected = (each.replace("\ufffd", "") for each in (text, expected))
    equal = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(text, expected, strict=False)))
    return equal / max(len(text), len(expected), 1)


def _print(settings, results):
    sides, streams = results["sides"], settings.streams
    print(summary(results["machine"]))
    print(
        f"{settings.model or settings.preset}, {settings.weights}, {results['threads']} threads, medians of "
        f"{settings.rounds} rounds; {settings.tokens} tokens after prompts of {settings.prompt}; the first token after "
        f"{settings.long_prompt}\n"
    )
    header = [
        "", "one text, tokens/s", f"{streams} texts, tokens/s", "ratio", "first token, ms", "shared beginning, ms",
        "client's share of a core", "greedy texts equal",
    ]  # fmt: skip
    rows = []
    for side, s in sides.items():
        if s["void"]:
            continue
        row = [side, f"{s['one']:.1f}"]
        row += [f"{s['many']:.1f}", f"{s['many'] / s['one']:.2f}"] if "many" in s else ["", ""]
        row += [f"{1e3 * s['first']:.0f}", f"{1e3 * s['shared']:.0f}" if "shared" in s else ""]
        row += [f"{s['client']:.1%}", f"{s['equal']:.0%}"] if "client" in s else ["", ""]
        rows.append(row)
    print(table(header, rows))
    for side, s in sides.items():
        if s["void"]:
            print(f"VOID: {side}: {s['void']}")
    for side, works in ((INSIDE, ("one",)), (LLAMA, ("one", "many"))):
        if side in sides and not sides[side]["void"] and not sides[NPGPT]["void"]:
            ratios = (_ratio(*(results["rounds"][of] for of in (NPGPT, side)), work) for work in works)
            print(f"\n{NPGPT}'s tokens/s beside {side}'s: {'; '.join(ratios)}")


def _ratio(ours, theirs, work):
    """The same as in the other benchmarks: of all rounds together, and the lowest and highest of a round."""
    found = speedup(*([_seconds(run[work]) for run in runs] for runs in (ours, theirs)))
    return f"{work} {found['ratio']:.2f} ({found['lowest_ratio']:.2f} to {found['highest_ratio']:.2f})"


def _seconds(groups):
    """Of npgpt.sample's texts, which are seconds, or of a client's groups."""
    return [group["seconds"] if isinstance(group, dict) else group for group in groups]


if __name__ == "__main__":
    run(main)
