"""python -m npgpt.sample : continue a text with a trained model."""

import sys
from argparse import ArgumentTypeError
from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import inf, isnan, nan
from pathlib import Path

from npgpt.commandline import FlagType, Parser, choice, count, flag, number, pathname, run, use_threads
from npgpt.config import CACHE_DTYPES, TEMPERATURE, TOP_K, TOP_P, WEIGHTS
from npgpt.errors import CheckpointError, ConfigError, DataError

MODEL, TEXT, CHOICE, SEARCH = "model", "text", "choice of the next token", "beam search"
DRAFT, FORM = "speculative decoding: a draft proposes tokens, the model checks them", "what the new text may be"
PROMPT_LIMIT = 16 * 2**20  # bytes; a model sees a few thousand at once
EARLY_STOPPING: dict[str, bool | str] = {"false": False, "true": True, "never": "never"}


def _text_and_bias(text):
    token, _, bias = text.rpartition(":")
    try:
        value = float(bias)
    except ValueError:
        value = nan
    if not token or isnan(value) or value == inf:
        raise ArgumentTypeError(f"{text!r} is not TOKEN:NUMBER, such as ' the:-2.5'")
    return token, value


def _not_empty(text):
    if not text:
        raise ArgumentTypeError("the text is empty")
    return text


_some_text = FlagType("TEXT", _not_empty)
_penalty = number("X", -1000, 1000)


@dataclass(frozen=True)
class SampleSettings:
    """What ``python -m npgpt.sample`` can be told."""

    model: str | None = flag(
        None, pathname, "a run, a folder or file with weights, or a name such as gpt2 (default: the newest run)", MODEL
    )
    adapter: str | None = flag(
        None, pathname, "a run that trained an adapter, or peft's folder; --model is its base (default: its own)", MODEL
    )
    checkpoint: str = flag("last", choice("last", "best"), "of a run: the last, or the lowest validation loss", MODEL)
    weights: str = flag("f32", choice(*WEIGHTS), "of the matrices; fewer bits are faster and less exact", MODEL)
    cache_dtype: str = flag("f32", choice(*CACHE_DTYPES), "of the keys and values kept; bf16 takes half as much", MODEL)
    threads: int | None = flag(None, number("N", 1, 1024, whole=True), "threads (default: one per core)", MODEL)

    prompt: str | None = flag(
        None, str, "the text to continue (default: as in training)", TEXT, metavar="TEXT", aliases=("start",)
    )
    prompt_file: str | None = flag(None, pathname, "a file with the text to continue; - for standard input", TEXT)
    num_samples: int = flag(1, count(), "how many texts", TEXT)
    max_new_tokens: int = flag(200, count(), "tokens to add to each", TEXT)
    min_new_tokens: int = flag(0, count(0), "the model can't end a text before so many", TEXT)
    max_seconds: float | None = flag(None, number("X", 0, open_low=True), "end all texts after so long", TEXT)
    stop: Sequence[str] = flag(
        (), _some_text, "end a text where this appears, without it; can be given several times", TEXT, repeatable=True
    )
    show_probs: bool = flag(False, bool, "a line for each token: its probability, the likeliest others", TEXT)

    temperature: float = flag(TEMPERATURE, number("X", 0), "below 1 sharpens the distribution; 0 is greedy", CHOICE)
    top_k: int = flag(TOP_K, count(0), "only the N likeliest tokens; 0 is all", CHOICE)
    top_p: float | None = flag(
        TOP_P, number("X", 0, 1, open_low=True), "only the likeliest tokens that add up to X (default: all)", CHOICE
    )
    min_p: float | None = flag(
        None, number("X", 0, 1), "only tokens at least X times as likely as the likeliest (default: all)", CHOICE
    )
    typical_p: float | None = flag(
        None,
        number("X", 0, 1, open_low=True),
        "only tokens as surprising as usual that add up to X (default: all)",
        CHOICE,
    )
    repetition_penalty: float = flag(
        1.0, number("X", 0, 1000, open_low=True), "makes what was in prompt or text less likely; 1 is none", CHOICE
    )
    presence_penalty: float = flag(0.0, _penalty, "subtracted from logits of tokens in the new text", CHOICE)
    frequency_penalty: float = flag(0.0, _penalty, "the same, for each time that they are there", CHOICE)
    no_repeat_ngram_size: int = flag(0, count(0), "no N tokens in a row twice; 0 is off", CHOICE)
    logit_bias: Sequence[tuple[str, float]] = flag(
        (), FlagType("TOKEN:NUMBER", _text_and_bias),
        "added to the logit of one token, given as text; can be given several times", CHOICE, repeatable=True,
    )  # fmt: skip
    bad_words: Sequence[str] = flag(
        (), _some_text, "this never appears, after a space neither; can be given several times", CHOICE, repeatable=True
    )
    greedy: bool = flag(False, bool, "always the likeliest token", CHOICE)
    seed: int | None = flag(None, number("N", 0, 2**63 - 1, whole=True), "random seed (default: a new one)", CHOICE)

    beams: int | None = flag(None, count(), "look for the likeliest text in N ways at once, instead of drawing", SEARCH)
    length_penalty: float = flag(1.0, number("X", -20, 20), "above 0 favours long texts, below 0 short ones", SEARCH)
    early_stopping: str = flag(
        "false", choice(*EARLY_STOPPING), "true: end with N finished texts; never: when no better one can come", SEARCH
    )

    regex: str | None = flag(None, _some_text, "matches this regular expression as a whole", FORM)
    choices: Sequence[str] = flag(
        (), _some_text, "one of the texts that are given so, at least two", FORM, repeatable=True
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
        if self.min_new_tokens > self.max_new_tokens:
            raise ConfigError(f"--min-new-tokens {self.min_new_tokens} is above --max-new-tokens {self.max_new_tokens}")
        if self.beams is not None:
            if self.num_samples > self.beams:
                raise ConfigError(f"--num-samples {self.num_samples}: a search finds no more texts than --beams")
            for name in ("show_probs", "max_seconds", "regex", "choices", "draft"):
                if getattr(self, name):
                    raise ConfigError(f"--{name.replace('_', '-')} goes with drawing, not with --beams: leave one out")


def main() -> int:
    parser = Parser("sample", "Continue a text with a trained model; it is printed as it is made.")
    parser.add_flags(SampleSettings)
    settings = SampleSettings(**vars(parser.parse_args()))
    use_threads(settings.threads)
    prompt = _read_prompt(settings)

    from npgpt.checkpoints import make_model
    from npgpt.checkpoints.runs import newest_run
    from npgpt.generation import Decoder
    from npgpt.generation.drafts import PromptLookup
    from npgpt.generation.samples import Samples
    from npgpt.precompile import compile_for_sampling

    path = settings.adapter or settings.model or newest_run()
    checkpoint = _open(settings, path)
    tokenizer = checkpoint.require_tokenizer()
    if prompt is None:
        prompt = _prompt_of_training(Path(path))
    ids = tokenizer.encode_prompt(prompt)
    sampling = _sampling(settings, tokenizer, checkpoint.config.vocab_size)
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


def _open(settings, path):
    """The model's checkpoint, with the adapter if one is given."""
    from npgpt.adapters.files import open_adapter, with_adapter
    from npgpt.checkpoints import open_checkpoint

    if settings.adapter is not None:
        adapter = open_adapter(settings.adapter, settings.checkpoint)
        if settings.model is not None:  # which is taken as the base, whatever the adapter says
            return with_adapter(open_checkpoint(settings.model), adapter)
    return open_checkpoint(path, settings.checkpoint)


def _sampling(settings, tokenizer, vocab_size):
    """The settings that ``Sampling`` has too, with ids instead of texts."""
    from npgpt.generation import Sampling

    values = {f.name: getattr(settings, f.name) for f in fields(Sampling)}
    if settings.greedy:
        values["temperature"] = 0.0
    no_text = range(tokenizer.vocab_size, vocab_size)  # a model's vocabulary may be padded
    biases = {_one_token(text, tokenizer): bias for text, bias in settings.logit_bias}
    values["logit_bias"] = {**biases, **dict.fromkeys(no_text, -inf)}
    # GPT-2's tokens of a word within a text begin with the space before it.
    spaces = ("", " ") if tokenizer.name == "gpt2" else ("",)
    values["bad_words"] = [tokenizer.encode(space + word) for word in settings.bad_words for space in spaces]
    return Sampling(**values)


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


def _one_token(text, tokenizer) -> int:
    from npgpt.text.tokenizers import END_OF_TEXT

    if text == END_OF_TEXT and tokenizer.end_of_text is not None:
        return tokenizer.end_of_text
    ids = tokenizer.encode(text)
    if len(ids) != 1:
        pieces = ", ".join(repr(tokenizer.decode([id])) for id in ids[:5])
        raise ConfigError(f"--logit-bias is for one token, and {text!r} is {len(ids)}: {pieces}")
    return int(ids[0])


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
