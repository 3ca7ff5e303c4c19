"""Which way is taken, of times that are given: nothing is measured here."""

import numpy as np
import pytest

from npgpt.kernels import fastest

WAYS = {"vectors": np.float32(0), "pairs": np.uint16(0), "tiles": np.int8(0)}


@pytest.fixture
def seconds(monkeypatch, tmp_path):
    """Times that are found, the next time that they are measured; ``folder`` is where the choice is kept."""
    found = []
    monkeypatch.setattr(fastest, "_measure", lambda ways: dict(zip(ways, found.pop(0), strict=True)))
    monkeypatch.setattr(fastest.product.multiply._cache, "cache_path", str(tmp_path))
    return found


@pytest.mark.parametrize(
    ("times", "way"),
    [
        ((3, 2, 1), "tiles"),
        ((3, 1, 2), "pairs"),
        ((1, 3, 2), "vectors"),
        ((10, 9.5, 9.1), "vectors"),  # nothing saves a tenth
        ((10, 8, 7.5), "pairs"),  # as much as tiles, and the first of them
        ((1.45, 2.1, 1), "tiles"),
    ],
)
def test_the_fastest_of_those_that_save_a_tenth(seconds, times, way):
    seconds.append(times)
    assert fastest.fastest_way(WAYS) == way


def test_what_was_chosen_is_kept(seconds):
    seconds += [(3, 2, 1)]
    assert [fastest.fastest_way(WAYS) for _ in range(3)] == ["tiles"] * 3


def test_each_set_of_ways_has_its_own_choice(seconds):
    seconds += [(3, 1, 2), (1, 2)]
    two = {way: WAYS[way] for way in ("vectors", "tiles")}
    assert [fastest.fastest_way(ways) for ways in (WAYS, two, WAYS, two)] == ["pairs", "vectors"] * 2


@pytest.mark.parametrize("other", ["identity", "stamp"])
def test_another_cpu_and_other_kernels_are_measured_anew(seconds, monkeypatch, other):
    seconds += [(3, 2, 1), (1, 2, 3)]
    assert fastest.fastest_way(WAYS) == "tiles"
    monkeypatch.setattr(fastest, other, lambda *arguments: "another")
    assert fastest.fastest_way(WAYS) == "vectors"


@pytest.mark.parametrize("content", [b"", b"[]", b'{"way": 3}', b'{"way": "wheels"}', b'{"way": ["tiles"]}', b"\xff"])
def test_a_damaged_file_is_measured_anew_and_replaced(seconds, tmp_path, content):
    seconds += [(3, 2, 1), (1, 2, 3)]
    fastest.fastest_way(WAYS)
    (file,) = tmp_path.iterdir()
    file.write_bytes(content)
    assert [fastest.fastest_way(WAYS) for _ in range(2)] == ["vectors"] * 2
    assert list(tmp_path.iterdir()) == [file]


def test_without_a_folder_nothing_is_kept(seconds, monkeypatch, tmp_path):
    for folder in (None, str(tmp_path / "missing")):
        monkeypatch.setattr(fastest.product.multiply._cache, "cache_path", folder)
        seconds += [(3, 2, 1), (1, 2, 3)]
        assert [fastest.fastest_way(WAYS) for _ in range(2)] == ["tiles", "vectors"]


def test_measuring_multiplies_filled_matrices_in_each_way(monkeypatch):
    calls = []
    monkeypatch.setattr(fastest.product, "multiply", lambda a, b, c, tag: calls.append((tag, a.all() and b.all())))
    times = fastest._measure(WAYS)
    assert [tag.dtype for tag, _ in calls] == [tag.dtype for tag in WAYS.values()] * (1 + fastest._TIMES)
    assert all(filled for _, filled in calls)
    assert list(times) == list(WAYS)
    assert all(0 < time < float("inf") for time in times.values())


@pytest.mark.parametrize(("seconds", "threads"), [(0.5, 1), (0.5, 8)])
def test_numpys_library_counts_for_all_the_cores_that_it_takes(monkeypatch, seconds, threads):
    clock = iter(np.arange(4 * fastest._TIMES) * seconds)
    monkeypatch.setattr(fastest, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(fastest.product, "multiply", lambda *arguments: None)
    monkeypatch.setattr(fastest.numba, "get_num_threads", lambda: threads)
    times = fastest._measure({"vectors": np.float32(0), "blas": np.float32(0)})
    assert times == {"vectors": seconds, "blas": seconds * threads}
