"""A tile unit, emulated: what Intel's manual says that each instruction does, with NumPy arrays for registers.

``compiled`` makes a function of what npgpt writes with the unit's instructions, in which each of them calls this unit
instead. So the instructions' operands, strides and order run on any machine.
"""

import ctypes
import re

import numpy as np
from llvmlite import binding, ir

from npgpt.kernels.machine import tile_panels, tiles

I64 = ir.IntType(64)
TINY = np.float32(np.finfo(np.float32).tiny)


class TileUnit:
    """Eight registers of 16 rows of 64 bytes. ``faults`` are what a processor would stop at."""

    def __init__(self):
        self.registers, self.faults, self.counts = None, [], {}

    def ldtilecfg(self, pointer):
        table = np.frombuffer(ctypes.string_at(pointer, 64), np.uint8)
        palette, rest = table[0], table[1:16]
        bytes_of_a_row, rows = table[16:48].view("<u2"), table[48:64]
        if palette != 1 or rest.any() or bytes_of_a_row[8:].any() or rows[8:].any():
            raise ValueError(f"a configuration that this unit doesn't know: {table}")
        if (bytes_of_a_row[:8] != 64).any() or (rows[:8] != 16).any():
            raise ValueError(f"registers of another shape: {bytes_of_a_row}, {rows}")
        self.registers = np.zeros((8, 16, 64), np.uint8)

    def tilerelease(self):
        self.registers = None

    def tilezero(self, register):
        self.registers[register] = 0

    def tileloadd64(self, register, pointer, stride):
        for row in range(16):
            self.registers[register, row] = np.frombuffer(ctypes.string_at(pointer + row * stride, 64), np.uint8)

    tileloaddt164 = tileloadd64

    def tilestored64(self, register, pointer, stride):
        for row in range(16):
            ctypes.memmove(pointer + row * stride, self.registers[register, row].tobytes(), 64)

    def tdpbf16ps(self, c, a, b):
        """The sums over even and over odd steps, each product added with one rounding; then both, added to c."""
        if len({a, b, c}) < 3:
            raise ValueError(f"the same register twice: {a, b, c}")
        A, B = (wide(self.registers[x].view(np.uint16).reshape(16, 16, 2)) for x in (a, b))
        C = self.registers[c].view(np.float32)
        sums = np.zeros((2, 16, 16), np.float32)
        with np.errstate(all="ignore"):
            for pair in range(16):
                for half in range(2):
                    # The product of two numbers of 8 bits is exact in float64. So is the sum, unless one is 2^29 times
                    # the other; then it is rounded twice, with the same result but where the first one makes a tie.
                    product = A[:, pair, half, None].astype(np.float64) * B[None, pair, :, half]
                    sums[half] = flushed((sums[half] + product).astype(np.float32))
            C[...] = flushed(flushed(C) + flushed(sums[0] + sums[1]))

    def call(self, name, arguments):
        self.counts[name] = self.counts.get(name, 0) + 1
        try:
            if self.registers is None and name != "ldtilecfg":
                raise ValueError(f"{name} before ldtilecfg")
            getattr(self, name)(*arguments)
        except Exception as error:  # ctypes would print it and go on
            self.faults.append(error)


def wide(halves):
    """bfloat16 -> float32, where numbers below the smallest normal one are 0"""
    return flushed((halves.astype(np.uint32) << 16).view(np.float32))


def flushed(x):
    return np.where(np.abs(x) < TINY, np.copysign(np.float32(0), x), x)


def block_module(dtype_tag):
    """A function ``block`` as LLVM's text, which computes a block of C with the body that tiles.py has now.

    Its nine arguments are those of ``microkernel`` without the tag.
    """
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 9), "block")
    builder = ir.IRBuilder(function.append_basic_block())
    tiles.tiles(builder).begin()
    tile_panels.multiply(builder, dtype_tag, *function.args)
    tiles.tiles(builder).end()
    builder.ret_void()
    return str(module)


def pack_module(dtype_tag, is_a, lines_are_rows):
    """The same for ``tile_panels.pack``: a function of x, step, lines, K, panel, all int64."""
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 5), "block")
    builder = ir.IRBuilder(function.append_basic_block())
    x, step, lines, K, panel = function.args
    x, panel = (builder.inttoptr(address, ir.FloatType().as_pointer()) for address in (x, panel))
    tile_panels.pack(builder, dtype_tag, is_a, lines_are_rows, x, step, lines, K, panel)
    builder.ret_void()
    return str(module)


def compiled(text, unit=None):
    """The function ``block`` of the text, for this machine; ``unit`` executes tile instructions."""
    kept = []
    for name in sorted(set(re.findall(r"llvm\.x86\.(\w*tile\w*|tdpbf16ps)", text))):
        shapes = {"ldtilecfg": [ctypes.c_void_p], "tilerelease": [], "tilezero": [ctypes.c_uint8]}
        shape = shapes.get(name, [ctypes.c_uint8, ctypes.c_void_p, ctypes.c_int64])
        if name == "tdpbf16ps":
            shape = [ctypes.c_uint8] * 3
        call = ctypes.CFUNCTYPE(None, *shape)(lambda *arguments, name=name: unit.call(name, arguments))
        kept.append(call)
        symbol = f"npgpt_{id(unit)}_{name}"
        binding.add_symbol(symbol, ctypes.cast(call, ctypes.c_void_p).value)
        text = text.replace(f"llvm.x86.{name}", symbol)
    module = binding.parse_assembly(text)
    module.verify()
    machine = binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(), features=binding.get_host_cpu_features().flatten(), opt=1
    )
    engine = binding.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    count = text.split('define void @"block"(')[1].split(")")[0].count("i64")
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * count)(engine.get_function_address("block"))
    function.kept = kept, engine
    return function


def pieces(number):
    """Numba's type of the tag for so many pieces."""
    return next(kind for kind, count in tile_panels.PIECES.items() if count == number)
