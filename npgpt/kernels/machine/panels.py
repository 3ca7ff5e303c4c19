"""Products of one row with a panel of a packed matrix (kernels/packed.py says how weights lie in it), in registers.

    out[p] = begin[p] + sum over k of x[k] panel[k][p]        for the P columns p of a panel

A lane of a register holds a column's sum, so nothing has to be added up across lanes. A panel is read from its
beginning to its end, once for a row: for a single token, the time to read the weights is all the time that is taken.

``tag`` is a scalar whose type tells the format: float32, uint16 for bf16, int8, uint8 for int4. Whole numbers are
multiplied with x in 8 bits too if the CPU has an instruction for it, which adds four products at a time to an int32:

    sum of x q = xs sum of xq (q + offset) - xs offset sum of xq        x[k] = xs xq[k] in a block of 32

The instruction takes one factor without a sign, hence the offset, 128 or 8. The last term is known beforehand: the sum
starts from it. Other CPUs turn each q into a float32, and x stays as it is: their sums would lose digits to the offset.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from npgpt.kernels.machine.cpu import HAS_HALF, HAS_INT8_DOT, UNIT
from npgpt.kernels.machine.vectors import Vectors, whole

BLOCK = 32  # elements along K that share a scale
WHOLE = types.int64
_I32 = ir.IntType(32)
AHEAD = 2048  # bytes that are fetched before they are needed: the CPU alone fetches too late
_BITS = {types.float32: 32, types.uint16: 16, types.int8: 8, types.uint8: 4}


@intrinsic
def bits_of(context, tag):
    """The bits of a weight, without those of scales."""
    return WHOLE(tag), lambda context, builder, *_: whole(_BITS[tag])


@intrinsic
def is_quantized(context, tag):
    """Whether the format is int8 or int4."""
    return types.boolean(tag), lambda context, builder, *_: ir.Constant(ir.IntType(1), int(_BITS[tag] <= 8))


@intrinsic
def multiply_panel(context, K, x, x_scales, x_starts, panel, scales, begin, width, out, tag):
    """The first ``width`` elements of: out = begin + x times the panel. All but ``K`` and ``width`` are addresses.

    x           K elements, float32, and a zero behind them; for int8 and int4 whole blocks of 32, in int8 if there is
                an instruction for it (``HAS_INT8_DOT``), else in float32
    x_scales    float32 for each block, xs
    x_starts    if x is in int8, for each block -offset times the sum of its x, int32
    scales      of the panel, float16 [block][P]
    begin       0, or P elements to begin with, a bias
    """
    if tag not in _BITS:
        raise TypeError(f"there is no format of weights for {tag}")
    signature = types.void(*[WHOLE] * 9, tag)

    def codegen(context, builder, signature, arguments):
        K, x, x_scales, x_starts, panel, scales, begin, width, out, _ = arguments
        v = Vectors(builder, types.float32)
        zeros = [ir.Constant(v.vector, None)] * UNIT.vectors
        if _BITS[tag] <= 8:
            whole_x = v.pointer(x) if not HAS_INT8_DOT else builder.inttoptr(x, _I32.as_pointer())
            starts = builder.inttoptr(x_starts, _I32.as_pointer())
            blocks = builder.sdiv(builder.add(K, whole(BLOCK - 1)), whole(BLOCK))
            words = BLOCK // 4 if tag == types.int8 else BLOCK // 8
            weights, scales = builder.inttoptr(panel, _I32.as_pointer()), builder.inttoptr(scales, _HALF.as_pointer())
            for block, sums in v.loop(blocks, 1, zeros):
                row = v.at(weights, builder.mul(block, whole(words * v.lanes * UNIT.vectors)))
                part = v.at(whole_x, builder.mul(block, whole(BLOCK // 4 if HAS_INT8_DOT else BLOCK)))
                start = builder.load(v.at(starts, block)) if HAS_INT8_DOT else None
                scale = v.splat(builder.load(v.at(v.pointer(x_scales), block)))
                of_row = v.at(scales, builder.mul(block, whole(v.lanes * UNIT.vectors)))
                totals = _sums_of_block(v, tag, words, row, part, start)
                following = []
                for j in range(UNIT.vectors):
                    both = builder.fmul(scale, _load_half(v, v.at(of_row, j * v.lanes)))
                    following.append(v.multiply_add(both, totals[j], sums[j]))
                v.next(following)
        elif tag == types.uint16:
            weights = builder.inttoptr(panel, _I32.as_pointer())
            for pair, sums in v.loop(v.half(K), 1, zeros):
                row = v.at(weights, builder.mul(pair, whole(v.lanes * UNIT.vectors)))
                _fetch_ahead(v, row)
                first = v.at(v.pointer(x), builder.mul(pair, whole(2)))
                a, b = v.splat(builder.load(first)), v.splat(builder.load(v.at(first, 1)))
                following = []
                for j in range(UNIT.vectors):
                    both = _load_words(v, v.at(row, j * v.lanes))
                    low = builder.bitcast(builder.shl(both, v.words(16)), v.vector)
                    high = builder.bitcast(builder.and_(both, v.words(0xFFFF0000)), v.vector)
                    following.append(v.multiply_add(b, high, v.multiply_add(a, low, sums[j])))
                v.next(following)
        else:
            for k, sums in v.loop(K, 1, zeros):
                row = v.at(v.pointer(panel), builder.mul(k, whole(v.lanes * UNIT.vectors)))
                _fetch_ahead(v, row)
                a = v.splat(builder.load(v.at(v.pointer(x), k)))
                v.next([v.multiply_add(a, v.load(v.at(row, j * v.lanes)), sums[j]) for j in range(UNIT.vectors)])
        sums = v.results
        begun = v.splat_bit(builder.icmp_unsigned("!=", begin, whole(0)))
        begin_at = v.pointer(builder.select(builder.icmp_unsigned("!=", begin, whole(0)), begin, out))
        for j in range(UNIT.vectors):
            mask = v.first(width, j * v.lanes)
            before = v.masked_load(v.at(begin_at, j * v.lanes), builder.and_(mask, begun))
            v.masked_store(builder.fadd(sums[j], before), v.at(v.pointer(out), j * v.lanes), mask)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def widen_panel(context, K, panel, wide):
    """Write a panel of bf16 [K / 2][P][2] out as float32 [K][P]; for an odd K one row more."""

    def codegen(context, builder, signature, arguments):
        K, panel, wide = arguments
        v = Vectors(builder, types.float32)
        weights, out = builder.inttoptr(panel, _I32.as_pointer()), builder.inttoptr(wide, _I32.as_pointer())
        columns = v.lanes * UNIT.vectors
        for pair, _ in v.loop(v.half(K), 1, []):
            row = v.at(weights, builder.mul(pair, whole(columns)))
            first = v.at(out, builder.mul(pair, whole(2 * columns)))
            for j in range(UNIT.vectors):
                both = _load_words(v, v.at(row, j * v.lanes))
                low, high = builder.shl(both, v.words(16)), builder.and_(both, v.words(0xFFFF0000))
                for place, words in ((j * v.lanes, low), (columns + j * v.lanes, high)):
                    to = builder.bitcast(v.at(first, place), words.type.as_pointer())
                    builder.store(words, to, align=4)
            v.next([])
        return context.get_dummy_value()

    return types.void(K, panel, wide), codegen


_HALF = ir.HalfType()


def _fetch_ahead(v, row):
    """Only in float32 and bf16: in int8 and int4 it gains nothing (bench/README.md)."""
    for j in range(UNIT.vectors):
        v.prefetch(v.at(row, AHEAD // 4 + j * v.lanes), once=True)


def _sums_of_block(v, tag, words, row, x, start):
    """The sum of x q over a block, for each column, as float32; in integers start + sum of x (q + offset)."""
    builder = v.builder
    bits, halves = (8, 1) if tag == types.int8 else (4, 2)
    totals = [_everywhere(v, start) if HAS_INT8_DOT else ir.Constant(v.vector, None)] * UNIT.vectors
    for word in range(words):
        packed = [_load_words(v, v.at(row, (word * UNIT.vectors + j) * v.lanes)) for j in range(UNIT.vectors)]
        for half in range(halves):  # int4: the low halves of bytes, then the high ones
            group = word * halves + half
            if HAS_INT8_DOT:
                four = _everywhere(v, builder.load(v.at(x, group)))
                for j in range(UNIT.vectors):
                    q = packed[j]
                    if bits == 4:
                        q = builder.and_(builder.lshr(q, v.words(4 * half)) if half else q, v.words(0x0F0F0F0F))
                    totals[j] = _dot(v, totals[j], q, four)
                continue
            for byte in range(4):
                a = v.splat(builder.load(v.at(x, 4 * group + byte)))
                for j in range(UNIT.vectors):
                    signed = builder.xor(packed[j], v.words(0x80808080 if bits == 8 else 0x88888888))
                    to_the_left = builder.shl(signed, v.words(32 - 8 * byte - 4 * half - bits))
                    q = builder.sitofp(builder.ashr(to_the_left, v.words(32 - bits)), v.vector)
                    totals[j] = v.multiply_add(a, q, totals[j])
    return [builder.sitofp(total, v.vector) for total in totals] if HAS_INT8_DOT else totals


def _dot(v, totals, q, x):
    """totals + the sum of four products in each lane: bytes of q without a sign, of x with one."""
    name = f"llvm.x86.avx512.vpdpbusd.{8 * UNIT.bytes}"
    return v.call(name, ir.VectorType(_I32, v.lanes), [totals, q, x])


def _everywhere(v, scalar):
    return v.everywhere(scalar, ir.VectorType(scalar.type, v.lanes))


def _load_words(v, pointer):
    return v.builder.load(v.builder.bitcast(pointer, ir.VectorType(_I32, v.lanes).as_pointer()), align=4)


def _load_half(v, pointer):
    """Numbers of float16, all finite, as float32."""
    if HAS_HALF:
        halves = ir.VectorType(_HALF, v.lanes)
        return v.builder.fpext(v.builder.load(v.builder.bitcast(pointer, halves.as_pointer()), align=2), v.vector)
    shorts = ir.VectorType(ir.IntType(16), v.lanes)
    bits = v.builder.load(v.builder.bitcast(pointer, shorts.as_pointer()), align=2)
    bits = v.builder.zext(bits, ir.VectorType(_I32, v.lanes))
    size = v.builder.shl(v.builder.and_(bits, v.words(0x7FFF)), v.words(13))  # the exponent is 112 too small
    sign = v.builder.shl(v.builder.and_(bits, v.words(0x8000)), v.words(16))
    number = v.builder.fmul(v.builder.bitcast(size, v.vector), ir.Constant(v.vector, [2.0**112] * v.lanes))
    return v.builder.bitcast(v.builder.or_(v.builder.bitcast(number, sign.type), sign), v.vector)
