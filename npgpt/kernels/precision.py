"""The precision of products of float32 matrices. The words are torch's, from ``set_float32_matmul_precision``:

    highest     as exact as float32 is
    high        may be less exact: the factors keep at least 16 of float32's 24 bits
    medium      the factors are rounded to bfloat16, 8 bits and all of float32's range, where that is faster

Sums are float32 in each of them; so are weights, gradients and everything that isn't a matrix product. Small products
and those of a few rows, as for single tokens, are never rounded, since they would gain nothing.

Which instructions multiply is another question, with an answer for each precision and machine:

    way         medium                          high                    highest
    vectors     float32                         float32                 float32
    pairs       bfloat16, AVX-512 BF16
    tiles       one piece of bfloat16           two, their 16 bits      three, which are as exact as float32
    blas        float32                         float32                 float32

Where there are several ways the fastest one is taken: pairs take half the time of float32 on AMD's CPUs, and 1.45 times
as long on Intel's. fastest.py measures it once on a machine. With NPGPT_CPU it is the last one in the table that this
unit has. float64 has one way.

"blas" is the library that NumPy calls. It is considered on Apple's CPUs alone, since only Apple's library can use their
matrix unit. Elsewhere our products are faster, and no sum depends on the number of threads.
"""

from functools import cache

import numba
import numpy as np

from npgpt.errors import ConfigError
from npgpt.kernels.fastest import fastest_way
from npgpt.kernels.machine.cpu import IS_ASKED_FOR, UNIT
from npgpt.kernels.machine.tile_check import trouble_with_tiles
from npgpt.kernels.machine.vectors import IN_PAIRS, IN_TILES, pieces_of

PRECISIONS = {"highest": 3, "high": 2, "medium": 1}  # and the pieces of bfloat16 that it takes in tiles
WAYS = ("vectors", "pairs", "tiles", "blas")
_FLOAT32 = np.dtype(np.float32)

_precision = "highest"
_way: str | None = None  # None: to be chosen


def set_matmul_precision(precision: str, way: str | None = None) -> None:
    """Set the precision in this process: "highest" (the default), "high" or "medium". Raises ConfigError.

    way     one of WAYS; by default what is fastest. Raises ConfigError if this machine hasn't it

    >>> set_matmul_precision("high"); get_matmul_precision()
    'high'
    >>> set_matmul_precision("highest")
    """
    global _precision, _way
    if precision not in PRECISIONS:
        raise ConfigError(f"the precision of products must be {', '.join(PRECISIONS)}, not {precision!r}")
    if way is not None and way not in ways(precision):
        raise ConfigError(f"products of precision {precision} are made by {' or '.join(ways(precision))}, not {way!r}")
    _precision, _way = precision, way


def get_matmul_precision() -> str:
    """The word that was set last."""
    return _precision


@cache
def ways(precision: str) -> dict[str, np.generic]:
    """{way: its type tag for ``gemm``}: those of this precision that work on this machine, for float32 matrices.

    The tag of "blas" is that of vectors: products inside other kernels, such as attention's, are made by these.
    """
    found = {"vectors": np.float32(0)}
    if precision == "medium" and UNIT.has_bf16:
        found["pairs"] = IN_PAIRS
    pieces = PRECISIONS[precision]
    if UNIT.tiles and not trouble_with_tiles(pieces):
        found["tiles"] = IN_TILES[pieces]
    if UNIT.has_blas:
        found["blas"] = np.float32(0)
    return found


def chosen_way(precision: str) -> str:
    """The way that this machine takes for a precision; it may be measured now, in some milliseconds."""
    found = ways(precision)
    return list(found)[-1] if IS_ASKED_FOR or len(found) == 1 else fastest_way(found)


def get_way() -> str:
    """The way in which large products of float32 matrices are made."""
    global _way
    if _way is None:
        _way = chosen_way(_precision)
    return _way


def is_by_blas(dtype: np.dtype) -> bool:
    """Whether NumPy's library makes large products of this dtype."""
    return dtype == _FLOAT32 and get_way() == "blas"


def gemm_dtype_tag(dtype: np.dtype) -> np.generic:
    """The type tag for ``gemm``: a scalar of the inputs' dtype, or IN_PAIRS or one of IN_TILES for bfloat16."""
    return ways(_precision)[get_way()] if dtype == _FLOAT32 else dtype.type(0)


def narrow_dtype_tag(dtype_tag: np.generic) -> np.generic:
    """The type tag for products of a few dozen rows or columns, from that for large ones: no pieces.

    In tiles, packing takes most of their time. Three pieces of 64 rows and columns take about as long as float32.
    """
    return np.float32(0) if pieces_of(dtype_tag) > 1 else dtype_tag


def described() -> str:
    """The data type and the unit of large products, for people."""
    threads = numba.get_num_threads()
    pieces = PRECISIONS[_precision]
    how = {
        "vectors": f"in float32, {UNIT.title}",
        "pairs": "in bfloat16, AVX-512 BF16",
        "tiles": f"in bfloat16 tiles, {pieces} piece{'s' if pieces > 1 else ''}",
        "blas": f"in float32 by NumPy's library, attention's by {UNIT.title}",
    }[get_way()]
    trouble = trouble_with_tiles(pieces) if UNIT.tiles else ""
    unused = f"; tiles are not used: {trouble}" if trouble else ""
    return f"{how}, {threads} thread{'s' if threads > 1 else ''}{unused}"
