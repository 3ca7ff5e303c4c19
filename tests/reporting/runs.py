"""Runs written by hand, as long and as strange as a test wants them."""

import json
from pathlib import Path

from npgpt.config import GPTConfig
from npgpt.training.folder import write_run_config
from npgpt.training.settings import TrainSettings

CONFIG = GPTConfig(vocab_size=257, block_size=8, n_layer=2, n_head=2, n_embd=8)
LAYERS = ("wte", "wpe", "h.0", "h.1", "ln_f")


def write_run(run: Path, lines: list, max_steps: int = 40, **settings) -> Path:
    """A run's folder with these lines of metrics.jsonl; a line is what JSON holds, or bytes as they are."""
    run.mkdir(parents=True)
    asked = TrainSettings(texts=("text.txt",), max_steps=max_steps, **settings)
    write_run_config(run, CONFIG, asked.to_dict(), asked.resolve(n_windows=9, context=8))
    written = [line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines]
    (run / "metrics.jsonl").write_bytes(b"".join(written))
    return run


def lines_of_a_run(steps: int = 40, every: int = 10, text: str = "The jury", pieces=("The", " jury", ".")) -> list:
    """Lines of all kinds: a step each time, evaluations ``every`` so many. The lowest validation loss comes midway."""
    lines: list = [process(0, "python -m npgpt.train text.txt --max-steps 40")]
    for step in range(steps + 1):
        spent = {"tokens": 16 * step, "seconds": 0.5 * step}
        if step:
            speed = {"tokens_per_second": 900.0, "seconds_left": 0.5 * (steps - step)}
            values = {"loss": 5 - 0.05 * step, "lr": 1e-3 / step, "grad_norm": 1 + step % 3}
            lines.append({"kind": "train", "step": step, **values, **spent, **speed})
            sizes = {name: 0.1 * (i + 1) + 0.01 * step for i, name in enumerate(LAYERS)}
            lines.append({"kind": "layers", "step": step, "gradient": sizes, "weight": sizes})
        if step % every == 0:
            losses = {"train_loss": 5 - 0.05 * step, "val_loss": 5 - 0.04 * min(step, steps - step)}
            lines.append({"kind": "eval", "step": step, **losses, **spent})
            places = {"drop": 0.1} | {f"h.{i}{part}": 0.2 + i for i in range(2) for part in (".attn", ".mlp", "")}
            found = {"losses": [round(4 - 0.01 * step, 3)] * (len(pieces) - 1), "activation": places}
            lines.append({"kind": "passage", "step": step, "pieces": list(pieces), **found})
            lines.append({"kind": "sample", "step": step, "text": f"{text} {step}"})
    return lines


def process(step: int, command: str) -> dict:
    machine = {"processor": "a <b>fast</b> one", "cores": "2"}
    return {"kind": "process", "step": step, "command": command, "date": "2026-01-02T03:04:05+00:00",
            "parameters": 2872, "machine": machine}  # fmt: skip
