"""bench.kernels times every kernel, and refuses to where results differ."""

import json
import math

import pytest
from helpers.running_bench import bench, needs_torch

from bench import kernel_cases, kernels
from npgpt.kernels import KERNELS

KERNEL_SIZES = ("--preset", "mini", "--batch-size", 2, "--context", 16, "--seconds", 0, "--rounds", 1)


@pytest.mark.parametrize("peer", ["none", pytest.param("torch", marks=needs_torch)])
def test_kernels_are_timed_beside_a_peer(tmp_path, peer):
    """Every kernel is timed, and the sides' results agree."""
    path = tmp_path / "kernels.json"
    done = bench("kernels", *map(str, KERNEL_SIZES), "--peer", peer, "--json", str(path))
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads(path.read_text())
    timed = set(kernel_cases.cases(2, 16, 128, 4, 50257))
    assert found["kernels"].keys() == timed
    assert {case.kernel for case in kernel_cases.cases(2, 16, 128, 4, 50257).values()} == KERNELS.keys()
    for name, kernel in found["kernels"].items():
        sides = {"numpy", "numba"} | ({"torch"} if peer == "torch" and name != "dropout" else set())
        assert kernel["seconds"].keys() == sides, name
        assert kernel["share_of_peak"] > 0
        assert f"| {name} " in done.stdout
    assert min(found["peaks"].values()) > 0.1


def test_kernels_whose_results_differ_are_named():
    def sample(*elements):
        return {"shape": [2], "largest": 10.0, "elements": list(elements)}

    assert kernels.same([sample(1, 2)], [sample(1.0009, 2), sample(0, 0)])
    assert not kernels.same([sample(1, 2)], [sample(1.0011, 2)])
    assert not kernels.same([sample(1, math.nan)], [sample(1, 2)])
    report = {"x": {"results": [sample(1, 2)], "seconds": [0.2, 0.1, 0.3]}}
    other = {"x": {"results": [sample(9, 2)], "seconds": [0.1]}}
    case = kernel_cases.Case("x", None, flops=10**9, bytes=10**7)
    found = kernels.measured("x", case, {"numpy": [report], "numba": [other]}, {"gflops": 20, "gbytes": 1})
    assert found == {
        "seconds": {"numpy": 0.2, "numba": 0.1}, "differs": ["numba"], "flops": 10**9, "bytes": 10**7,
        "gflops": 10.0, "gbytes": 0.1, "limit": "gflops", "share_of_peak": 0.5,
    }  # fmt: skip


def test_a_kernels_limit_is_memory_or_products():
    """The limit is not the larger count, but the one that takes longer at the machine's peak."""
    report = {"x": {"results": [], "seconds": [0.5]}}
    reports, peaks = {"numpy": [report], "numba": [report]}, {"gflops": 20, "gbytes": 4}
    for flops, limit, share in ((6, "gflops", 0.6), (4, "gbytes", 0.5)):
        found = kernels.measured("x", kernel_cases.Case("x", None, flops * 10**9, 10**9), reports, peaks)
        assert (found["limit"], found["share_of_peak"]) == (limit, share)


def test_unknown_kernels_are_refused():
    done = bench("kernels", "nonsense", "--peer", "none")
    assert done.returncode == 2
    assert "no kernel's name has nonsense in it; there are x @ W + b" in done.stderr
