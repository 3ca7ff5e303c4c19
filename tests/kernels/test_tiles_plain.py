"""Whole test files, in a process that multiplies in tiles of plain code: NPGPT_CPU=tiles-plain."""

from pathlib import Path

from npgpt.kernels.machine.cpu import PLAIN_TILES

HERE = Path(__file__).parent
FILES = "test_precision.py", "test_three_pieces.py", "test_matmul.py"
WITHOUT = [
    "highest_is_as_exact",  # large products, which plain code takes seconds for; test_three_pieces.py has small ones
    "without_bfloat16",  # a process of its own
    # All that follows would be compiled or computed once more, and makes no other product in tiles.
    *("numpy", "blocked", "float64", "are_the_number", "what_pieces_leave", "a_models_loss"),
]


def test_in_plain_tiles(python):
    files, only = [str(HERE / name) for name in FILES], f"not ({' or '.join(WITHOUT)})"
    code = f"import pytest; raise SystemExit(pytest.main([*{files}, '-q', '-k', {only!r}, '-p', 'no:cacheprovider']))"
    done = python(code, NPGPT_CPU=PLAIN_TILES, HYPOTHESIS_PROFILE="few")
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout, done.stdout
