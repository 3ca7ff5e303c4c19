"""Compiling and its cache: said once, remembered, and never the reason why something doesn't work."""

import contextlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
from conftest import ROOT
from numba.core.caching import IndexDataCacheFile

from npgpt import kernels
from npgpt.kernels import reductions as sums
from npgpt.kernels.jit import noting

LINE = "npgpt: compiling kernels"
ADD_UP = """
import numpy as np
from npgpt.kernels import sum_rows
assert sum_rows(np.ones((3, 2), np.float32)).tolist() == [3.0, 3.0]
"""


def lines(done):
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == done.stderr.count(LINE), f"something else on stderr: {done.stderr}"
    return done.stderr.count(LINE)


def test_compiling_is_announced_once_and_then_cached(python, tmp_path):
    twice = ADD_UP + ADD_UP.replace("float32", "float64")
    assert lines(python(twice, NUMBA_CACHE_DIR=str(tmp_path))) == 1
    assert lines(python(twice, NUMBA_CACHE_DIR=str(tmp_path))) == 0


@pytest.fixture(scope="module")
def filled_cache(python, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    assert lines(python(ADD_UP, NUMBA_CACHE_DIR=str(folder))) == 1
    return folder


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[: len(content) // 2], bytes.swapcase])
@pytest.mark.parametrize("pattern", ["*.nbi", "*.nbc"])
def test_a_damaged_cache_is_compiled_anew(python, filled_cache, tmp_path, pattern, damage):
    """Index files (.nbi) and code files (.nbc) that are empty, cut off, or something else."""
    cache = tmp_path / "cache"
    shutil.copytree(filled_cache, cache)
    damaged = list(cache.rglob(pattern))
    assert damaged
    for path in damaged:
        path.write_bytes(damage(path.read_bytes()))
    assert lines(python(ADD_UP, NUMBA_CACHE_DIR=str(cache))) == 1


def test_a_cache_folder_that_cannot_be(python, tmp_path):
    """Then it is kept beside the source after all."""
    (tmp_path / "file").write_text("")
    assert lines(python(ADD_UP, NUMBA_CACHE_DIR=str(tmp_path / "file" / "cache"))) <= 1


def test_no_place_for_a_cache_at_all(python, tmp_path):
    """Neither beside the source nor in the user's cache folder: a file is in the way of each."""
    shutil.copytree(ROOT / "npgpt", tmp_path / "npgpt", ignore=shutil.ignore_patterns("__pycache__", "*.tiktoken"))
    for folder in (tmp_path / "npgpt" / "kernels", tmp_path / "npgpt" / "kernels" / "machine", tmp_path):
        (folder / "__pycache__").write_text("")
    nowhere = str(tmp_path / "__pycache__" / "cache")
    there = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
    assert lines(python(there + ADD_UP, NUMBA_CACHE_DIR=None, XDG_CACHE_HOME=nowhere, HOME=nowhere)) == 1


def test_a_disk_that_is_full(python, tmp_path):
    """Whatever goes wrong when compiled code is saved, by whatever process, computing goes on."""
    (tmp_path / "sitecustomize.py").write_text("""
from numba.core import caching
def no_space(self, *arguments):
    raise OSError(28, "No space left on device")
caching.IndexDataCacheFile.save = no_space
""")
    assert lines(python(ADD_UP, NUMBA_CACHE_DIR=str(tmp_path / "cache"), PYTHONPATH=str(tmp_path))) == 1
    assert not list(tmp_path.rglob("*.nbc"))


def test_every_compiled_function_is_cached_and_keeps_nan_and_infinity():
    """The options are given in one place, jit.py; here they are read off the functions themselves."""
    values = [
        getattr(value, "dispatcher", value)  # of what runs in parallel, which is wrapped
        for module in vars(kernels).values()
        if getattr(module, "__name__", "").startswith("npgpt.kernels.")
        for value in vars(module).values()
    ]
    compiled = {v for v in values if hasattr(v, "py_func") and v.py_func.__module__.startswith("npgpt.kernels.")}
    assert len(compiled) > 15
    for function in compiled:
        assert not {"nnan", "ninf", "fast"} & set(function.targetoptions["fastmath"]), function
        assert function.targetoptions["error_model"] == "numpy", function
        assert type(function._cache).__name__ == "_SharedCache", function


# What is noted


def ones():
    return np.ones((3, 2), np.float32)


def test_what_is_noted_does_not_run():
    with noting() as notes, noting() as inner:
        assert sums.sum_rows_numba(ones()).tolist() == [0, 0]
        in_another_thread = ThreadPoolExecutor(1).submit(sums.sum_rows_numba, ones()).result()
    assert sums.sum_rows_numba(ones()).tolist() == in_another_thread.tolist() == [3, 3]
    assert notes == {}
    ((kernel, types),) = inner
    assert kernel is sums._sum_rows.dispatcher
    assert types == (numba.float32[:, ::1], numba.float32[::1])
    assert types in kernel.signatures  # now that it has run


def test_noting_ends_with_an_exception():
    with pytest.raises(ZeroDivisionError), noting():
        raise ZeroDivisionError
    assert sums.sum_rows_numba(ones()).tolist() == [3, 3]


@pytest.mark.skipif(os.name != "posix", reason="no locks on folders")
def test_processes_read_together_and_write_alone(monkeypatch):
    """Another open of the folder stands for another process."""
    import fcntl

    file = sums._sum_rows.dispatcher._cache._cache_file

    def others_may(*of):
        folder = os.open(file._cache_path, os.O_RDONLY)
        may = []
        for lock in (fcntl.LOCK_SH, fcntl.LOCK_EX):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(folder, lock | fcntl.LOCK_NB)
                may.append("read" if lock == fcntl.LOCK_SH else "write")
            fcntl.flock(folder, fcntl.LOCK_UN)
        os.close(folder)
        seen.append(may)

    seen = []
    monkeypatch.setattr(IndexDataCacheFile, "load", others_may)
    monkeypatch.setattr(IndexDataCacheFile, "save", others_may)
    file.load(None)
    file.save(None, None)
    others_may()
    assert seen == [["read"], [], ["read", "write"]]
