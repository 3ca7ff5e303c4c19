"""The flags that say which part of a model is trained: what they may be, and which go together.

Nothing heavy is imported.
"""

from typing import Any

from npgpt.commandline import as_flag, checked_text
from npgpt.errors import ConfigError
from npgpt.name_patterns import split_patterns

LORA = ("lora_alpha", "lora_dropout", "lora_targets", "lora_base")  # these go with lora_rank


def parse_rates(text: str) -> dict[str, float]:
    """{pattern: learning rate}. Raises ConfigError.

    >>> parse_rates("wte=1e-4, h.11.*=0.003")
    {'wte': 0.0001, 'h.11.*': 0.003}
    """
    found = {}
    for part in split_patterns(text):
        pattern, _, number = part.rpartition("=")
        try:
            rate = float(number)
        except ValueError:
            rate = 0.0
        if not pattern or not 0 < rate < 1e6:
            raise ConfigError(f"{part[:60]!r} is not NAME=LR with a rate above 0, such as wte=1e-4")
        found.pop(pattern.strip(), None)  # the last one counts
        found[pattern.strip()] = rate
    return found


names = checked_text("NAMES", split_patterns)
rates = checked_text("NAMES=LR", parse_rates)


def check_parts(settings: Any) -> None:
    """Raise ConfigError if flags don't go together. ``settings``: a TrainSettings."""
    if not settings.texts:  # a run to be resumed, which keeps its own and says so
        return
    given = [name for name in LORA if getattr(settings, name) is not None]
    if settings.lora_rank is None and given:
        raise ConfigError(f"{as_flag(given[0])} is of an adapter: give its rank, as in --lora-rank 8")
    if settings.lora_rank is not None and settings.init_from is None:
        raise ConfigError("--lora-rank trains an adapter beside a model: name that model, as in --init-from gpt2")
