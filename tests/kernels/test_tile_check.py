"""Permission for tiles and the check before their first use: the operating system and the products are made up."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from npgpt.kernels.bfloat16 import bf16_pieces
from npgpt.kernels.machine import tile_check
from npgpt.kernels.machine.cpu import UNITS


def in_pieces(a, b, count):
    """The products that tiles add up."""
    A, B = bf16_pieces(a, count), bf16_pieces(b, count)
    return sum(A[i].astype(np.float64) @ B[j] for i in range(count) for j in range(count - i)).astype(np.float32)


@pytest.fixture
def machine(monkeypatch):
    """A Linux whose tiles work: ``answer`` is that of the operating system, ``product`` computes."""
    made_up = SimpleNamespace(asked=[], answer=0, system="Linux", product=in_pieces)

    def syscall(*arguments):
        made_up.asked.append(arguments)
        return made_up.answer

    monkeypatch.setattr(tile_check, "UNIT", UNITS["tiles"])
    monkeypatch.setattr(tile_check.ctypes, "CDLL", lambda *arguments, **options: SimpleNamespace(syscall=syscall))
    monkeypatch.setattr(tile_check.ctypes, "get_errno", lambda: 95)
    monkeypatch.setattr(tile_check.platform, "system", lambda: made_up.system)
    monkeypatch.setattr(tile_check, "_product", lambda *arguments: made_up.product(*arguments))
    tile_check.trouble_with_tiles.cache_clear()
    yield made_up
    tile_check.trouble_with_tiles.cache_clear()


@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_a_unit_that_works_is_asked_for_and_checked_once(machine, pieces):
    assert [tile_check.trouble_with_tiles(pieces) for _ in range(2)] == ["", ""]
    assert machine.asked == [(158, 0x1023, 18)]


def test_plain_tiles_need_no_permission(machine, monkeypatch):
    monkeypatch.setattr(tile_check, "UNIT", replace(UNITS["avx2"], tiles="plain"))
    assert tile_check.trouble_with_tiles(1) == ""
    assert machine.asked == []


def test_permission_that_is_refused(machine):
    machine.answer = -1
    assert tile_check.trouble_with_tiles(1) == "the operating system refuses them (Operation not supported)"


def test_an_operating_system_without_the_question(machine, monkeypatch):
    machine.system = "Windows"
    assert tile_check.trouble_with_tiles(1) == "npgpt can't ask Windows for them"
    machine.system = "Linux"
    monkeypatch.setattr(tile_check.ctypes, "CDLL", lambda *arguments, **options: SimpleNamespace())
    assert tile_check.trouble_with_tiles(2).startswith("the operating system can't be asked for them")


def swapped(a, b, count):
    c = in_pieces(a, b, count)
    c[[3, 4]] = c[[4, 3]]
    return c


def one_bit(a, b, count):
    """Whole numbers are exact, so the last bit of one is seen."""
    c = in_pieces(a, b, count)
    c[69, 89] = np.nextafter(c[69, 89], np.float32(np.inf))
    return c


def without_the_last_piece(a, b, count):
    return in_pieces(a, b, count - 1)


@pytest.mark.parametrize("product", [swapped, one_bit, without_the_last_piece])
@pytest.mark.parametrize("pieces", [2, 3])
def test_a_product_that_is_wrong(machine, product, pieces):
    machine.product = product
    assert tile_check.trouble_with_tiles(pieces) == "a product came out wrong"


def test_a_product_that_fails(machine):
    machine.product = None
    assert tile_check.trouble_with_tiles(1).startswith("a product failed with TypeError: ")
