"""python -m bench.pieces : how exact products of bfloat16 pieces are. The table of docs/three-pieces.md.

In tiles of plain code on any machine; NPGPT_CPU=tiles takes those of a machine that has the unit.
"""

import os
from argparse import ArgumentParser, RawDescriptionHelpFormatter

import numpy as np

ROWS = 128
WORDS = {"one piece": "medium", "two pieces": "high", "three pieces": "highest"}


def errors(K: int, positive: bool = False) -> dict[str, float]:
    """The error of an element of A (128, K) @ B (K, 128) in each way, in units of the terms' size times sqrt(K).

    Root mean square of the distance from float64. The factors are normal numbers, or their absolute values.
    """
    from npgpt import kernels, set_matmul_precision  # which reads NPGPT_CPU

    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((ROWS, K), np.float32), rng.standard_normal((K, ROWS), np.float32)
    if positive:
        a, b = np.abs(a), np.abs(b)
    exact = a.astype(np.float64) @ b

    def error(c):
        return float(np.sqrt(np.mean(np.square(c - exact)) / K))

    found = {}
    try:
        set_matmul_precision("highest", "vectors")
        found["float32"] = error(kernels.matmul(a, b))
        for name, word in WORDS.items():
            set_matmul_precision(word, "tiles")
            found[name] = error(kernels.matmul(a, b))
    finally:
        set_matmul_precision("highest")
    return found


def table() -> str:
    """Of several lengths of the sum, in Markdown."""
    lines = []
    for K, positive in ((64, False), (768, False), (3072, False), (12288, False), (768, True)):
        row = errors(K, positive)
        if not lines:
            lines += [f"| K | {' | '.join(row)} |", f"|---|{'---|' * len(row)}"]
        lines.append(f"| {K}{', all positive' if positive else ''} | {' | '.join(f'{x:.1e}' for x in row.values())} |")
    return "\n".join(lines)


if __name__ == "__main__":
    ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter).parse_args()  # --help alone
    os.environ.setdefault("NPGPT_CPU", "tiles-plain")
    print(table())
