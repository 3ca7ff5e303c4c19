"""python -m npgpt.sample : continue a text with a trained model."""

import sys
from dataclasses import dataclass
from pathlib import Path

from npgpt.commandline import Parser, choice, count, flag, number, pathname, run, use_threads
from npgpt.config import TEMPERATURE, TOP_K, TOP_P
from npgpt.errors import CheckpointError, ConfigError, DataError
from npgpt.signals import StopRequest

MODEL, TEXT, CHOICE = "model", "text", "choice of the next token"
PROMPT_LIMIT = 16 * 2**20  # bytes; a model sees a few thousand at once


@dataclass(frozen=True)
class SampleSettings:
    """What ``python -m npgpt.sample`` can be told."""

    model: str | None = flag(
        None, pathname, "a run, a folder or file with weights, or a name such as gpt2 (default: the newest run)", MODEL
    )
    checkpoint: str = flag("last", choice("last", "best"), "of a run: the last, or the lowest validation loss", MODEL)
    threads: int | None = flag(None, number("N", 1, 1024, whole=True), "threads (default: one per core)", MODEL)

    prompt: str | None = flag(
        None, str, "the text to continue (default: as in training)", TEXT, metavar="TEXT", aliases=("start",)
    )
    prompt_file: str | None = flag(None, pathname, "a file with the text to continue; - for standard input", TEXT)
    num_samples: int = flag(1, count(), "how many texts", TEXT)
    max_new_tokens: int = flag(200, count(), "tokens to add to each", TEXT)
    stop: str | None = flag(None, str, "end a text where this appears; it is not printed", TEXT, metavar="TEXT")

    temperature: float = flag(TEMPERATURE, number("X", 0), "below 1 sharpens the distribution; 0 is greedy", CHOICE)
    top_k: int = flag(TOP_K, count(0), "only the N likeliest tokens; 0 is all", CHOICE)
    top_p: float | None = flag(
        TOP_P, number("X", 0, 1, open_low=True), "only the likeliest tokens that add up to X (default: all)", CHOICE
    )
    greedy: bool = flag(False, bool, "always the likeliest token", CHOICE)
    seed: int | None = flag(None, number("N", 0, 2**63 - 1, whole=True), "random seed (default: a new one)", CHOICE)

    def __post_init__(self):
        if self.prompt is not None and self.prompt_file is not None:
            raise ConfigError("--prompt and --prompt-file both say what to continue: give one")
        if self.stop == "":
            raise ConfigError("--stop needs a text that is not empty")


def main() -> int:
    parser = Parser("sample", "Continue a text with a trained model; it is printed as it is made.")
    parser.add_flags(SampleSettings)
    settings = SampleSettings(**vars(parser.parse_args()))
    use_threads(settings.threads)
    prompt = _read_prompt(settings)

    from npgpt.checkpoints import make_model, open_checkpoint
    from npgpt.checkpoints.runs import newest_run
    from npgpt.generation import Sampling, StopString, stream
    from npgpt.precompile import compile_for_sampling

    path = settings.model or newest_run()
    checkpoint = open_checkpoint(path, settings.checkpoint)
    tokenizer = checkpoint.require_tokenizer()
    if prompt is None:
        prompt = _prompt_of_training(Path(path))
    ids = tokenizer.encode_prompt(prompt)
    compile_for_sampling(checkpoint.config, min(len(ids), checkpoint.config.block_size))
    model = make_model(checkpoint)
    sampling = Sampling(0.0 if settings.greedy else settings.temperature, settings.top_k, settings.top_p)
    try:
        for i in range(settings.num_samples):
            seed = None if settings.seed is None else settings.seed + i
            if i:
                print("\n" + "-" * 40)
            new_tokens = stream(model, [ids], settings.max_new_tokens, sampling, seed)
            _print_text(prompt, new_tokens, tokenizer, StopString(settings.stop))
    except FloatingPointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return 0


def _print_text(prompt, new_tokens, tokenizer, stop_string) -> None:
    print(prompt, end="", flush=True)
    decoder = tokenizer.decoder()
    with StopRequest() as stop:
        for (id,) in new_tokens:
            if stop.requested:
                raise KeyboardInterrupt
            if id == tokenizer.end_of_text:
                break
            print(stop_string.push(decoder.decode(int(id))), end="", flush=True)
            if stop_string.found:
                break
    print(stop_string.finish(), flush=True)


def _read_prompt(settings) -> str | None:
    """The text of --prompt or --prompt-file; None if neither was given. Raises DataError."""
    name = settings.prompt_file
    if name is None:
        return settings.prompt
    try:
        if name == "-":
            data = sys.stdin.buffer.read(PROMPT_LIMIT + 1)
        else:
            with open(name, "rb") as file:
                data = file.read(PROMPT_LIMIT + 1)  # /dev/zero never ends
        if len(data) > PROMPT_LIMIT:
            raise DataError(f"{name}: a prompt can't have more than {PROMPT_LIMIT:,} bytes")
        return data.decode("utf-8-sig")  # a byte-order mark is no part of the text, as in training
    except OSError as error:
        raise DataError(f"{name}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: not UTF-8 text at byte {error.start}") from None


def _prompt_of_training(path: Path) -> str:
    """The beginning of the run's own samples; nothing if it isn't a run."""
    from npgpt.checkpoints.runs import is_run, read_run_config

    plan = read_run_config(path)[2] if path.is_dir() and is_run(path) else {}
    prompt = plan.get("sample_prompt")
    return prompt if isinstance(prompt, str) else ""


if __name__ == "__main__":
    run(main)
