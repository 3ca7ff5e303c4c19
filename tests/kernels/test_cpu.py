"""Which vector unit is taken on which machine; machines of other kinds are described to it."""

import pytest

from npgpt.errors import ConfigError
from npgpt.kernels.machine import cpu

X86 = {"avx2": True, "avx512f": True, "avx512bf16": True}
MACHINES = {  # platform.machine(), LLVM's name of the CPU, its features -> the unit, other units that it has
    "Zen 4": ("x86_64", "znver4", X86, ["avx512_bf16", "avx512", "avx2", "generic"]),
    "Zen 2": ("x86_64", "znver2", {"avx2": True, "avx512f": False}, ["avx2", "generic"]),
    "Sapphire Rapids": ("x86_64", "sapphirerapids", X86, ["avx512", "avx512_bf16", "avx2", "generic"]),
    "an old PC, on Windows": ("AMD64", "x86-64", {}, ["generic"]),
    "Graviton, whose features LLVM names": ("aarch64", "neoverse-n1", {"neon": True}, ["neon", "generic"]),
    "Apple, whose features it doesn't": ("arm64", "apple-m1", {}, ["neon", "generic"]),
    "ARM, on Windows": ("ARM64", "generic", {}, ["neon", "generic"]),
}


@pytest.fixture(params=MACHINES.values(), ids=MACHINES)
def units(request, monkeypatch):
    """Pretends to be one of the machines. -> its units, first the one that is taken"""
    machine, name, features, units = request.param
    monkeypatch.setattr(cpu.platform, "machine", lambda: machine)
    monkeypatch.setattr(cpu.binding, "get_host_cpu_name", lambda: name)
    monkeypatch.setattr(cpu.binding, "get_host_cpu_features", lambda: features)
    monkeypatch.delenv("NPGPT_CPU", raising=False)
    return units


def test_the_fastest_unit_is_taken(units):
    assert cpu._chosen().name == units[0]
    assert set(cpu.available()) == set(units)


def test_the_environment_chooses_any_unit_of_the_machine(units, monkeypatch):
    for unit in [*cpu.UNITS, "amx", "avx513", ""]:
        monkeypatch.setenv("NPGPT_CPU", unit)
        if unit in units:
            assert cpu._chosen().name == unit
        else:
            with pytest.raises(ConfigError, match=f"NPGPT_CPU must be one of .*generic, not '{unit}'"):
                cpu._chosen()
