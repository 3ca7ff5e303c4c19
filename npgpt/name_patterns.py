"""Parameters chosen by name: ``wte``, ``h.11.*``, ``*.bias``. Nothing heavy is imported."""

import difflib
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from npgpt.errors import ConfigError


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern covers a parameter: it matches the whole name, or the part of the model that it is in.

    * stands for any characters, ? for one, [02] for one of these.

    >>> matches("wte.weight", "wte"), matches("h.11.ln_1.bias", "h.1"), matches("h.11.ln_1.bias", "h.1*.ln_?")
    (True, False, True)
    """
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:n]), pattern) for n in range(1, len(parts) + 1))


def matching(names: Iterable[str], pattern: str, what: str = "parameter") -> list[str]:
    """The names that a pattern covers. Raises ConfigError if there is none; the message lists the nearest ones.

    >>> matching(["wte.weight", "wpe.weight", "ln_f.bias"], "w*")
    ['wte.weight', 'wpe.weight']
    """
    names = list(names)
    found = [name for name in names if matches(name, pattern)]
    if not found:
        near = ", ".join(_near(names, pattern))
        raise ConfigError(f"{pattern[:60]!r} matches no {what}. Names near it: {near}")
    return found


def split_patterns(text: str) -> list[str]:
    """The patterns of a flag: "wte, wpe" -> ["wte", "wpe"]. Raises ConfigError on an empty one."""
    patterns = [pattern.strip() for pattern in text.split(",")]
    if not all(patterns):
        raise ConfigError(f"{text[:60]!r}: a pattern is empty; write them as in wte,h.11.*")
    return patterns


def _near(names, pattern):
    """The names, or leading parts of names, that are most like the pattern; if none is, the model's parts."""
    parts = dict.fromkeys(".".join(name.split(".")[:n]) for name in names for n in range(1, name.count(".") + 2))
    plain = pattern.replace("*", "").replace("?", "").strip(".")
    near = difflib.get_close_matches(plain, parts, n=4, cutoff=0.5)
    if near:
        return near
    first_parts = list(dict.fromkeys(name.split(".")[0] for name in names))
    if len(first_parts) > 1:
        return first_parts
    # All are in one part, as LoRA's are in the blocks: the same in each block.
    return list(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in names))[:4]
