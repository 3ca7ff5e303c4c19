"""Whole test files, in a process that multiplies in tiles of plain code: NPGPT_CPU=tiles-plain."""

from pathlib import Path

from npgpt.kernels.machine.cpu import PLAIN_TILES

HERE = Path(__file__).parent
FILES = "test_precision.py", "test_three_pieces.py", "test_matmul.py"
# Large products, which plain code takes seconds for (test_three_pieces.py has small ones); processes of its own.
WITHOUT = "highest_is_as_exact or without_bfloat16"


def test_in_plain_tiles(python):
    options = [*(str(HERE / name) for name in FILES), "-q", "-k", f"not ({WITHOUT})", "-p", "no:cacheprovider"]
    done = python(f"import pytest; raise SystemExit(pytest.main({options!r}))", NPGPT_CPU=PLAIN_TILES)
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout, done.stdout
