"""Lines on stderr, and how numbers are written in them."""

import sys

from tqdm import tqdm

from npgpt.streams import without_control


def log(line: str) -> None:
    """Print a line of progress to stderr; results go to stdout."""
    with tqdm.external_write_mode(sys.stderr):  # a live line is not written over, but moves down
        print(line, file=sys.stderr, flush=True)


def log_text(text: str) -> None:
    """Log a text that the model made, indented, without control characters: a terminal would obey them."""
    log("    | " + without_control(text).replace("\n", "\n    | "))


def format_duration(seconds: float) -> str:
    """Minutes and seconds, with hours if there are any.

    >>> format_duration(75), format_duration(3675)
    ('1:15', '1:01:15')
    """
    seconds = round(seconds)
    hours, rest = divmod(seconds, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def format_count(number: float) -> str:
    """Three digits, four below 10k.

    >>> format_count(9999), format_count(61440)
    ('9999', '61.4k')
    """
    for unit, size, least in (("G", 1e9, 999.5e6), ("M", 1e6, 999.5e3), ("k", 1e3, 9999.5)):
        if number >= least:  # which rounds to 1.00 of the unit, to 10.0 of k
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"
