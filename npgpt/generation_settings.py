"""What commands that generate share: how the model is held, how tokens are chosen, and what is made of these flags.

Nothing heavy is imported.
"""

from argparse import ArgumentTypeError
from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import inf, isnan, nan
from typing import TYPE_CHECKING

from npgpt.commandline import FlagType, choice, count, flag, number
from npgpt.config import CACHE_DTYPES, TEMPERATURE, TOP_K, TOP_P, WEIGHTS
from npgpt.errors import ConfigError
from npgpt.model_flags import MODEL, WhichModel
from npgpt.process import MAX_THREADS

if TYPE_CHECKING:
    from npgpt.generation import Sampling
    from npgpt.text.tokenizers import Tokenizer

CHOICE = "choice of the next token"


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
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes that are no text, as Linux allows: no model's text has them
        raise ArgumentTypeError(f"{text!r} is not UTF-8") from None
    return text


some_text = FlagType("TEXT", _not_empty)
_penalty = number("X", -1000, 1000)


@dataclass(frozen=True)
class ModelSettings(WhichModel):
    """Which model, and how it is held."""

    weights: str = flag("f32", choice(*WEIGHTS), "of the matrices; fewer bits are faster and less exact", MODEL)
    cache_dtype: str = flag("f32", choice(*CACHE_DTYPES), "of the keys and values kept; bf16 takes half as much", MODEL)
    threads: int | None = flag(None, number("N", 1, MAX_THREADS, whole=True), "threads (default: one per core)", MODEL)


@dataclass(frozen=True)
class ChoiceSettings:
    """How the next token is chosen."""

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
        (), some_text, "its tokens never follow each other, also after a space; can be given several times", CHOICE,
        repeatable=True,
    )  # fmt: skip
    greedy: bool = flag(False, bool, "always the likeliest token", CHOICE)
    seed: int | None = flag(None, number("N", 0, 2**63 - 1, whole=True), "random seed (default: a new one)", CHOICE)


def sampling_of(settings: ChoiceSettings, tokenizer: "Tokenizer", vocab_size: int) -> "Sampling":
    """The settings that ``Sampling`` has too, with ids instead of texts. Raises ConfigError and TokenizerError."""
    from npgpt.generation import Sampling
    from npgpt.text.byte_pairs import BytePairTokenizer

    values = {f.name: getattr(settings, f.name) for f in fields(Sampling) if hasattr(settings, f.name)}
    if settings.greedy:
        values["temperature"] = 0.0
    values["logit_bias"] = {_one_token(text, tokenizer): bias for text, bias in settings.logit_bias}
    # Tokens of a word within a text begin with the space before it.
    spaces = ("", " ") if isinstance(tokenizer, BytePairTokenizer) else ("",)
    values["bad_words"] = [tokenizer.encode(space + word) for word in settings.bad_words for space in spaces]
    return Sampling(**values).without(range(tokenizer.vocab_size, vocab_size))  # a vocabulary may be padded


def _one_token(text, tokenizer) -> int:
    if text in tokenizer.special:
        return tokenizer.special[text]
    ids = tokenizer.encode(text)
    if len(ids) != 1:
        pieces = ", ".join(repr(tokenizer.decode([id])) for id in ids[:5])
        raise ConfigError(f"--logit-bias is for one token, and {text!r} is {len(ids)}: {pieces}")
    return int(ids[0])
