"""What counts as a change of a kernel: its bytecode and that of the kernels it imports, and nothing else."""

import os
import re
import shutil
import time
from pathlib import Path

import pytest
from conftest import ROOT

from npgpt.kernels import stamps

USE_EXP = {"attention", "cached_attention", "cross_entropy", "decode", "exp", "gelu", "normal_cdf", "softmax"}


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of the kernels' folder, whose stamps are taken instead."""
    shutil.copytree(ROOT / "npgpt" / "kernels", tmp_path / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(stamps, "_FOLDER", tmp_path / "kernels")
    yield tmp_path / "kernels"
    stamps._files.cache_clear()


def stamps_of(folder: Path) -> dict[str, str]:
    for cached in (stamps.stamp, stamps._compiled, stamps._files):
        cached.cache_clear()
    return {path.stem: stamps.stamp(path) for path in folder.rglob("*.py")}


def reword(path: Path) -> None:
    """Change what a file says and not what it does: docstrings, comments, blank lines; functions move down."""
    source = path.read_text(encoding="utf-8")
    source = re.sub(r'"""(.*?)"""', r'"""In other words. \1"""', source, flags=re.DOTALL)
    path.write_text("# A comment.\n" + source.replace("\n\n\n", "\n\n\n\n# Another one.\n"), encoding="utf-8")


def change(path: Path, before: str, after: str) -> None:
    source = path.read_text(encoding="utf-8")
    assert source.count(before) == 1
    path.write_text(source.replace(before, after), encoding="utf-8")


def changed(before: dict, after: dict) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def test_other_words_change_no_stamp(copied):
    before = stamps_of(copied)
    for path in copied.rglob("*.py"):
        reword(path)
    assert stamps_of(copied) == before


def test_a_changed_expression_changes_the_stamps_of_all_that_import_it(copied):
    before = stamps_of(copied)
    change(copied / "exp.py", "* r * r + r + _f(1)", "* r * r + _f(1) + r")
    found = changed(before, stamps_of(copied))
    assert found - {"__init__", "table", "signatures", "ahead"} == USE_EXP
    before = stamps_of(copied)
    change(copied / "machine" / "vectors.py", "whole(1)), whole(2))", "whole(1)), whole(4))")
    found = changed(before, stamps_of(copied))
    assert found >= {"vectors", "microkernel", "product", "precision", "matmul", "attention"}
    assert not found & {"layernorm", "softmax", "adamw", "embedding"}


def test_a_file_of_another_package_may_import_its_neighbours(tmp_path):
    path = tmp_path / "other.py"
    path.write_text("from . import x\nfrom .y import z\nfrom npgpt.kernels import exp\n")
    assert stamps._compiled(path)[1] == [ROOT / "npgpt" / "kernels" / "exp.py"]


COUNT = """
import numpy as np
from npgpt.kernels import cache, softmax_forward, sum_rows
compile, compiled = cache.KernelCache._compile, set()
def counted(self, *arguments):
    compiled.add(self._source.stem)
    return compile(self, *arguments)
cache.KernelCache._compile = counted
assert sum_rows(np.ones((3, 2), np.float32)).tolist() == [3, 3]
assert softmax_forward(np.zeros((1, 4), np.float32)).tolist() == [[0.25] * 4]
print(*sorted(compiled))
"""


def test_what_is_compiled_after_a_change(python, tmp_path):
    """Nothing for other words, moved lines and a new time of the file; otherwise what imports the changed file."""
    shutil.copytree(ROOT / "npgpt", tmp_path / "npgpt", ignore=shutil.ignore_patterns("__pycache__", "*.tiktoken"))
    folder = tmp_path / "npgpt" / "kernels"

    def compiled():
        environment = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(tmp_path)}
        done = python(f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n" + COUNT, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    assert compiled() == ["exp", "reductions", "row_max", "softmax"]
    for path in folder.rglob("*.py"):
        reword(path)
        os.utime(path, (time.time() + 9, time.time() + 9))
    assert compiled() == []
    change(folder / "exp.py", "* r * r + r + _f(1)", "* r * r + _f(1) + r")
    assert compiled() == ["exp", "softmax"]
