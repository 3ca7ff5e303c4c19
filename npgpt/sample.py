"""python -m npgpt.sample : continue a text with a trained model."""

import sys
from argparse import ArgumentTypeError
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from math import inf, isnan, nan
from pathlib import Path
from time import perf_counter

from npgpt.commandline import FlagType, Parser, choice, count, flag, number, pathname, run, use_threads
from npgpt.config import TEMPERATURE, TOP_K, TOP_P
from npgpt.errors import CheckpointError, ConfigError, DataError
from npgpt.signals import StopRequest

MODEL, TEXT, CHOICE, SEARCH = "model", "text", "choice of the next token", "beam search"
PROMPT_LIMIT = 16 * 2**20  # bytes; a model sees a few thousand at once
SAMPLES_AT_ONCE = 16  # a step costs little more for so many texts than for one, and the cache takes memory for each
OTHERS = 5  # tokens that --show-probs looks for
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
    checkpoint: str = flag("last", choice("last", "best"), "of a run: the last, or the lowest validation loss", MODEL)
    cache_dtype: str = flag("f32", choice("f32", "bf16"), "of the keys and values kept; bf16 takes half as much", MODEL)
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

    def __post_init__(self):
        if self.prompt is not None and self.prompt_file is not None:
            raise ConfigError("--prompt and --prompt-file both say what to continue: give one")
        if self.min_new_tokens > self.max_new_tokens:
            raise ConfigError(f"--min-new-tokens {self.min_new_tokens} is above --max-new-tokens {self.max_new_tokens}")
        if self.beams is not None:
            if self.num_samples > self.beams:
                raise ConfigError(f"--num-samples {self.num_samples}: a search finds no more texts than --beams")
            for name in ("show_probs", "max_seconds"):
                if getattr(self, name):
                    raise ConfigError(f"--{name.replace('_', '-')} goes with drawing, not with --beams: leave one out")


def main() -> int:
    parser = Parser("sample", "Continue a text with a trained model; it is printed as it is made.")
    parser.add_flags(SampleSettings)
    settings = SampleSettings(**vars(parser.parse_args()))
    use_threads(settings.threads)
    prompt = _read_prompt(settings)

    from npgpt.checkpoints import make_model, open_checkpoint
    from npgpt.checkpoints.runs import newest_run
    from npgpt.generation import Decoder
    from npgpt.precompile import compile_for_sampling

    path = settings.model or newest_run()
    checkpoint = open_checkpoint(path, settings.checkpoint)
    tokenizer = checkpoint.require_tokenizer()
    if prompt is None:
        prompt = _prompt_of_training(Path(path))
    ids = tokenizer.encode_prompt(prompt)
    sampling = _sampling(settings, tokenizer, checkpoint.config.vocab_size)
    rows = settings.beams or min(settings.num_samples, SAMPLES_AT_ONCE)
    compile_for_sampling(checkpoint.config, min(len(ids), checkpoint.config.block_size), rows)
    decoder = Decoder(make_model(checkpoint), cache_dtype=settings.cache_dtype)
    show = _search if settings.beams else _draw
    try:
        show(decoder, tokenizer, prompt, ids, sampling, settings)
    except FloatingPointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return 0


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


def _one_token(text, tokenizer) -> int:
    from npgpt.text.tokenizers import END_OF_TEXT

    if text == END_OF_TEXT and tokenizer.end_of_text is not None:
        return tokenizer.end_of_text
    ids = tokenizer.encode(text)
    if len(ids) != 1:
        pieces = ", ".join(repr(tokenizer.decode([id])) for id in ids[:5])
        raise ConfigError(f"--logit-bias is for one token, and {text!r} is {len(ids)}: {pieces}")
    return int(ids[0])


def _draw(decoder, tokenizer, prompt, ids, sampling, settings) -> None:
    """Draw the samples, several at a time, and print them one after the other, as they are made."""
    from npgpt.generation.output import Page, Stopwatch
    from npgpt.generation.stop import StopTexts
    from npgpt.generation.token_lines import HEADER, token_line

    texts = StopTexts(tokenizer, settings.stop)
    page = Page(f"{prompt}\n{HEADER}\n" if settings.show_probs else prompt)
    tokens = Stopwatch(_tokens(decoder, ids, sampling, settings, texts))
    with StopRequest() as stop:
        for token in tokens:
            if stop.requested:
                raise KeyboardInterrupt
            text, ended = texts.take(token.row, token.ended is not None), token.ended is not None
            if settings.show_probs:
                text = token_line(token, tokenizer) + "\n" * (not ended)
            page.add(token.row, text, ended)
    print(tokens.summary(min(len(ids), decoder.config.block_size)), file=sys.stderr)


def _tokens(decoder, ids, sampling, settings, texts) -> Iterator:
    """The tokens of all samples, whose numbers are their rows. The prompt goes through the model once for all."""
    from npgpt.generation import Prefix

    again = settings.num_samples > SAMPLES_AT_ONCE and len(ids) <= decoder.config.block_size
    begin = perf_counter()
    prefix = Prefix.compute(decoder, ids) if again else None
    for first in range(0, settings.num_samples, SAMPLES_AT_ONCE):
        left = settings.max_seconds and max(settings.max_seconds - (perf_counter() - begin), 1e-9)
        yield from _tokens_from(first, decoder, ids, sampling, settings, texts, prefix, left)


def _tokens_from(first, decoder, ids, sampling, settings, texts, prefix, max_seconds) -> Iterator:
    """Those of the samples ``first`` and following. Sample i has the seed --seed + i, and is the same alone."""
    from npgpt.generation import stream

    def numbered(token):
        return replace(token, row=first + token.row)

    end = texts.tokenizer.end_of_text
    tokens = stream(
        decoder, [ids], settings.max_new_tokens, sampling,
        seed=None if settings.seed is None else settings.seed + first,
        num_samples=min(SAMPLES_AT_ONCE, settings.num_samples - first),
        stop_ids=() if end is None else (end,),
        stop_if=lambda token: texts(numbered(token)),
        max_seconds=max_seconds, logprobs=OTHERS if settings.show_probs else None, prefix=prefix,
    )  # fmt: skip
    return map(numbered, tokens)


def _search(decoder, tokenizer, prompt, ids, sampling, settings) -> None:
    """Look for the likeliest texts, and print them, the best first."""
    from npgpt.generation.beam import beam_search
    from npgpt.generation.output import Page
    from npgpt.generation.stop import StopStrings

    end = tokenizer.end_of_text
    page, begin = Page(prompt), perf_counter()
    found = beam_search(
        decoder, ids, settings.max_new_tokens, settings.beams, settings.length_penalty,
        EARLY_STOPPING[settings.early_stopping], settings.num_samples, () if end is None else (end,), sampling,
    )  # fmt: skip
    seconds = perf_counter() - begin
    for row, beam in enumerate(found):
        stops = StopStrings(settings.stop)
        text = stops.push(tokenizer.decode(id for id in beam.ids[len(ids) :] if id != end))
        page.add(row, text + stops.finish(), ended=True)
    longest = max(len(beam.ids) - len(ids) for beam in found)
    print(f"{settings.beams} beams of up to {longest} new tokens in {seconds:.2f} s", file=sys.stderr)


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
