"""A thin language for vector registers, in which microkernel.py is written: LLVM's instructions by readable names."""

import numpy as np
from llvmlite import ir
from numba import types

from npgpt.kernels.machine.cpu import UNIT

# A ``dtype_tag`` is a scalar whose type selects the kernel: float32, float64, uint16 for pairs of bfloat16; int8, int16
# and int32 for tiles of bfloat16 in 1, 2 and 3 pieces.
IN_PAIRS = np.uint16(0)
PAIRS = types.uint16  # what Numba's types call it
IN_TILES = {1: np.int8(0), 2: np.int16(0), 3: np.int32(0)}
PIECES = {types.int8: 1, types.int16: 2, types.int32: 3}
_I1, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (1, 16, 32, 64))


def pieces_of(dtype_tag: np.generic) -> int:
    """The number of pieces of bfloat16 in tiles, 0 for a tag of another kind."""
    return next((pieces for pieces, tag in IN_TILES.items() if tag.dtype == dtype_tag.dtype), 0)


def element(dtype_tag):
    """Check the tag's type. Raises TypeError, which Numba reports."""
    if dtype_tag not in (types.float32, types.float64, PAIRS, *PIECES):
        raise TypeError(f"products are of float32 and float64, not {dtype_tag}")
    if dtype_tag in PIECES and not UNIT.tiles:
        raise TypeError(f"{UNIT.name} has no tiles of bfloat16")
    if dtype_tag == PAIRS and not UNIT.has_bf16:
        raise TypeError(f"{UNIT.name} has no instruction for pairs of bfloat16")
    return dtype_tag


def bytes_of(dtype_tag):
    """The size of an element of a matrix, and of an element of a panel."""
    return 8 if dtype_tag == types.float64 else 4


def on_stack(builder, kind):
    """The address of memory for one of this LLVM type, as int64. It is the function's own, and the same in a loop."""
    with builder.goto_entry_block():
        return builder.ptrtoint(builder.alloca(kind), _I64)


def whole(n: int):
    """A constant int64."""
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


class Vectors:
    """Writes instructions with an llvmlite builder. ``vector`` is a register full of float32 or float64.

    LLVM makes several registers of one that has more bytes than those of this machine.
    """

    def __init__(self, builder, dtype_tag, register_bytes=UNIT.bytes):
        self.builder = builder
        self.real = ir.DoubleType() if dtype_tag == types.float64 else ir.FloatType()
        self.in_pairs = dtype_tag == PAIRS
        self.itemsize = bytes_of(dtype_tag)
        self.lanes = register_bytes // self.itemsize
        self.masks_for_free = register_bytes == 64
        self.vector = ir.VectorType(self.real, self.lanes)
        self.bits = ir.VectorType(_I1, self.lanes)

    def pointer(self, address):
        return self.builder.inttoptr(address, self.real.as_pointer())

    def at(self, pointer, elements):
        return self.builder.gep(pointer, [whole(elements) if isinstance(elements, int) else elements])

    def load(self, pointer):
        return self.builder.load(self.builder.bitcast(pointer, self.vector.as_pointer()), align=self.itemsize)

    def splat(self, scalar):
        """The scalar in each lane."""
        return self.everywhere(scalar, self.vector)

    def splat_bit(self, bit):
        return self.everywhere(bit, self.bits)

    def everywhere(self, x, vector):
        """The scalar x in each lane of a register of the type ``vector``."""
        none = ir.Constant(vector, ir.Undefined)
        one = self.builder.insert_element(none, x, ir.Constant(_I32, 0))
        return self.builder.shuffle_vector(one, none, self._lanes([0] * self.lanes))

    def _lanes(self, indices):
        return ir.Constant(ir.VectorType(_I32, self.lanes), indices)

    def first(self, count, offset: int):
        """A bit for each lane l: whether offset + l < count."""
        wide = ir.VectorType(_I64, self.lanes)
        places = ir.Constant(wide, [offset + lane for lane in range(self.lanes)])
        return self.builder.icmp_signed("<", places, self.everywhere(count, wide))

    def masked_load(self, pointer, mask):
        """0 where the mask is 0; memory there isn't touched."""
        function = self._llvm("load", self.vector, [self.vector.as_pointer(), _I32, self.bits, self.vector])
        pointer = self.builder.bitcast(pointer, self.vector.as_pointer())
        zeros = ir.Constant(self.vector, None)
        return self.builder.call(function, [pointer, ir.Constant(_I32, self.itemsize), mask, zeros])

    def masked_store(self, vector, pointer, mask):
        function = self._llvm("store", ir.VoidType(), [self.vector, self.vector.as_pointer(), _I32, self.bits])
        pointer = self.builder.bitcast(pointer, self.vector.as_pointer())
        self.builder.call(function, [vector, pointer, ir.Constant(_I32, self.itemsize), mask])

    # Only AVX-512 masks in no time. AVX2 does so when it loads, but a masked store takes AMD's CPUs 12 cycles. Others
    # have no instruction for it, and take lanes one by one. So where all lanes may be loaded or stored, that is done.

    def load_some(self, pointer, mask, is_all):
        """As ``masked_load``; where the bit ``is_all`` is 1, all lanes are loaded, whatever the mask is."""
        if self.masks_for_free:
            return self.masked_load(pointer, mask)
        with self.builder.if_else(is_all) as (all_lanes, some):
            with all_lanes:
                loaded, after_loading = self.load(pointer), self.builder.basic_block
            with some:
                masked, after_masking = self.masked_load(pointer, mask), self.builder.basic_block
        result = self.builder.phi(self.vector)
        result.add_incoming(loaded, after_loading)
        result.add_incoming(masked, after_masking)
        return result

    def store_some(self, vector, pointer, mask, is_all):
        """As ``masked_store``; where the bit ``is_all`` is 1, all lanes are stored, whatever the mask is."""
        if self.masks_for_free:
            self.masked_store(vector, pointer, mask)
            return
        with self.builder.if_else(is_all) as (all_lanes, some):
            with all_lanes:
                to = self.builder.bitcast(pointer, self.vector.as_pointer())
                self.builder.store(vector, to, align=self.itemsize)
            with some:
                self.masked_store(vector, pointer, mask)

    def prefetch(self, pointer, once=False):
        """Fetch the cache line of an address that is soon used. An address without memory does no harm.

        once    it is used once: fetch it into the first cache alone, so that it drives nothing out of the others
        """
        module, byte = self.builder.module, ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32])
        function = module.globals.get("llvm.prefetch.p0") or ir.Function(module, kind, "llvm.prefetch.p0")
        arguments = [ir.Constant(_I32, x) for x in (0, 0 if once else 3, 1)]  # to read; in which caches; data
        self.builder.call(function, [self.builder.bitcast(pointer, byte), *arguments])

    def _llvm(self, what, result, inputs):
        name = f"llvm.masked.{what}.v{self.lanes}f{8 * self.itemsize}.p0"
        module = self.builder.module
        return module.globals.get(name) or ir.Function(module, ir.FunctionType(result, inputs), name)

    def multiply_add(self, a, b, total):
        """total + a b, lane by lane; of pairs, total + a0 b0 + a1 b1."""
        if self.in_pairs:
            pairs = [self.builder.bitcast(x, _BFLOATS) for x in (a, b)]
            return self.call("llvm.x86.avx512bf16.dpbf16ps.512", self.vector, [total, *pairs])
        product = self.builder.fmul(a, b, flags=("contract",))  # one instruction with the sum
        return self.builder.fadd(total, product, flags=("contract",))

    def rounded(self, first, second):
        """Two registers of 16 float32 -> one of bfloat16, the elements of ``first`` and then of ``second``.

        Rounds to the nearest, of two to the even one. A number below 1.2e-38 becomes 0.
        """
        if UNIT.has_bf16:
            both = self.call("llvm.x86.avx512bf16.cvtne2ps2bf16.512", _BFLOATS, [second, first])
        else:
            halves = [self._upper_halves(x) for x in (first, second)]
            both = self.builder.shuffle_vector(*halves, ir.Constant(ir.VectorType(_I32, 32), list(range(32))))
        return self.builder.bitcast(both, self.vector)

    def _upper_halves(self, x):
        """What the instruction does, with 16 numbers."""
        b = self.builder
        bits = b.bitcast(x, ir.VectorType(_I32, self.lanes))
        odd = b.and_(b.lshr(bits, self.words(16)), self.words(1))
        rounded = b.add(bits, b.add(odd, self.words(0x7FFF)))
        rounded = b.select(self._is_tiny(bits), b.and_(bits, self.words(0x80000000)), rounded)
        rounded = b.select(b.fcmp_unordered("uno", x, x), b.or_(bits, self.words(0x400000)), rounded)
        return b.trunc(b.lshr(rounded, self.words(16)), ir.VectorType(_I16, self.lanes))

    def flushed(self, x):
        """x, but 0, with x's sign, where it is below 1.2e-38."""
        b = self.builder
        bits = b.bitcast(x, ir.VectorType(_I32, self.lanes))
        zero = b.bitcast(b.and_(bits, self.words(0x80000000)), self.vector)
        return b.select(self._is_tiny(bits), zero, x)

    def _is_tiny(self, bits):
        exponents = self.builder.and_(bits, self.words(0x7F800000))
        return self.builder.icmp_unsigned("==", exponents, self.words(0))

    def words(self, bits: int):
        """A constant of 32 bits, in each lane."""
        return ir.Constant(ir.VectorType(_I32, self.lanes), [bits] * self.lanes)

    def interleaved(self, halves):
        """From x0 x1 ... y0 y1 ... of 16 bits each: x0 y0 x1 y1 ..."""
        count = 2 * self.lanes
        halves = self.builder.bitcast(halves, ir.VectorType(ir.IntType(16), count))
        order = ir.Constant(ir.VectorType(_I32, count), [i // 2 + i % 2 * self.lanes for i in range(count)])
        return self.builder.bitcast(self.builder.shuffle_vector(halves, halves, order), self.vector)

    def half(self, K):
        """K / 2, rounded up."""
        return self.builder.sdiv(self.builder.add(K, whole(1)), whole(2))

    def call(self, name, result, arguments):
        """Call an LLVM intrinsic; ``result`` is the type of what it returns."""
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

        The vectors ``values`` are carried from one iteration to the next. They start as ``carried``, ``next`` sets
        their next values, and ``results`` holds the final ones.
        """
        builder = self.builder
        before = builder.basic_block
        head, body, end = (builder.append_basic_block(name) for name in ("loop", "body", "end"))
        builder.branch(head)
        builder.position_at_end(head)
        k = builder.phi(_I64)
        k.add_incoming(whole(0), before)
        values = [builder.phi(self.vector) for _ in carried]
        for value, first in zip(values, carried, strict=True):
            value.add_incoming(first, before)
        builder.cbranch(builder.icmp_signed("<", k, stop), body, end)
        builder.position_at_end(body)
        yield k, values
        k.add_incoming(builder.add(k, whole(step)), builder.basic_block)
        for value, following in zip(values, self._following, strict=True):
            value.add_incoming(following, builder.basic_block)
        builder.branch(head)
        builder.position_at_end(end)
        self.results = values

    def next(self, values):
        self._following = values
