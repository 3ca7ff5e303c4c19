"""kernels/machine/tiles.py: its plain code and its instructions compute the same, to the last bit.

Plain code runs on any machine. Instructions run on an emulated unit; and LLVM translates them for a processor that has
one, whichever this is.
"""

import platform
import re
from dataclasses import replace

import numpy as np
import pytest
from helpers.tile_unit import TileUnit, block_module, compiled, pack_module, pieces
from llvmlite import binding

from npgpt.kernels.bfloat16 import bf16_pieces, f32_to_bf16
from npgpt.kernels.machine import tiles, vectors
from npgpt.kernels.machine.tile_panels import STEPS

STARTS = "nothing", "a matrix", "a bias"


@pytest.fixture
def body(monkeypatch):
    """Chooses the body of tiles.py."""
    return lambda name: monkeypatch.setattr(tiles, "UNIT", replace(tiles.UNIT, tiles=name))


def panel(x, count, of_a):
    """What the packing writes, by its definition: x (32 lines, K) -> [K / 32][pieces][2 tiles][16][16][2], uint16"""
    lines, K = x.shape
    padded = np.zeros((32, -(-K // STEPS) * STEPS), np.float32)
    padded[:lines, :K] = x
    bits = np.stack([f32_to_bf16(piece) for piece in bf16_pieces(padded, count)])
    parts = bits.reshape(count, 2, 16, -1, 16, 2)  # piece, tile, line, block, pair, step
    return np.ascontiguousarray(parts.transpose((3, 0, 1, 2, 4, 5) if of_a else (3, 0, 1, 4, 2, 5)))


def numbers(shape, kind, rng):
    x = rng.standard_normal(shape, np.float32)
    if kind == "odd":
        special = [np.inf, -np.inf, np.nan, 0.0, -0.0, 1e-40, -1e-40, 1.2e-38, 3.4028235e38, -3.39e38, 1e-20, -1e-20]
        x.flat[:: max(x.size // 40, 1)] = np.resize(np.float32(special), x.flat[:: max(x.size // 40, 1)].size)
    return x


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("kind", ["normal", "odd"])
def test_instructions_and_plain_code_compute_the_same_bits(body, count, kind):
    """A block of C, whole or cut at its edges, begun with nothing, a matrix, a bias; nothing beyond it is touched."""
    rng = np.random.default_rng(count)
    unit = TileUnit()
    body("instructions")
    by_instructions = compiled(block_module(pieces(count)), unit)
    body("plain")
    by_plain_code = compiled(block_module(pieces(count)))
    K = 2 * STEPS
    a, b = (panel(numbers((32, K), kind, rng), count, of_a) for of_a in (True, False))
    depth = a.nbytes // 4 // 32
    for rows, width in ((32, 32), (32, 5), (17, 32), (1, 20)):
        for start in STARTS:
            begin = np.ascontiguousarray(numbers((rows, 40), kind, rng))
            found = []
            for block in (by_instructions, by_plain_code):
                C = np.full((rows + 1, 50), -7, np.float32)
                address, row = (0, 0) if start == "nothing" else (begin.ctypes.data, 40 * (start == "a matrix"))
                block(depth, a.ctypes.data, b.ctypes.data, rows, width, address, row, C.ctypes.data, 50)
                assert np.count_nonzero(C[:, width:] != -7) == 0, "written beside the block"
                assert (C[rows:] == -7).all()
                found.append(C[:rows, :width])
            assert not unit.faults
            same = (found[0].view(np.uint32) == found[1].view(np.uint32)) | (np.isnan(found[0]) & np.isnan(found[1]))
            assert same.all(), (rows, width, start)


def test_a_block_of_whole_numbers_is_exact(body):
    """Both on the emulated unit and in plain code: so they are not only equal, but right."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(-999, 1000, (32, 64)).astype(np.float32), rng.integers(-99, 100, (64, 32)).astype(np.float32)
    A, B = panel(a, 2, True), panel(np.ascontiguousarray(b.T), 2, False)  # -999 has 10 bits: two pieces
    for name in tiles.BODIES:
        body(name)
        unit, C = TileUnit(), np.empty((32, 32), np.float32)
        compiled(block_module(pieces(2)), unit)(
            A.nbytes // 128, A.ctypes.data, B.ctypes.data, 32, 32, 0, 0, C.ctypes.data, 32
        )
        np.testing.assert_array_equal(C, a.astype(np.float64) @ b)
        assert unit.faults == []


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("lines_are_rows", [True, False])
@pytest.mark.parametrize("of_a", [True, False])
def test_a_panel_holds_the_pieces_of_its_lines(count, lines_are_rows, of_a):
    rng = np.random.default_rng(0)
    pack = compiled(pack_module(pieces(count), of_a, lines_are_rows))
    for lines, K in ((32, 64), (40, 70), (9, 33), (32, 1)):
        x = numbers((lines, K), "odd", rng)
        x[0, 0] = np.nan
        stored = np.ascontiguousarray(x if lines_are_rows else x.T)
        right = panel(x[:32], count, of_a)
        found = np.full_like(right, 0x1234)
        pack(stored.ctypes.data, stored.shape[1], lines, K, found.ctypes.data)
        np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_without_tiles_nothing_is_compiled_for_them(monkeypatch, count):
    monkeypatch.setattr(vectors, "UNIT", replace(vectors.UNIT, tiles=""))
    with pytest.raises(TypeError, match="has no tiles"):
        vectors.element(pieces(count))


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="LLVM may not know x86 here")
@pytest.mark.parametrize(("count", "products", "loads"), [(1, 4, 4), (2, 12, 8), (3, 24, 14)])
def test_what_llvm_makes_of_it_for_a_processor_with_tiles(body, count, products, loads):
    body("instructions")
    machine = binding.Target.from_default_triple().create_target_machine(
        cpu="sapphirerapids", features="+amx-tile,+amx-bf16", opt=3
    )
    assembly = machine.emit_assembly(binding.parse_assembly(block_module(pieces(count))))
    found = re.findall(r"^\s+(ldtilecfg|tile\w+|tdpbf16ps)\b", assembly, re.MULTILINE)
    assert (found[0], found[-1]) == ("ldtilecfg", "tilerelease")
    assert {name: found.count(name) for name in set(found)} == {
        "ldtilecfg": 1, "tilerelease": 1, "tilezero": 4, "tdpbf16ps": products, "tilestored": 4,
        "tileloadd": 2 * count, "tileloaddt1": loads - 2 * count,
    }  # fmt: skip
    # The sums are registers 0 to 3, A is 4 and 5, B 6 and 7: each sum of its own rows and columns (AT&T: c comes last).
    operands = re.findall(r"tdpbf16ps\s+%tmm(\d), %tmm(\d), %tmm(\d)", assembly)
    assert operands == [("6", "4", "0"), ("7", "4", "1"), ("6", "5", "2"), ("7", "5", "3")] * (products // 4)
