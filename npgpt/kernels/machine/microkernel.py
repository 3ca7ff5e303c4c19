"""The innermost part of a matrix product, in vector registers: a tile of C, and the copies of A and B that it reads.

Written in LLVM's language, because Numba's has no vectors. With R rows and W columns in a tile (cpu.py says how many):

    panel of A      [K][R]      R rows of A, one column after the other
    panel of B      [K][W]      W columns of B, one row after the other
    tile            C[r, w] = sum over k of A[k][r] B[k][w]     R W sums at once, all of them in registers

A step of k takes R + W numbers, which lie side by side, and makes R W products of them: so the adders never wait for
memory. Reading A and B where they lie would jump from row to row.

Addresses are whole numbers (int64) and distances are in elements. ``like`` is any number of the elements' type, or
``IN_PAIRS``: then A, B and C are float32, but what is copied into panels is rounded to bfloat16, the upper half of a
float32 (8 bits of precision and all of its range), and two steps of k become one:

    panel of A      [K / 2][R][2]       an element of a panel, 32 bits, holds two numbers, of k and of k + 1
    panel of B      [K / 2][W][2]

A CPU with bfloat16 instructions multiplies both pairs and adds both products to a float32 sum, in the time that one
product of float32 takes. Numbers below 1.2e-38 count as 0 there.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from npgpt.kernels.jit import jit
from npgpt.kernels.machine.cpu import UNIT
from npgpt.kernels.machine.vectors import PAIRS, Vectors, bytes_of, element, whole

ROWS = UNIT.rows
WHOLE = types.int64


def _columns(itemsize):
    return UNIT.vectors * UNIT.bytes // itemsize


@intrinsic
def element_size(context, like):
    """The number of bytes of an element."""
    return WHOLE(element(like)), lambda context, builder, *_: whole(bytes_of(like))


@intrinsic
def columns(context, like):
    """W, the number of columns in a tile."""
    return WHOLE(element(like)), lambda context, builder, *_: whole(_columns(bytes_of(like)))


@jit
def depth(K, like):
    """The number of steps in a panel of K numbers a line."""
    return (K + 1) // 2 if _in_pairs(like) else K


@intrinsic
def _in_pairs(context, like):
    return types.boolean(like), lambda context, builder, *_: ir.Constant(ir.IntType(1), int(like == PAIRS))


@intrinsic
def multiply_tile(context, K, A, B, rows, width, start, start_row, C, C_row, like):
    """The first ``rows`` x ``width`` numbers of a tile: C = start + A B.

    A, B        panels of ``K`` steps
    start       0: nothing is added. Else what the sums begin with: a matrix whose rows are ``start_row`` apart, which
                may be C itself; with start_row = 0 one row for all, a bias
    C_row       the distance of C's rows. What lies beyond ``rows`` and ``width`` is neither read nor written
    """
    signature = types.void(*[WHOLE] * 9, element(like))

    def codegen(context, builder, signature, arguments):
        K, A, B, rows, width, start, start_row, C, C_row, _ = arguments
        v = Vectors(builder, like)
        A, B, start_at, C = (v.pointer(x) for x in (A, B, start, C))

        zeros = [ir.Constant(v.vector, None)] * (ROWS * UNIT.vectors)
        for k, sums in v.loop(K, 1, zeros):
            a = v.at(A, builder.mul(k, whole(ROWS)))
            b = v.at(B, builder.mul(k, whole(v.lanes * UNIT.vectors)))
            row_of_b = [v.load(v.at(b, j * v.lanes)) for j in range(UNIT.vectors)]
            following = []
            for r in range(ROWS):
                number = v.splat(builder.load(v.at(a, r)))
                for j in range(UNIT.vectors):
                    following.append(v.multiply_add(number, row_of_b[j], sums[r * UNIT.vectors + j]))
            v.next(following)
        sums = v.results

        masks = [v.first(width, j * v.lanes) for j in range(UNIT.vectors)]
        adds = builder.icmp_unsigned("!=", start, ir.Constant(start.type, 0))
        begun = [builder.and_(mask, v.splat_bit(adds)) for mask in masks]
        # Nothing is read there then; but a CPU takes long not to read where there is no memory, so let there be some.
        start_at, start_row = builder.select(adds, start_at, C), builder.select(adds, start_row, C_row)
        for r in range(ROWS):
            with builder.if_then(builder.icmp_signed("<", whole(r), rows)):
                begin, out = v.at(start_at, builder.mul(start_row, whole(r))), v.at(C, builder.mul(C_row, whole(r)))
                for j in range(UNIT.vectors):
                    before = v.masked_load(v.at(begin, j * v.lanes), begun[j])
                    total = builder.fadd(sums[r * UNIT.vectors + j], before)
                    v.masked_store(total, v.at(out, j * v.lanes), masks[j])
        return context.get_dummy_value()

    return signature, codegen


def _panels(width_of):
    """Two functions that write a panel of ``width_of(itemsize)`` lines, a power of two or not, from K steps of x."""

    @intrinsic
    def copy(context, x, step, lines, K, panel, like):
        """panel[k * width + i] = x[k * step + i] for i < lines, 0 for the others: what lies side by side stays so."""
        write = _copy_in_pairs if like == PAIRS else _copy
        return types.void(*[WHOLE] * 5, element(like)), _writer(write, width_of, like)

    @intrinsic
    def transpose(context, x, step, lines, K, panel, like):
        """panel[k * width + i] = x[i * step + k] for i < lines, 0 for the others: rows become columns."""
        return types.void(*[WHOLE] * 5, element(like)), _writer(_transpose, width_of, like)

    return copy, transpose


copy_to_a, transpose_to_a = _panels(lambda itemsize: ROWS)
copy_to_b, transpose_to_b = _panels(_columns)


def _writer(write, width_of, like):
    def codegen(context, builder, signature, arguments):
        x, step, lines, K, panel, _ = arguments
        v = Vectors(builder, like)
        write(v, v.pointer(x), step, lines, K, width_of(v.itemsize), v.pointer(panel))
        return context.get_dummy_value()

    return codegen


def _copy(v, x, step, lines, K, width, panel):
    starts = range(0, width, v.lanes)
    readable = [v.first(lines, i) for i in starts]
    for k, _ in v.loop(K, 1, []):
        line, out = v.at(x, v.builder.mul(k, step)), v.at(panel, v.builder.mul(k, whole(width)))
        for i, mask in zip(starts, readable, strict=True):
            v.masked_store(v.masked_load(v.at(line, i), mask), v.at(out, i), v.first(whole(width), i))
        v.next([])


def _copy_in_pairs(v, x, step, lines, K, width, panel):
    """Two lines at a time; behind a last one without another, zeros."""
    starts = range(0, width, v.lanes)
    for pair, _ in v.loop(v.half(K), 1, []):
        k = v.builder.mul(pair, whole(2))
        first, out = v.at(x, v.builder.mul(k, step)), v.at(panel, v.builder.mul(pair, whole(width)))
        is_second = v.builder.icmp_signed("<", v.builder.add(k, whole(1)), K)
        second = v.builder.select(is_second, v.at(first, step), first)
        for i in starts:
            readable = v.first(lines, i)
            above = v.masked_load(v.at(first, i), readable)
            below = v.masked_load(v.at(second, i), v.builder.and_(readable, v.splat_bit(is_second)))
            v.masked_store(v.interleaved(v.rounded(above, below)), v.at(out, i), v.first(whole(width), i))
        v.next([])


def _transpose(v, x, step, lines, K, width, panel):
    """By squares of as many rows and columns as a register has lanes, each transposed in registers."""
    for k, _ in v.loop(v.half(K) if v.in_pairs else K, v.lanes, []):
        left = v.builder.sub(v.half(K) if v.in_pairs else K, k)
        for i in range(0, width, v.lanes):
            square = []
            for r in range(v.lanes):
                is_line = v.builder.icmp_signed("<", whole(i + r), lines)
                row = v.at(x, v.builder.mul(step, whole(i + r)))
                square.append(_part_of_row(v, row, k, K, is_line) if i + r < width else ir.Constant(v.vector, None))
            for column, numbers in enumerate(v.transposed(square)):
                is_column = v.builder.icmp_signed("<", whole(column), left)
                mask = v.builder.and_(v.first(whole(width), i), v.splat_bit(is_column))
                out = v.builder.mul(v.builder.add(k, whole(column)), whole(width))
                v.masked_store(numbers, v.at(panel, v.builder.add(out, whole(i))), mask)
        v.next([])


def _part_of_row(v, row, k, K, is_line):
    """A register full of a row's elements from the k-th on: numbers, or pairs of them."""
    first = v.builder.mul(k, whole(2)) if v.in_pairs else k
    left = v.builder.sub(K, first)
    parts = []
    for offset in (0, v.lanes) if v.in_pairs else (0,):
        mask = v.builder.and_(v.first(left, offset), v.splat_bit(is_line))
        parts.append(v.masked_load(v.at(v.at(row, first), offset), mask))
    return v.rounded(*parts) if v.in_pairs else parts[0]
