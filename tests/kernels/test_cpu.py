"""Which vector unit is taken on which machine; machines of other kinds are described to it."""

import pytest

from npgpt.errors import ConfigError
from npgpt.kernels.machine import cpu

X86 = {"avx2": True, "avx512f": True, "avx512bf16": True}
TILES = {**X86, "amx-tile": True, "amx-bf16": True}
EVERYWHERE = PLAIN, BLAS = "tiles-plain", "blas"
MACHINES = {  # platform.machine(), LLVM's features of the CPU -> its units, the widest first
    "Zen 4": ("x86_64", X86, ["avx512_bf16", "avx512", "avx2", "generic", *EVERYWHERE]),
    "Zen 2": ("x86_64", {"avx2": True, "avx512f": False}, ["avx2", "generic", *EVERYWHERE]),
    "Sapphire Rapids": ("x86_64", TILES, ["tiles", "avx512_bf16", "avx512", "avx2", "generic", *EVERYWHERE]),
    "the same, whose system knows no tiles": (
        *("x86_64", {**TILES, "amx-tile": False}),
        ["avx512_bf16", "avx512", "avx2", "generic", *EVERYWHERE],
    ),
    "an old PC, on Windows": ("AMD64", {}, ["generic", *EVERYWHERE]),
    "Graviton, whose features LLVM names": ("aarch64", {"neon": True}, ["neon", "generic", *EVERYWHERE]),
    "Apple, whose features it doesn't": ("arm64", {}, ["neon", "generic", *EVERYWHERE]),
    "ARM, on Windows": ("ARM64", {}, ["neon", "generic", *EVERYWHERE]),
}


@pytest.fixture(params=MACHINES.values(), ids=MACHINES)
def units(request, monkeypatch):
    """Pretends to be one of the machines. -> its units"""
    machine, features, units = request.param
    monkeypatch.setattr(cpu.platform, "machine", lambda: machine)
    monkeypatch.setattr(cpu.binding, "get_host_cpu_features", lambda: features)
    monkeypatch.delenv("NPGPT_CPU", raising=False)
    return units


def test_the_widest_unit_is_taken(units):
    assert cpu._chosen().name == units[0]
    assert cpu.available() == units


def test_plain_tiles_stand_beside_the_widest_vectors(units, monkeypatch):
    monkeypatch.setenv("NPGPT_CPU", PLAIN)
    unit = cpu._chosen()
    assert (unit.tiles, unit.bytes) == ("plain", cpu.UNITS[units[0]].bytes)


def test_the_environment_chooses_any_unit_of_the_machine(units, monkeypatch):
    for unit in [*cpu.UNITS, "amx", "avx513", ""]:
        monkeypatch.setenv("NPGPT_CPU", unit)
        if unit in units:
            assert cpu._chosen().name == unit
        else:
            with pytest.raises(
                ConfigError, match=f"NPGPT_CPU must be one of .*generic, tiles-plain, blas, not '{unit}'"
            ):
                cpu._chosen()


@pytest.mark.parametrize(("system", "name"), [("darwin", "blas"), ("linux", "neon"), ("win32", "neon")])
def test_numpys_library_is_considered_on_apples_cpus_alone(monkeypatch, system, name):
    """Its matrix unit is out of NEON's reach. NPGPT_CPU=neon says no to that."""
    monkeypatch.setattr(cpu.platform, "machine", lambda: "arm64")
    monkeypatch.setattr(cpu.binding, "get_host_cpu_features", lambda: {})
    monkeypatch.setattr(cpu.sys, "platform", system)
    monkeypatch.delenv("NPGPT_CPU", raising=False)
    unit = cpu._chosen()
    assert (unit.name, unit.has_blas, unit.title, unit.rows) == (name, name == "blas", "NEON", 8)
    monkeypatch.setenv("NPGPT_CPU", "neon")
    assert not cpu._chosen().has_blas


def test_an_intel_mac_has_none(monkeypatch):
    monkeypatch.setattr(cpu.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(cpu.binding, "get_host_cpu_features", lambda: {"avx2": True})
    monkeypatch.setattr(cpu.sys, "platform", "darwin")
    monkeypatch.delenv("NPGPT_CPU", raising=False)
    assert cpu._chosen() == cpu.UNITS["avx2"]
