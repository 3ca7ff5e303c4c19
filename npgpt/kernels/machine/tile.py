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

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from npgpt.kernels.jit import jit
from npgpt.kernels.machine.cpu import UNIT

ROWS = UNIT.rows
IN_PAIRS = np.uint16(0)
_PAIRS = types.uint16
_WHOLE = types.int64
_I1, _I32, _I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)


def _columns(itemsize):
    return UNIT.vectors * UNIT.bytes // itemsize


@intrinsic
def element_size(context, like):
    """The number of bytes of an element."""
    return _WHOLE(_element(like)), lambda context, builder, *_: _whole(_bytes(like))


@intrinsic
def columns(context, like):
    """W, the number of columns in a tile."""
    return _WHOLE(_element(like)), lambda context, builder, *_: _whole(_columns(_bytes(like)))


@jit
def depth(K, like):
    """The number of steps in a panel of K numbers a line."""
    return (K + 1) // 2 if _in_pairs(like) else K


@intrinsic
def _in_pairs(context, like):
    return types.boolean(like), lambda context, builder, *_: ir.Constant(_I1, int(like == _PAIRS))


@intrinsic
def multiply_tile(context, K, A, B, rows, width, start, start_row, C, C_row, like):
    """The first ``rows`` x ``width`` numbers of a tile: C = start + A B.

    A, B        panels of ``K`` steps
    start       0: nothing is added. Else what the sums begin with: a matrix whose rows are ``start_row`` apart, which
                may be C itself; with start_row = 0 one row for all, a bias
    C_row       the distance of C's rows. What lies beyond ``rows`` and ``width`` is neither read nor written
    """
    signature = types.void(*[_WHOLE] * 9, _element(like))

    def codegen(context, builder, signature, arguments):
        K, A, B, rows, width, start, start_row, C, C_row, _ = arguments
        v = _Vectors(builder, like)
        A, B, start_at, C = (v.pointer(x) for x in (A, B, start, C))

        zeros = [ir.Constant(v.vector, None)] * (ROWS * UNIT.vectors)
        for k, sums in v.loop(K, 1, zeros):
            a = v.at(A, builder.mul(k, _whole(ROWS)))
            b = v.at(B, builder.mul(k, _whole(v.lanes * UNIT.vectors)))
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
            with builder.if_then(builder.icmp_signed("<", _whole(r), rows)):
                begin, out = v.at(start_at, builder.mul(start_row, _whole(r))), v.at(C, builder.mul(C_row, _whole(r)))
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
        write = _copy_in_pairs if like == _PAIRS else _copy
        return types.void(*[_WHOLE] * 5, _element(like)), _writer(write, width_of, like)

    @intrinsic
    def transpose(context, x, step, lines, K, panel, like):
        """panel[k * width + i] = x[i * step + k] for i < lines, 0 for the others: rows become columns."""
        return types.void(*[_WHOLE] * 5, _element(like)), _writer(_transpose, width_of, like)

    return copy, transpose


copy_to_a, transpose_to_a = _panels(lambda itemsize: ROWS)
copy_to_b, transpose_to_b = _panels(_columns)


def _writer(write, width_of, like):
    def codegen(context, builder, signature, arguments):
        x, step, lines, K, panel, _ = arguments
        v = _Vectors(builder, like)
        write(v, v.pointer(x), step, lines, K, width_of(v.itemsize), v.pointer(panel))
        return context.get_dummy_value()

    return codegen


def _copy(v, x, step, lines, K, width, panel):
    starts = range(0, width, v.lanes)
    readable = [v.first(lines, i) for i in starts]
    for k, _ in v.loop(K, 1, []):
        line, out = v.at(x, v.builder.mul(k, step)), v.at(panel, v.builder.mul(k, _whole(width)))
        for i, mask in zip(starts, readable, strict=True):
            v.masked_store(v.masked_load(v.at(line, i), mask), v.at(out, i), v.first(_whole(width), i))
        v.next([])


def _copy_in_pairs(v, x, step, lines, K, width, panel):
    """Two lines at a time; behind a last one without another, zeros."""
    starts = range(0, width, v.lanes)
    for pair, _ in v.loop(v.half(K), 1, []):
        k = v.builder.mul(pair, _whole(2))
        first, out = v.at(x, v.builder.mul(k, step)), v.at(panel, v.builder.mul(pair, _whole(width)))
        is_second = v.builder.icmp_signed("<", v.builder.add(k, _whole(1)), K)
        second = v.builder.select(is_second, v.at(first, step), first)
        for i in starts:
            readable = v.first(lines, i)
            above = v.masked_load(v.at(first, i), readable)
            below = v.masked_load(v.at(second, i), v.builder.and_(readable, v.splat_bit(is_second)))
            v.masked_store(v.interleaved(v.rounded(above, below)), v.at(out, i), v.first(_whole(width), i))
        v.next([])


def _transpose(v, x, step, lines, K, width, panel):
    """By squares of as many rows and columns as a register has lanes, each transposed in registers."""
    for k, _ in v.loop(v.half(K) if v.in_pairs else K, v.lanes, []):
        left = v.builder.sub(v.half(K) if v.in_pairs else K, k)
        for i in range(0, width, v.lanes):
            square = []
            for r in range(v.lanes):
                is_line = v.builder.icmp_signed("<", _whole(i + r), lines)
                row = v.at(x, v.builder.mul(step, _whole(i + r)))
                square.append(_part_of_row(v, row, k, K, is_line) if i + r < width else ir.Constant(v.vector, None))
            for column, numbers in enumerate(v.transposed(square)):
                is_column = v.builder.icmp_signed("<", _whole(column), left)
                mask = v.builder.and_(v.first(_whole(width), i), v.splat_bit(is_column))
                out = v.builder.mul(v.builder.add(k, _whole(column)), _whole(width))
                v.masked_store(numbers, v.at(panel, v.builder.add(out, _whole(i))), mask)
        v.next([])


def _part_of_row(v, row, k, K, is_line):
    """A register full of a row's elements from the k-th on: numbers, or pairs of them."""
    first = v.builder.mul(k, _whole(2)) if v.in_pairs else k
    left = v.builder.sub(K, first)
    parts = []
    for offset in (0, v.lanes) if v.in_pairs else (0,):
        mask = v.builder.and_(v.first(left, offset), v.splat_bit(is_line))
        parts.append(v.masked_load(v.at(v.at(row, first), offset), mask))
    return v.rounded(*parts) if v.in_pairs else parts[0]


def _element(like):
    if like not in (types.float32, types.float64, _PAIRS):
        raise TypeError(f"products are of float32 and float64, not {like}")
    if like == _PAIRS and not UNIT.has_bf16:
        raise TypeError(f"{UNIT.name} has no instruction for pairs of bfloat16")
    return like


def _bytes(like):
    return 8 if like == types.float64 else 4


def _whole(n: int):
    return ir.Constant(_I64, n)


class _BFloat(ir.Type):
    """bfloat16, which llvmlite has no type for."""

    def _to_string(self):
        return "bfloat"

    def __eq__(self, other):
        return isinstance(other, _BFloat)

    def __hash__(self):
        return hash(_BFloat)


_BFLOATS = ir.VectorType(_BFloat(), 32)


class _Vectors:
    """What the functions above say, in instructions. ``vector`` is a register full of float32 or float64."""

    def __init__(self, builder, like):
        self.builder = builder
        self.real = ir.DoubleType() if like == types.float64 else ir.FloatType()
        self.in_pairs = like == _PAIRS
        self.itemsize = _bytes(like)
        self.lanes = UNIT.bytes // self.itemsize
        self.vector = ir.VectorType(self.real, self.lanes)
        self.bits = ir.VectorType(_I1, self.lanes)

    def pointer(self, address):
        return self.builder.inttoptr(address, self.real.as_pointer())

    def at(self, pointer, elements):
        return self.builder.gep(pointer, [_whole(elements) if isinstance(elements, int) else elements])

    def load(self, pointer):
        return self.builder.load(self.builder.bitcast(pointer, self.vector.as_pointer()), align=self.itemsize)

    def splat(self, number):
        """The number in each lane."""
        return self._everywhere(number, self.vector)

    def splat_bit(self, bit):
        return self._everywhere(bit, self.bits)

    def _everywhere(self, x, vector):
        none = ir.Constant(vector, ir.Undefined)
        one = self.builder.insert_element(none, x, ir.Constant(_I32, 0))
        return self.builder.shuffle_vector(one, none, self._lanes([0] * self.lanes))

    def _lanes(self, numbers):
        return ir.Constant(ir.VectorType(_I32, self.lanes), numbers)

    def first(self, count, offset: int):
        """A bit for each lane l: whether offset + l < count."""
        wide = ir.VectorType(_I64, self.lanes)
        places = ir.Constant(wide, [offset + lane for lane in range(self.lanes)])
        return self.builder.icmp_signed("<", places, self._everywhere(count, wide))

    def masked_load(self, pointer, mask):
        """0 where the mask is; memory there isn't touched."""
        function = self._llvm("load", self.vector, [self.vector.as_pointer(), _I32, self.bits, self.vector])
        pointer = self.builder.bitcast(pointer, self.vector.as_pointer())
        return self.builder.call(
            function, [pointer, ir.Constant(_I32, self.itemsize), mask, ir.Constant(self.vector, None)]
        )

    def masked_store(self, vector, pointer, mask):
        function = self._llvm("store", ir.VoidType(), [self.vector, self.vector.as_pointer(), _I32, self.bits])
        pointer = self.builder.bitcast(pointer, self.vector.as_pointer())
        self.builder.call(function, [vector, pointer, ir.Constant(_I32, self.itemsize), mask])

    def _llvm(self, what, result, inputs):
        name = f"llvm.masked.{what}.v{self.lanes}f{8 * self.itemsize}.p0"
        module = self.builder.module
        return module.globals.get(name) or ir.Function(module, ir.FunctionType(result, inputs), name)

    def multiply_add(self, a, b, total):
        """total + a b, lane by lane; of pairs, total + a0 b0 + a1 b1."""
        if self.in_pairs:
            pairs = [self.builder.bitcast(x, _BFLOATS) for x in (a, b)]
            return self._call("llvm.x86.avx512bf16.dpbf16ps.512", self.vector, [total, *pairs])
        product = self.builder.fmul(a, b, flags=("contract",))  # one instruction with the sum
        return self.builder.fadd(total, product, flags=("contract",))

    def rounded(self, first, second):
        """Two registers of float32 -> one of bfloat16, the numbers of ``first`` and then of ``second``."""
        both = self._call("llvm.x86.avx512bf16.cvtne2ps2bf16.512", _BFLOATS, [second, first])
        return self.builder.bitcast(both, self.vector)

    def interleaved(self, halves):
        """From x0 x1 ... y0 y1 ... of 16 bits each: x0 y0 x1 y1 ..."""
        count = 2 * self.lanes
        halves = self.builder.bitcast(halves, ir.VectorType(ir.IntType(16), count))
        order = ir.Constant(ir.VectorType(_I32, count), [i // 2 + i % 2 * self.lanes for i in range(count)])
        return self.builder.bitcast(self.builder.shuffle_vector(halves, halves, order), self.vector)

    def half(self, K):
        """K / 2, rounded up."""
        return self.builder.sdiv(self.builder.add(K, _whole(1)), _whole(2))

    def _call(self, name, result, arguments):
        module = self.builder.module
        kinds = ir.FunctionType(result, [x.type for x in arguments])
        return self.builder.call(module.globals.get(name) or ir.Function(module, kinds, name), arguments)

    def transposed(self, rows):
        """A square of as many rows as lanes, in log2(lanes) rounds: in the first, rows i and i + lanes / 2 swap halves,
        in the next, rows and lanes are taken by quarters, and so on."""
        half = self.lanes // 2
        while half:
            rows = list(rows)
            for i in range(self.lanes):
                if not i & half:
                    a, b = rows[i], rows[i + half]
                    low = [self.lanes + lane - half if lane & half else lane for lane in range(self.lanes)]
                    high = [self.lanes + lane if lane & half else lane + half for lane in range(self.lanes)]
                    rows[i] = self.builder.shuffle_vector(a, b, self._lanes(low))
                    rows[i + half] = self.builder.shuffle_vector(a, b, self._lanes(high))
            half //= 2
        return rows

    def loop(self, stop, step, carried):
        """``for k, values in loop(...)`` writes a loop over k = 0, step, ... below stop; its body runs once here.

        The vectors ``values`` are carried from round to round: they begin as ``carried``, ``next`` says what they
        become, and ``results`` is what they are in the end.
        """
        builder = self.builder
        before = builder.basic_block
        head, body, end = (builder.append_basic_block(name) for name in ("loop", "body", "end"))
        builder.branch(head)
        builder.position_at_end(head)
        k = builder.phi(_I64)
        k.add_incoming(_whole(0), before)
        values = [builder.phi(self.vector) for _ in carried]
        for value, first in zip(values, carried, strict=True):
            value.add_incoming(first, before)
        builder.cbranch(builder.icmp_signed("<", k, stop), body, end)
        builder.position_at_end(body)
        yield k, values
        k.add_incoming(builder.add(k, _whole(step)), builder.basic_block)
        for value, following in zip(values, self._following, strict=True):
            value.add_incoming(following, builder.basic_block)
        builder.branch(head)
        builder.position_at_end(end)
        self.results = values

    def next(self, values):
        self._following = values
