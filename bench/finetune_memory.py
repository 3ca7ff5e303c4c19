"""python -m bench.finetune_memory : the memory that fine-tuning takes, all of a model or an adapter beside it.

Each row is ``python -m npgpt.train`` in a process of its own, beside a checkpoint with random weights that is written
for it to a temporary folder, a few rows at a time. Its memory is what was resident at most (ru_maxrss).
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.commandline import Parser, check_json_path, run, table, write_json
from bench.machine import ROOT, describe, summary
from bench.processes import prepare, run_module, say
from npgpt.commandline import choice, count, flag
from npgpt.config import PRESETS, GPTConfig

WAYS = {
    "all": (),
    "lora": ("--lora-rank=8",),
    "qlora": ("--lora-rank=8", "--lora-base=nf4"),
    "qlora, recompute": ("--lora-rank=8", "--lora-base=nf4", "--recompute"),
}


@dataclass(frozen=True)
class Settings:
    preset: str = flag("gpt2", choice(*PRESETS), "the model's size", "work")
    ways: str = flag("all", choice("all", "qlora"), "all of the ways to fine-tune, or QLoRA alone", "work")
    batch_size: int = flag(1, count(), "sequences per batch", "work")
    context: int = flag(256, count(), "tokens per sequence", "work")
    max_steps: int = flag(3, count(), "steps", "work")
    threads: int | None = flag(None, count(), "threads a process (default: one a core)", "work")
    json: str | None = flag(None, str, "write all that was measured to this file", "work", metavar="PATH")


def main() -> int:
    parser = Parser("finetune_memory", "Measure the memory of npgpt.train, with and without an adapter.")
    parser.add_flags(Settings)
    settings = Settings(**vars(parser.parse_args()))
    check_json_path(settings.json)
    threads = prepare(settings.threads)
    results = {"benchmark": "finetune_memory", "machine": describe(), "threads": threads, "settings": vars(settings)}
    ways = {way: flags for way, flags in WAYS.items() if settings.ways == "all" or way.startswith("qlora")}
    with tempfile.TemporaryDirectory() as folder:
        write_random(settings.preset, Path(folder) / "base")
        results["peak_bytes"] = peaks = {}
        for way, flags in ways.items():
            say(way)
            peaks[way] = run_module("npgpt.train", *_arguments(settings, folder, way), *flags).peak_memory
    write_json(settings.json, results)
    print(summary(results["machine"]))
    print(f"{settings.preset}, {settings.batch_size} x {settings.context} tokens, {settings.max_steps} steps\n")
    print(
        table(["what is trained", "MB resident at most"], [[way, f"{peak / 1e6:,.0f}"] for way, peak in peaks.items()])
    )
    return 0


def _arguments(settings, folder, way):
    return (
        str(ROOT / "data" / "the-verdict.txt"), f"--init-from={folder}/base", f"--out={folder}/{way}",
        f"--batch-size={settings.batch_size}", f"--context={settings.context}", f"--max-steps={settings.max_steps}",
        "--eval-batches=1", "--sample-every=0", "--keep=0",
    )  # fmt: skip


def write_random(preset: str, folder: Path) -> None:
    """A Hugging Face folder with random weights; no more than a few rows of a matrix are in memory at a time."""
    from npgpt.checkpoints import write_checkpoint
    from npgpt.checkpoints.shared.checkpoint import Checkpoint
    from npgpt.checkpoints.shared.lazy_tensor import LazyTensor
    from npgpt.checkpoints.shared.tokenizers import by_size
    from npgpt.gpt import parameter_shapes

    config, rng = GPTConfig.preset(preset, dropout=0.0), np.random.default_rng(0)

    def random(name, shape):
        def read_rows(first, last):
            rows = np.float32(0.02) * rng.standard_normal((last - first, *shape[1:]), np.float32)
            return rows + 1 if "ln_" in name and name.endswith("weight") else rows

        return LazyTensor(shape, "F32", read_rows)

    tensors = {name: random(name, shape) for name, shape in parameter_shapes(config).items()}
    checkpoint = Checkpoint("random", config, tensors, folder, find_tokenizer=by_size(config.vocab_size))
    write_checkpoint(folder, checkpoint, "huggingface")


if __name__ == "__main__":
    run(main)
