"""python -m npgpt.sample : continue a text with a trained model."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from npgpt.commandline import Parser, as_flag, choice, count, flag, number, pathname
from npgpt.errors import CheckpointError, ConfigError, DataError
from npgpt.generation_settings import ChoiceSettings, ModelSettings, sampling_of, some_text
from npgpt.model_flags import open_model
from npgpt.process import run, use_threads

TEXT, SEARCH = "text", "beam search"
DRAFT, FORM = "speculative decoding: a draft proposes tokens, the model checks them", "what the new text may be"
PROMPT_LIMIT = 16 * 2**20  # bytes; a model sees a few thousand at once
ONLY_DRAWING = (
    "temperature", "top_k", "top_p", "min_p", "typical_p", "greedy", "seed", "show_probs", "max_seconds", "regex",
    "choices", "draft",
)  # fmt: skip
NEEDS = {"length_penalty": "beams", "early_stopping": "beams", "draft_tokens": "draft"}
EARLY_STOPPING: dict[str, bool | str] = {"false": False, "true": True, "never": "never"}


@dataclass(frozen=True)
class TextSettings:
    """What is continued, how often and how far."""

    prompt: str | None = flag(
        None, str, "the text to continue (default: as in training)", TEXT, metavar="TEXT", aliases=("start",)
    )
    prompt_file: str | None = flag(None, pathname, "a file with the text to continue; - for standard input", TEXT)
    num_samples: int = flag(1, count(), "how many texts", TEXT)
    max_new_tokens: int = flag(200, count(), "tokens to add to each", TEXT)
    min_new_tokens: int = flag(0, count(0), "the model can't end a text before so many", TEXT)
    max_seconds: float | None = flag(None, number("X", 0, open_low=True), "end all texts after so long", TEXT)
    stop: Sequence[str] = flag(
        (), some_text, "end a text where this appears, without it; can be given several times", TEXT, repeatable=True
    )
    show_probs: bool = flag(False, bool, "a line for each token: its probability, the likeliest others", TEXT)


@dataclass(frozen=True)
class SampleSettings(ChoiceSettings, TextSettings, ModelSettings):
    """What ``python -m npgpt.sample`` can be told."""

    beams: int | None = flag(None, count(), "look for the likeliest text in N ways at once, instead of drawing", SEARCH)
    length_penalty: float = flag(1.0, number("X", -20, 20), "above 0 favours long texts, below 0 short ones", SEARCH)
    early_stopping: str = flag(
        "false", choice(*EARLY_STOPPING), "true: end with N finished texts; never: when no better one can come", SEARCH
    )

    regex: str | None = flag(None, some_text, "matches this regular expression as a whole", FORM)
    choices: Sequence[str] = flag(
        (), some_text, "the new text is one of these; give the flag at least twice", FORM, repeatable=True
    )

    draft: str | None = flag(
        None, pathname, "a smaller model with the same tokens; or lookup: what followed the last words before", DRAFT
    )
    draft_tokens: int = flag(4, number("N", 1, 32, whole=True), "tokens that are proposed at a time, at most", DRAFT)

    def __post_init__(self):
        if self.regex is not None and self.choices:
            raise ConfigError("--regex and --choices both say what the text may be: give one")
        if len(self.choices) == 1:
            raise ConfigError("--choices needs at least two texts: give it once for each")
        if self.prompt is not None and self.prompt_file is not None:
            raise ConfigError("--prompt and --prompt-file both say what to continue: give one")
        if (self.prompt or "").startswith("FILE:") and os.path.isfile(name := self.prompt[5:]):  # as nanoGPT has it
            raise ConfigError(f"--prompt takes a text, and {name} is a file: give --prompt-file {name}")
        if self.min_new_tokens > self.max_new_tokens:
            raise ConfigError(f"--min-new-tokens {self.min_new_tokens} is above --max-new-tokens {self.max_new_tokens}")
        defaults = {f.name: f.default for f in fields(self)}
        for name, other in NEEDS.items():
            if getattr(self, name) != defaults[name] and getattr(self, other) is None:
                raise ConfigError(f"{as_flag(name)} goes with {as_flag(other)}: give it too")
        if self.beams is not None:
            if self.num_samples > self.beams:
                raise ConfigError(f"--num-samples {self.num_samples}: a search finds no more texts than --beams")
            for name in ONLY_DRAWING:
                if getattr(self, name) != defaults[name]:
                    raise ConfigError(f"{as_flag(name)} goes with drawing, not with --beams: leave one out")


def main() -> int:
    parser = Parser("sample", "Continue a text with a trained model; it is printed as it is made.")
    parser.add_flags(SampleSettings)
    settings = SampleSettings(**vars(parser.parse_args()))
    use_threads(settings.threads)
    prompt = _read_prompt(settings)

    from npgpt.checkpoints import make_model
    from npgpt.generation import Decoder
    from npgpt.generation.drafts import PromptLookup
    from npgpt.generation.samples import Samples
    from npgpt.precompile import compile_for_sampling

    path, checkpoint = open_model(settings)
    tokenizer = checkpoint.require_tokenizer()
    if prompt is None:
        prompt = _prompt_of_training(path)
    ids = tokenizer.encode_prompt(prompt)
    if len(ids) > (seen := checkpoint.config.block_size):
        print(f"the model sees the last {seen:,} of the prompt's {len(ids):,} tokens", file=sys.stderr)
    sampling = sampling_of(settings, tokenizer, checkpoint.config.vocab_size)
    constraint = _constraint(settings, tokenizer, checkpoint.config.vocab_size)
    draft = None if settings.draft in (None, "lookup") else _open_draft(settings.draft, tokenizer, checkpoint.config)
    for config in (checkpoint.config, *([draft.config] if draft else [])):
        drafted = settings.draft_tokens if settings.draft else 0
        compile_for_sampling(config, len(ids), settings.max_new_tokens, settings.weights, settings.cache_dtype, drafted)

    def decoder_of(checkpoint):
        return Decoder(make_model(checkpoint), settings.weights, settings.cache_dtype)

    samples = Samples(
        decoder_of(checkpoint), tokenizer, prompt, ids, sampling, settings.num_samples, settings.max_new_tokens,
        tuple(settings.stop), settings.seed, settings.max_seconds, constraint,
        PromptLookup() if settings.draft == "lookup" else draft and decoder_of(draft), settings.draft_tokens,
        settings.show_probs,
    )  # fmt: skip
    try:
        if settings.beams:
            samples.print_likeliest(settings.beams, settings.length_penalty, EARLY_STOPPING[settings.early_stopping])
        else:
            samples.print()
    except FloatingPointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return 0


def _constraint(settings, tokenizer, vocab_size):
    """What --regex or --choices says of the new text; None if neither was given."""
    from npgpt.generation.constraints import Choices, Regex

    if settings.regex is not None:
        return Regex(settings.regex, tokenizer, vocab_size)
    return Choices(settings.choices, tokenizer, vocab_size) if settings.choices else None


def _open_draft(name, tokenizer, config):
    """The checkpoint of --draft. Raises ConfigError if its tokens are others."""
    from npgpt.checkpoints import open_checkpoint

    draft = open_checkpoint(name)
    if draft.config.vocab_size != config.vocab_size or draft.require_tokenizer().to_dict() != tokenizer.to_dict():
        raise ConfigError(f"--draft {name}: it has other tokens than the model: a draft needs the same tokenizer")
    return draft


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
