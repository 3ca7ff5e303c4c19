"""Make the stored reference values anew: python tests/reference/make.py

It needs torch and transformers (``pip install -e '.[reference]'``). The same versions make the same files again, byte
for byte; others, or another processor, may round in another way. What is in the files is said in make_ops.py and
make_model.py.
"""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]  # tests/ and the repository

from reference import make_model, make_ops  # noqa: E402 - they are found through the line above

if __name__ == "__main__":
    for make in (make_ops, make_model):
        path = make.write()
        print(f"{path}: {path.stat().st_size:,} bytes")
