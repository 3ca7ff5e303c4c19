"""Whether tiles work here: the operating system is asked for the unit, and a product shows that it is right."""

import ctypes
import os
import platform
from functools import cache

import numpy as np

from npgpt.kernels.machine.cpu import UNIT
from npgpt.kernels.machine.product import multiply
from npgpt.kernels.machine.vectors import IN_TILES

# Linux gives a process the unit on request (its Documentation/arch/x86/xstate.rst): the registers of a thread are 8 KB,
# which must be saved whenever another one takes the core.
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18


@cache
def trouble_with_tiles(pieces: int) -> str:
    """Why products in tiles, of so many pieces, are not to be used in this process; "" if they are right."""
    if UNIT.tiles == "instructions" and (refusal := _refusal()):
        return refusal
    try:
        return "" if _is_right(pieces) else "a product came out wrong"
    except Exception as error:  # whatever it is, the vector unit has no part in it
        return f"a product failed with {type(error).__name__}: {error}"


def _refusal() -> str:
    """Ask for permission. -> why it is not given, or "" """
    if platform.system() != "Linux":
        return f"npgpt can't ask {platform.system()} for them"
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        refused = libc.syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA)
    except (AttributeError, OSError) as error:
        return f"the operating system can't be asked for them: {error}"
    return f"the operating system refuses them ({os.strerror(ctypes.get_errno())})" if refused else ""


def _is_right(pieces: int) -> bool:
    """Whether a product of whole numbers is exact, to the last bit, and one of any numbers as exact as it should be."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(-99, 100, (70, 100)).astype(np.float32), rng.integers(-99, 100, (100, 90)).astype(np.float32)
    if not np.array_equal(_product(a, b, pieces), a.astype(np.float64) @ b):
        return False
    a, b = rng.standard_normal((70, 100), np.float32), rng.standard_normal((100, 90), np.float32)
    error = _product(a, b, pieces) - a.astype(np.float64) @ b
    # A product of factors around 1 is off by about half of 2^-8, 2^-16, 2^-24, and their sum by float32's rounding.
    allowed = (2.0 ** (-8 * pieces) + 2.0**-21) * np.sqrt(a.shape[1])
    return bool(np.sqrt(np.mean(np.square(error))) <= allowed)


def _product(a, b, pieces):
    c = np.empty((len(a), b.shape[1]), np.float32)
    multiply(a, b, c, IN_TILES[pieces])
    return c
