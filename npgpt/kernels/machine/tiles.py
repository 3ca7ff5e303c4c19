"""Tiles: the registers of a matrix unit (Intel AMX) that multiplies bfloat16 numbers and adds them up in float32.

A tile register holds 16 rows of 64 bytes. One instruction multiplies two of them and adds the product to a third:

    C (16 rows, 16 columns) += A (16 rows, 32 steps of k) @ B (32 steps of k, 16 columns)       16384 products

It wants both steps of a pair side by side in memory:

    tile of A       [16 rows][16 pairs][2]
    tile of B       [16 pairs][16 columns][2]

What it computes, for each element of C (Intel's manual, TDPBF16PS): the sum over even k and the sum over odd k, in this
order of k and each rounded as float32 after each product; then their sum, and it is added to C. Whatever is below
1.2e-38, the smallest normal number, is 0.

These operations exist twice. ``Instructions`` writes those of the unit, ``PlainTiles`` loops that do the same with
memory in place of registers. Everything else, here and in tile_panels.py, is the same code for both. So on a machine
without tiles all of it can be run and tested but the instructions themselves (NPGPT_CPU=tiles-plain).
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from npgpt.kernels.machine.cpu import UNIT
from npgpt.kernels.machine.vectors import PIECES, Vectors, on_stack, whole

ROWS, ROW_BYTES, TILE_BYTES = 16, 64, 1024
REGISTERS = 8
_I8, _I32 = ir.IntType(8), ir.IntType(32)
_POINTER = _I8.as_pointer()


class Instructions:
    """Writes the unit's instructions. A register is a number below 8, a stride the bytes from one row to the next."""

    def __init__(self, builder):
        self.builder = builder

    def begin(self):
        """Before a thread's first tile: all registers are of 16 rows of 64 bytes, and hold zeros."""
        used, none = [1] * REGISTERS, [0] * REGISTERS
        bytes_of_a_row = [half for register in used + none for half in (ROW_BYTES * register, 0)]  # 16 bits each
        palette, first_row = 1, 0
        table = [palette, first_row, *[0] * 14, *bytes_of_a_row, *(ROWS * register for register in used + none)]
        kind = ir.ArrayType(_I8, 64)
        place = self.builder.inttoptr(on_stack(self.builder, kind), kind.as_pointer())
        self.builder.store(ir.Constant(kind, table), place)
        self._call("ldtilecfg", self.builder.bitcast(place, _POINTER))

    def end(self):
        """After the last one: the thread's registers need not be saved any more when another thread takes the core."""
        self._call("tilerelease")

    def zero(self, register):
        self._call("tilezero", _number(register))

    def load(self, register, pointer, stride):
        self._call("tileloadd64", _number(register), pointer, stride)

    def load_once(self, register, pointer, stride):
        """As ``load``, of what is not to push other data out of the nearest cache."""
        self._call("tileloaddt164", _number(register), pointer, stride)

    def store(self, register, pointer, stride):
        self._call("tilestored64", _number(register), pointer, stride)

    def multiply_add(self, c, a, b):
        self._call("tdpbf16ps", *map(_number, (c, a, b)))

    def _call(self, name, *arguments):
        kind = ir.FunctionType(ir.VoidType(), [x.type for x in arguments])
        name, module = f"llvm.x86.{name}", self.builder.module
        self.builder.call(module.globals.get(name) or ir.Function(module, kind, name), arguments)


def _number(register):
    return ir.Constant(_I8, register)


class PlainTiles:
    """Writes loops that do what the instructions do."""

    def __init__(self, builder):
        self.builder = builder
        self.v = Vectors(builder, types.float32, ROW_BYTES)
        self._registers = None

    def begin(self):
        """Nothing has to be done."""

    end = begin

    def zero(self, register):
        self._copy(None, whole(0), self._register(register), whole(ROW_BYTES))

    def load(self, register, pointer, stride):
        self._copy(pointer, stride, self._register(register), whole(ROW_BYTES))

    load_once = load

    def store(self, register, pointer, stride):
        self._copy(self._register(register), whole(ROW_BYTES), pointer, stride)

    def multiply_add(self, c, a, b):
        self.builder.call(_multiply_add(self.builder.module), [self._register(x) for x in (c, a, b)])

    def _register(self, number):
        """Where it is in memory."""
        if self._registers is None:
            self._registers = on_stack(self.builder, ir.ArrayType(_I8, REGISTERS * TILE_BYTES))
        return self.builder.inttoptr(self.builder.add(self._registers, whole(number * TILE_BYTES)), _POINTER)

    def _copy(self, x, x_stride, y, y_stride):
        """y = x, or zeros."""
        v, b = self.v, self.builder
        for row, _ in v.loop(whole(ROWS), 1, []):
            line = ir.Constant(v.vector, None) if x is None else v.load(b.gep(x, [b.mul(row, x_stride)]))
            out = b.bitcast(b.gep(y, [b.mul(row, y_stride)]), v.vector.as_pointer())
            b.store(line, out, align=4)
            v.next([])


def _multiply_add(module):
    """A function of the addresses of three tiles: c += a b."""
    name = "npgpt.multiply_tiles"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [_POINTER] * 3), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    b = ir.IRBuilder(function.append_basic_block())
    v = Vectors(b, types.float32, ROW_BYTES)
    words = ir.VectorType(_I32, v.lanes)
    zero = ir.Constant(v.vector, None)

    def factors(pairs):
        """The first of each pair, and the second; they are the upper halves of float32 numbers."""
        return b.bitcast(b.shl(pairs, v.words(16)), v.vector), b.bitcast(b.and_(pairs, v.words(0xFFFF0000)), v.vector)

    C, A, B = (b.bitcast(pointer, ir.FloatType().as_pointer()) for pointer in function.args)
    for row, _ in v.loop(whole(ROWS), 1, []):
        first = b.mul(row, whole(v.lanes))
        sums = Vectors(b, types.float32, ROW_BYTES)
        for pair, totals in sums.loop(whole(v.lanes), 1, [zero, zero]):
            pair_of_a = b.load(b.bitcast(v.at(v.at(A, first), pair), _I32.as_pointer()))
            of_a = factors(v.everywhere(pair_of_a, words))
            of_b = factors(b.bitcast(v.load(v.at(B, b.mul(pair, whole(v.lanes)))), words))
            products = zip(of_a, of_b, totals, strict=True)
            sums.next([v.flushed(v.call(f"llvm.fma.v{v.lanes}f32", v.vector, list(terms))) for terms in products])
        both = v.flushed(b.fadd(*sums.results))
        out = v.at(C, first)
        total = v.flushed(b.fadd(v.flushed(v.load(out)), both))
        b.store(total, b.bitcast(out, v.vector.as_pointer()), align=4)
        v.next([])
    b.ret_void()
    return function


BODIES = {"instructions": Instructions, "plain": PlainTiles}


def tiles(builder):
    """The operations of this unit."""
    return BODIES[UNIT.tiles](builder)


@intrinsic
def begin_products(context, dtype_tag):
    """Before the products of a thread."""

    def codegen(context, builder, signature, arguments):
        if dtype_tag in PIECES:
            tiles(builder).begin()
        return context.get_dummy_value()

    return types.void(dtype_tag), codegen


@intrinsic
def end_products(context, dtype_tag):
    """After them."""

    def codegen(context, builder, signature, arguments):
        if dtype_tag in PIECES:
            tiles(builder).end()
        return context.get_dummy_value()

    return types.void(dtype_tag), codegen
