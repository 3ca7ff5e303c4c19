"""Blocks of a matrix product in tiles (tiles.py), and the panels that they are computed from.

A block of C has 32 x 32 elements: four tiles of sums. It needs two tiles of A and two of B for each 32 steps of k, so
each tile that is loaded is used twice. A panel holds 32 rows of A, or 32 columns of B, and zeros where the matrix ends:

    panel           [K / 32][pieces][2 tiles]

Pieces: a float32 number is the sum of bfloat16 numbers, x = x0 + x1 + x2 with x0 = bfloat16(x), x1 = bfloat16(x - x0),
x2 = bfloat16(x - x0 - x1). One piece keeps 8 bits of it, two keep 16, three all 24. docs/three-pieces.md derives how
many products of pieces are needed and how exact their sum is.

    pieces      products of pieces of A and of B that are added up
    1           00
    2           10 00 01
    3           20 10 11 01 02 00

Infinity times a second piece, which may be 0 or of the other sign, would be NaN. But the last piece of A meets the
first one of B only, and the other way round. So infinity and NaN are in the last piece, and 1 with their sign in the
first, which changes nothing in a sum that isn't finite.
"""

import numpy as np
from llvmlite import ir
from numba import types

from npgpt.kernels.machine.tiles import ROW_BYTES, ROWS, TILE_BYTES, tiles
from npgpt.kernels.machine.vectors import PIECES, Vectors, on_stack, whole

LARGEST = float(np.uint32(0x7F7F0000).view(np.float32))  # of bfloat16, 3.39e38
SIDE = 32  # rows of a panel of A, columns of a panel of B
STEPS = 32  # of k in a tile
# The pieces of A and of B, in an order that loads few of them twice.
_PRODUCTS = {1: [(0, 0)], 2: [(1, 0), (0, 0), (0, 1)], 3: [(2, 0), (1, 0), (1, 1), (0, 1), (0, 2), (0, 0)]}
_SUMS = {0: (0, 0), 1: (0, 1), 2: (1, 0), 3: (1, 1)}  # registers of C: the rows of A and the columns of B in each
_A, _B = (4, 5), (6, 7)  # registers
_POINTER = ir.IntType(8).as_pointer()
_SQUARE = ir.ArrayType(ir.FloatType(), SIDE * SIDE)  # for what ends within a block


def multiply(builder, dtype_tag, depth, A, B, rows, width, start, start_row, C, C_row):
    """Write what ``microkernel`` does: the first ``rows`` x ``width`` of a block, C = start + A B.

    The sum of the block's steps begins at 0, and is added to ``start`` when it is done: long sums stay exact. A whole
    block without ``start`` is stored from the registers; others go through a square of memory of its own.
    """
    v = Vectors(builder, types.float32, ROW_BYTES)
    square = on_stack(builder, _SQUARE)
    all_rows, all_columns = (builder.icmp_signed(">=", n, whole(SIDE)) for n in (rows, width))
    begins = builder.icmp_unsigned("!=", start, whole(0))
    is_direct = builder.and_(builder.and_(all_rows, all_columns), builder.not_(begins))
    end, end_row = builder.select(is_direct, C, square), builder.select(is_direct, C_row, whole(SIDE))

    unit = tiles(builder)
    for register in _SUMS:
        unit.zero(register)
    _add_products(v, unit, dtype_tag, depth, A, B)
    stride = builder.mul(end_row, whole(4))
    for register, (below, beside) in _SUMS.items():
        place = builder.add(end, builder.mul(stride, whole(below * ROWS)))
        place = builder.inttoptr(builder.add(place, whole(beside * ROW_BYTES)), _POINTER)
        unit.store(register, place, stride)

    with builder.if_then(builder.not_(is_direct)):
        _add_square(v, v.pointer(square), begins, start, start_row, rows, width, v.pointer(C), C_row)


def _add_square(v, square, begins, start, start_row, rows, width, C, C_row):
    """C = start + square, or the square alone, its first ``rows`` x ``width``."""
    b = v.builder
    # A masked load from an unmapped address is slow, so point it at C.
    start, start_row = b.select(begins, v.pointer(start), C), b.select(begins, start_row, C_row)
    for r, _ in v.loop(rows, 1, []):
        with b.if_then(b.icmp_signed("<", r, whole(SIDE))):
            line, before, out = (
                v.at(x, b.mul(r, row)) for x, row in ((square, whole(SIDE)), (start, start_row), (C, C_row))
            )
            for first in (0, ROWS):
                mask = v.first(width, first)
                added = v.masked_load(v.at(before, first), b.and_(mask, v.splat_bit(begins)))
                v.masked_store(b.fadd(v.load(v.at(line, first)), added), v.at(out, first), mask)
        v.next([])


def _add_products(v, unit, dtype_tag, depth, A, B):
    """The products of one tile after the other, in the order of k."""
    b, pieces = v.builder, PIECES[dtype_tag]
    line = whole(ROW_BYTES)
    for block, _ in v.loop(b.sdiv(depth, whole(depth_of(pieces))), 1, []):
        offset = b.mul(block, whole(pieces * 2 * TILE_BYTES))
        panels = [b.inttoptr(b.add(panel, offset), _POINTER) for panel in (A, B)]
        loaded = [None, None]  # the pieces of A and of B that are in registers
        for pair in _PRODUCTS[pieces]:
            # B's tiles come once for each block of C in a row of blocks. A's stay in the nearest cache meanwhile.
            for side, registers, load in ((0, _A, unit.load), (1, _B, unit.load_once)):
                if loaded[side] != pair[side]:
                    for half, register in enumerate(registers):
                        place = whole((2 * pair[side] + half) * TILE_BYTES)
                        load(register, b.gep(panels[side], [place]), line)
                    loaded[side] = pair[side]
            for register, (row, column) in _SUMS.items():
                unit.multiply_add(register, _A[row], _B[column])
        v.next([])


def pack(builder, dtype_tag, is_a, lines_are_rows, x, step, lines, K, panel):
    """Write a panel, of up to 32 lines of K steps: rows of A (``is_a``) or columns of B.

    lines_are_rows      a line's steps lie side by side, and lines are ``step`` apart. Otherwise the other way round
    """
    v, pieces = Vectors(builder, types.float32, ROW_BYTES), PIECES[dtype_tag]
    square = v.pointer(on_stack(builder, _SQUARE))
    for block, _ in v.loop(_blocks(builder, K), 1, []):
        k = builder.mul(block, whole(STEPS))
        left = builder.sub(K, k)
        begin = v.at(x, k if lines_are_rows else builder.mul(k, step))
        is_whole = builder.and_(*(builder.icmp_signed(">=", n, whole(32)) for n in (lines, left)))
        with builder.if_then(builder.not_(is_whole)):
            rows, width = (lines, left) if lines_are_rows else (left, lines)
            _copy_part(v, begin, step, rows, width, square)
        begin, row = builder.select(is_whole, begin, square), builder.select(is_whole, step, whole(SIDE))
        out = v.at(panel, builder.mul(block, whole(pieces * 2 * TILE_BYTES // 4)))
        for half in range(2):
            pairs = _along(v, begin, row, half) if lines_are_rows else _across(v, begin, row, half)
            for piece, packed in enumerate(_pieces(v, pairs, pieces)):
                registers = packed if lines_are_rows else [v.interleaved(register) for register in packed]
                if lines_are_rows != is_a:
                    registers = v.transposed(registers)
                tile = v.at(out, (2 * piece + half) * TILE_BYTES // 4)
                for i, register in enumerate(registers):
                    builder.store(register, builder.bitcast(v.at(tile, 16 * i), v.vector.as_pointer()), align=4)
        v.next([])


def _along(v, x, row, half):
    """16 lines in rows: of each, two registers of 16 steps."""
    lines = [v.at(x, v.builder.mul(row, whole(16 * half + i))) for i in range(16)]
    return [[v.load(v.at(line, first)) for first in (0, 16)] for line in lines]


def _across(v, x, row, half):
    """16 lines in columns: of each pair of steps, the first one's register and the second one's."""
    rows = [v.load(v.at(v.at(x, v.builder.mul(row, whole(k))), 16 * half)) for k in range(STEPS)]
    return [[rows[k], rows[k + 1]] for k in range(0, STEPS, 2)]


def _pieces(v, pairs, count):
    """The first piece of all pairs of registers, each pair in one register; then the second one; ..."""
    if count == 1:
        yield [v.rounded(*pair) for pair in pairs]
        return
    numbers = [_Number(v, x) for pair in pairs for x in pair]
    for piece in range(count):
        parts = [number.part(is_first=piece == 0, is_last=piece == count - 1) for number in numbers]
        packed = [v.rounded(*pair) for pair in zip(parts[::2], parts[1::2], strict=True)]
        yield packed
        rounded = (half for register in packed for half in _unpacked(v, register))
        for number, piece_of_it in zip(numbers, rounded, strict=True):
            number.rest = v.builder.fsub(number.rest, piece_of_it)  # float32 holds it exactly


class _Number:
    """A register of float32 numbers of which pieces are taken; ``rest`` is what is left of them."""

    def __init__(self, v, x):
        b = v.builder
        self.v, self.x = v, x
        self.is_finite = b.fcmp_ordered("==", b.fsub(x, x), ir.Constant(v.vector, None))
        signs = b.and_(b.bitcast(x, ir.VectorType(ir.IntType(32), v.lanes)), v.words(0x80000000))
        one = b.bitcast(b.or_(signs, v.words(0x3F800000)), v.vector)  # with x's sign
        self.rest = b.select(self.is_finite, x, one)

    def part(self, is_first, is_last):
        """What the next piece is rounded from."""
        b = self.v.builder
        if is_last:
            return b.select(self.is_finite, self.rest, self.x)
        if not is_first:
            return self.rest
        # Above bfloat16's largest number it would be rounded to infinity.
        limits = [ir.Constant(self.v.vector, [sign * LARGEST] * self.v.lanes) for sign in (1, -1)]
        below = b.select(b.fcmp_ordered("<", self.rest, limits[0]), self.rest, limits[0])
        return b.select(b.fcmp_ordered(">", below, limits[1]), below, limits[1])


def _unpacked(v, packed):
    """32 numbers of bfloat16 -> two registers of float32"""
    b = v.builder
    halves = b.bitcast(packed, ir.VectorType(ir.IntType(16), 32))
    for first in (0, 16):
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), 16), list(range(first, first + 16)))
        part = b.zext(b.shuffle_vector(halves, halves, lanes), ir.VectorType(ir.IntType(32), 16))
        yield b.bitcast(b.shl(part, v.words(16)), v.vector)


def _copy_part(v, x, x_row, rows, width, y):
    """y (32, 32) = x[r, c] for r < rows and c < width, 0 elsewhere."""
    b = v.builder
    for r, _ in v.loop(whole(SIDE), 1, []):
        is_row = v.splat_bit(b.icmp_signed("<", r, rows))
        line, out = v.at(x, b.mul(r, x_row)), v.at(y, b.mul(r, whole(SIDE)))
        for first in (0, ROWS):
            found = v.masked_load(v.at(line, first), b.and_(v.first(width, first), is_row))
            b.store(found, b.bitcast(v.at(out, first), v.vector.as_pointer()), align=4)
        v.next([])


def _blocks(builder, K):
    return builder.sdiv(builder.add(K, whole(STEPS - 1)), whole(STEPS))


def depth_of(pieces: int) -> int:
    """The length of 32 steps in a panel, in elements of 4 bytes for each of its 32 lines."""
    return pieces * 2 * TILE_BYTES // (4 * SIDE)
