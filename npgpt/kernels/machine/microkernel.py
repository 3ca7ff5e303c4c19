"""The innermost part of a matrix product, in vector registers: a tile of C, and the copies of A and B that it reads.

Written in LLVM's language, because Numba's has no vectors. With R rows and W columns in a tile (cpu.py says how many):

    panel of A      [K][R]      R rows of A, one column after the other
    panel of B      [K][W]      W columns of B, one row after the other
    tile            C[r, w] = sum over k of A[k][r] B[k][w]     R W sums at once, all of them in registers

A step of k loads R + W contiguous elements and computes R W products, so the adders never wait for memory. Reading A
and B in place would jump from row to row.

Addresses are int64 and distances are in elements. ``dtype_tag`` is a scalar of the elements' type, or ``IN_PAIRS``:
then A, B and C are float32, but panels hold bfloat16, the upper half of a float32, and two steps of k become one:

    panel of A      [K / 2][R][2]       an element of a panel, 32 bits, holds two values, of k and of k + 1
    panel of B      [K / 2][W][2]

A CPU with bfloat16 instructions multiplies both pairs and adds both products to a float32 sum, in the time that one
product of float32 takes. Values below 1.2e-38 count as 0 there.

``IN_TILES`` leaves the vector registers: tile_panels.py writes what is done then.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from npgpt.kernels.jit import jit
from npgpt.kernels.machine import tile_panels
from npgpt.kernels.machine.cpu import UNIT
from npgpt.kernels.machine.memory import LINE
from npgpt.kernels.machine.vectors import PAIRS, PIECES, Vectors, bytes_of, element, whole

TILE_ROWS = UNIT.rows
UNROLLED = 4  # steps of k in an iteration of the loop: what is done once an iteration, fetching, costs a quarter
STEPS_AT_ONCE = 8  # of k, packed of all panels, so that a page of memory is read to its end before the next one
WHOLE = types.int64


def constant_of_tag(value_of: Callable[[Any], int]) -> Callable:
    """A function of a ``dtype_tag`` for compiled code, which returns a number that follows from the tag's type."""

    @intrinsic
    def constant(context, dtype_tag):
        return WHOLE(element(dtype_tag)), lambda context, builder, *_: whole(value_of(dtype_tag))

    return constant


def _rows(dtype_tag):
    return tile_panels.SIDE if dtype_tag in PIECES else TILE_ROWS


def _columns(dtype_tag):
    return tile_panels.SIDE if dtype_tag in PIECES else UNIT.vectors * UNIT.bytes // bytes_of(dtype_tag)


element_size = constant_of_tag(bytes_of)  # in bytes
tile_rows = constant_of_tag(_rows)  # R
tile_columns = constant_of_tag(_columns)  # W


# In a panel: so many steps of k are kept together, and are so many elements long in each line.
steps_at_a_time = constant_of_tag(lambda dtype_tag: 32 if dtype_tag in PIECES else 2 if dtype_tag == PAIRS else 1)
_length_of_steps = constant_of_tag(lambda tag: tile_panels.depth_of(PIECES[tag]) if tag in PIECES else 1)


@jit
def depth(K, dtype_tag):
    """The length of a panel whose lines have K elements, in elements of the panel."""
    together = steps_at_a_time(dtype_tag)
    return (K + together - 1) // together * _length_of_steps(dtype_tag)


@intrinsic
def microkernel(context, K, A, B, rows, width, start, start_row, C, C_row, next_row, next_bytes, dtype_tag):
    """The first ``rows`` x ``width`` elements of a tile: C = start + A B.

    A, B        panels, ``K`` elements long
    start       0: nothing is added. Otherwise the address of a matrix to add, with rows ``start_row`` apart. It may
                be C itself; with start_row = 0 the same row is added to all, a bias
    C_row       the distance of C's rows. Nothing beyond ``rows`` and ``width`` is read or written
    next_row    the address of so many bytes that are fetched into the caches (region.py)
    """
    signature = types.void(*[WHOLE] * 11, element(dtype_tag))

    def codegen(context, builder, signature, arguments):
        if dtype_tag in PIECES:
            tile_panels.multiply(builder, dtype_tag, *arguments[:9])
            return context.get_dummy_value()
        K, A, B, rows, width, start, start_row, C, C_row, next_row, next_bytes, _ = arguments
        v = Vectors(builder, dtype_tag)
        A, B, start_at, C = (v.pointer(x) for x in (A, B, start, C))

        with builder.if_then(builder.icmp_signed("<", K, whole(UNROLLED * TILE_ROWS))):  # too short for what follows
            for row in range(TILE_ROWS):
                _fetch_row(v, v.at(C, builder.mul(C_row, whole(row))))
        iterations = builder.sdiv(K, whole(UNROLLED))
        rounding_up = builder.sub(iterations, whole(1))
        bytes_an_iteration = builder.sdiv(builder.add(next_bytes, rounding_up), _larger(v, iterations, 1))
        zeros = [ir.Constant(v.vector, None)] * (TILE_ROWS * UNIT.vectors)
        for i, sums in v.loop(iterations, 1, zeros):
            _fetch_row(v, v.at(C, builder.mul(C_row, _smaller(v, i, TILE_ROWS - 1))))
            v.prefetch(v.pointer(builder.add(next_row, builder.mul(i, bytes_an_iteration))))
            for step in range(UNROLLED):
                sums = _with_products(v, A, B, builder.add(builder.mul(i, whole(UNROLLED)), whole(step)), sums)
            v.next(sums)
        done = builder.mul(iterations, whole(UNROLLED))
        for k, sums in v.loop(builder.sub(K, done), 1, v.results):
            v.next(_with_products(v, A, B, builder.add(done, k), sums))
        sums = v.results

        masks = [v.first(width, j * v.lanes) for j in range(UNIT.vectors)]
        is_wide = builder.icmp_signed(">=", width, whole(UNIT.vectors * v.lanes))
        adds = builder.icmp_unsigned("!=", start, ir.Constant(start.type, 0))
        begun = [builder.and_(mask, v.splat_bit(adds)) for mask in masks]
        # A masked load from an unmapped address is slow, so point it at C.
        start_at, start_row = builder.select(adds, start_at, C), builder.select(adds, start_row, C_row)
        for r in range(TILE_ROWS):
            with builder.if_then(builder.icmp_signed("<", whole(r), rows)):
                begin, out = v.at(start_at, builder.mul(start_row, whole(r))), v.at(C, builder.mul(C_row, whole(r)))
                for j in range(UNIT.vectors):
                    before = v.load_some(v.at(begin, j * v.lanes), begun[j], builder.and_(is_wide, adds))
                    total = builder.fadd(sums[r * UNIT.vectors + j], before)
                    v.store_some(total, v.at(out, j * v.lanes), masks[j], is_wide)
        return context.get_dummy_value()

    return signature, codegen


def _with_products(v, A, B, k, sums):
    """The tile's sums with the products of step k added."""
    a = v.at(A, v.builder.mul(k, whole(TILE_ROWS)))
    b = v.at(B, v.builder.mul(k, whole(v.lanes * UNIT.vectors)))
    row_of_b = [v.load(v.at(b, j * v.lanes)) for j in range(UNIT.vectors)]
    following = []
    for r in range(TILE_ROWS):
        element_of_a = v.splat(v.builder.load(v.at(a, r)))
        for j in range(UNIT.vectors):
            following.append(v.multiply_add(element_of_a, row_of_b[j], sums[r * UNIT.vectors + j]))
    return following


def _fetch_row(v, row):
    """Fetch a row of a tile of C, which the sums are added to or stored in. It may end in one more cache line.

    One row in each iteration: all rows at once would hold up the loads of A and B.
    """
    last = UNIT.vectors * v.lanes - 1
    for place in (*range(0, last, LINE // v.itemsize), last):
        v.prefetch(v.at(row, place))


def _smaller(v, x, constant: int):
    return v.builder.select(v.builder.icmp_signed("<", x, whole(constant)), x, whole(constant))


def _larger(v, x, constant: int):
    return v.builder.select(v.builder.icmp_signed(">", x, whole(constant)), x, whole(constant))


def _panels(is_a):
    """Two functions that write a panel of A or of B from K steps of x: of ``width`` lines, a power of two or not."""

    @intrinsic
    def pack(context, x, step, lines, K, panel, dtype_tag):
        """panel[k * width + i] = x[k * step + i] for i < lines, 0 for the others: rows stay rows."""
        write = _pack_in_pairs if dtype_tag == PAIRS else _pack
        return types.void(*[WHOLE] * 5, element(dtype_tag)), _writer(write, is_a, False, dtype_tag)

    @intrinsic
    def pack_transposed(context, x, step, lines, K, panel, dtype_tag):
        """panel[k * width + i] = x[i * step + k] for i < lines, 0 for the others: rows become columns."""
        return types.void(*[WHOLE] * 5, element(dtype_tag)), _writer(_pack_transposed, is_a, True, dtype_tag)

    return pack, pack_transposed


pack_a, pack_transposed_a = _panels(True)
pack_b, pack_transposed_b = _panels(False)


def _writer(write, is_a, lines_are_rows, dtype_tag):
    def codegen(context, builder, signature, arguments):
        x, step, lines, K, panel, _ = arguments
        v = Vectors(builder, dtype_tag)
        x, panel = v.pointer(x), v.pointer(panel)
        if dtype_tag in PIECES:
            tile_panels.pack(builder, dtype_tag, is_a, lines_are_rows, x, step, lines, K, panel)
        else:
            write(v, x, step, lines, K, _rows(dtype_tag) if is_a else _columns(dtype_tag), panel)
        return context.get_dummy_value()

    return codegen


def _pack(v, x, step, lines, K, width, panel):
    starts = range(0, width, v.lanes)
    readable = [v.first(lines, i) for i in starts]
    for k, _ in v.loop(K, 1, []):
        line, out = v.at(x, v.builder.mul(k, step)), v.at(panel, v.builder.mul(k, whole(width)))
        _fetch_ahead(v, line, step, starts)
        for i, mask in zip(starts, readable, strict=True):
            loaded = v.load_some(v.at(line, i), mask, v.builder.icmp_signed(">=", lines, whole(i + v.lanes)))
            v.store_some(loaded, v.at(out, i), v.first(whole(width), i), _may_overlap(v, k, K, i, width))
        v.next([])


def _may_overlap(v, k, K, i, width):
    """Whether all lanes of a register may be stored from place i of step k on: what they overlap is stored later.

    It is the beginning of step k + 1, if there is one in this panel.
    """
    return v.builder.icmp_signed("<", v.builder.add(k, whole(1)) if i + v.lanes > width else k, K)


def _fetch_ahead(v, line, step, starts):
    """Fetch this panel's part of the line that comes after all other panels' parts: the CPU doesn't foresee that."""
    for i in starts:
        v.prefetch(v.at(v.at(line, v.builder.mul(step, whole(STEPS_AT_ONCE))), i))


def _pack_in_pairs(v, x, step, lines, K, width, panel):
    """Two lines at a time; an odd last one is paired with zeros."""
    starts = range(0, width, v.lanes)
    for pair, _ in v.loop(v.half(K), 1, []):
        k = v.builder.mul(pair, whole(2))
        first, out = v.at(x, v.builder.mul(k, step)), v.at(panel, v.builder.mul(pair, whole(width)))
        is_second = v.builder.icmp_signed("<", v.builder.add(k, whole(1)), K)
        second = v.builder.select(is_second, v.at(first, step), first)
        _fetch_ahead(v, first, step, starts)
        _fetch_ahead(v, second, step, starts)
        for i in starts:
            readable = v.first(lines, i)
            above = v.masked_load(v.at(first, i), readable)
            below = v.masked_load(v.at(second, i), v.builder.and_(readable, v.splat_bit(is_second)))
            v.masked_store(v.interleaved(v.rounded(above, below)), v.at(out, i), v.first(whole(width), i))
        v.next([])


def _pack_transposed(v, x, step, lines, K, width, panel):
    """By squares of as many rows and columns as a register has lanes, each transposed in registers.

    Meanwhile the same part of the next panel's rows is fetched, since the CPU doesn't foresee where rows begin.
    """
    for k, _ in v.loop(v.half(K) if v.in_pairs else K, v.lanes, []):
        left = v.builder.sub(v.half(K) if v.in_pairs else K, k)
        for i in reversed(range(0, width, v.lanes)):  # the last one may overlap what the others store after it
            square = []
            for r in range(v.lanes):
                is_line = v.builder.icmp_signed("<", whole(i + r), lines)
                if i + r < width:
                    row = v.at(x, v.builder.mul(step, whole(i + r)))
                    square.append(_part_of_row(v, row, k, K, is_line))
                    _fetch_part_of_row(v, v.at(row, v.builder.mul(step, whole(width))), k)
                else:
                    square.append(ir.Constant(v.vector, None))
            for column, elements in enumerate(v.transposed(square)):
                is_column = v.builder.icmp_signed("<", whole(column), left)
                mask = v.builder.and_(v.first(whole(width), i), v.splat_bit(is_column))
                out = v.builder.mul(v.builder.add(k, whole(column)), whole(width))
                may_overlap = _may_overlap(v, whole(column), left, i, width)
                v.store_some(elements, v.at(panel, v.builder.add(out, whole(i))), mask, may_overlap)
        v.next([])


def _part_of_row(v, row, k, K, is_line):
    """A register full of a row's elements from the k-th on, or of pairs of them."""
    first = v.builder.mul(k, whole(2)) if v.in_pairs else k
    left = v.builder.sub(K, first)
    parts = []
    for offset in (0, v.lanes) if v.in_pairs else (0,):
        mask = v.builder.and_(v.first(left, offset), v.splat_bit(is_line))
        is_all = v.builder.and_(v.builder.icmp_signed(">=", left, whole(offset + v.lanes)), is_line)
        parts.append(v.load_some(v.at(v.at(row, first), offset), mask, is_all))
    return v.rounded(*parts) if v.in_pairs else parts[0]


def _fetch_part_of_row(v, row, k):
    """Fetch what ``_part_of_row`` loads."""
    first = v.at(row, v.builder.mul(k, whole(2)) if v.in_pairs else k)
    for offset in (0, v.lanes) if v.in_pairs else (0,):
        v.prefetch(v.at(first, offset))
