"""Damaged copies of a good file, the same ones every time, and how many of them a test tries."""

import random
import tracemalloc
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from hypothesis import settings

from npgpt.errors import CheckpointError

# 200 by default, 20,000 in the thorough profile, in which Hypothesis draws more cases too.
COUNT = 200 if settings().max_examples < 1000 else 20_000

_NUMBERS = [0, 1, 2, 3, 7, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1]


def mutated(good: bytes, seed: int, where: range | None = None) -> bytes:
    """One to three changes, drawn from ``seed``: bits, bytes, numbers of 1 to 8 bytes, parts cut, doubled, exchanged.

    ``where``: most changes are made there (a header, say), where they do more than alter a weight.
    """
    rng = random.Random(seed)
    data = bytearray(good)
    for _ in range(rng.choice([1, 1, 2, 3])):
        if not data:
            break
        places = where if where is not None and rng.random() < 0.8 else range(len(data))
        i = min(rng.choice(places), len(data) - 1)
        match rng.randrange(9):
            case 0 | 1:
                data[i] ^= 1 << rng.randrange(8)
            case 2:
                data[i] = rng.choice([rng.randrange(256), 0, 255, data[rng.randrange(len(data))]])
            case 3 | 4:
                width = rng.choice([1, 2, 4, 8])
                number = rng.choice(_NUMBERS) if rng.random() < 0.7 else rng.randrange(2**64)
                data[i : i + width] = (number % 256**width).to_bytes(width, rng.choice(["little", "little", "big"]))
            case 5:
                del data[i : i + rng.choice([1, 1, 2, 4, 8, 40])]
            case 6:
                data[i:i] = data[i : i + rng.choice([1, 2, 4, 8, 40])]
            case 7:
                j, width = min(rng.choice(places), len(data) - 1), rng.choice([1, 4, 8, 16])
                data[i : i + width], data[j : j + width] = data[j : j + width], data[i : i + width]
            case 8:
                del data[rng.randrange(len(data) + 1) if rng.random() < 0.5 else i :]
    return bytes(data)


@contextmanager
def memory_at_most(size: int):
    """Fails if more than 3 times ``size`` bytes and 64 MB are taken inside the block, by Python and NumPy together."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= 3 * size + (64 << 20), f"{peak:,} bytes taken for a file of {size:,}"


def refusal(read: Callable[[], object], path: Path) -> str | None:
    """The message with which ``read`` refuses a stranger's file, or None: short, in little memory."""
    try:
        with memory_at_most(path.stat().st_size):
            read()
    except CheckpointError as error:
        message = str(error)
        assert message.startswith(str(path)), message
        assert len(message) < 500 + len(str(path)), message
        assert message.replace("\n", "").isprintable(), message
        assert message.count("\n") < 3, message
        return message
    return None
