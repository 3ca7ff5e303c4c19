"""Do the tests notice when the code is wrong? Changes it in one place at a time, in a copy, and runs them.

    python tests/mutants.py                 all changes, two at a time: an hour
    python tests/mutants.py gelu optim      those with one of these words in their place or description
    python tests/mutants.py --list          only say what they are

Each change comes with the tests that should catch it. If they don't, all tests are run. What no test catches is printed
as SURVIVED, and the exit code is 1: then a test is missing.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from time import monotonic

from mutant_table import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 1200  # seconds for a change's tests; one that makes a loop endless is caught too


class Checkout:
    """A copy of the working tree to change and to test in."""

    def __init__(self, folder: Path):
        self.folder = folder
        away = shutil.ignore_patterns(
            ".git", "__pycache__", "runs", ".venv", ".hypothesis", ".pytest_cache", "*.egg-info"
        )
        shutil.copytree(ROOT, folder / "checkout", ignore=away)

    def write(self, mutant: Mutant, text: str):
        (self.folder / "checkout" / "npgpt" / mutant.path).write_text(text, encoding="utf-8")

    def failure(self, tests: list[str], cache: str) -> str | None:
        """The first test that fails, or None."""
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        ours = {"PYTHONPATH": str(self.folder / "checkout"), "NUMBA_CACHE_DIR": str(self.folder / cache)}
        try:
            done = subprocess.run(
                command,
                cwd=self.folder / "checkout",
                env={**os.environ, **ours},
                capture_output=True,
                text=True,
                timeout=LONGEST,
            )
        except subprocess.TimeoutExpired:
            return f"no end after {LONGEST} s"
        if done.returncode == 0:
            return None
        found = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
        return found.group(1) if found else (done.stdout + done.stderr).strip().splitlines()[-1]

    def try_out(self, mutant: Mutant) -> str | None:
        """The test that catches it, or None."""
        original = source(mutant)
        # Kernels are compiled anew when one of them changes; what the unchanged ones compiled to is for the others.
        cache = "changed" if mutant.path.startswith("kernels/") else "unchanged"
        self.write(mutant, changed(mutant))
        try:
            return self.failure(paths(mutant), cache) or self.failure([], cache)
        finally:
            self.write(mutant, original)
            shutil.rmtree(self.folder / "changed", ignore_errors=True)


def source(mutant: Mutant) -> str:
    return (ROOT / "npgpt" / mutant.path).read_text(encoding="utf-8")


def changed(mutant: Mutant) -> str:
    return source(mutant).replace(mutant.old, mutant.new)


def paths(mutant: Mutant) -> list[str]:
    return [f"tests/{path}" for path in mutant.tests.split()]


def main():
    parser = argparse.ArgumentParser(description="Change the code in one place at a time and see whether a test fails.")
    parser.add_argument("words", nargs="*", help="only changes with one of these in their path or description")
    parser.add_argument("--list", action="store_true", help="print the changes and end")
    parser.add_argument("--jobs", type=int, default=2, help="changes tried at a time (default: 2)")
    arguments = parser.parse_args()
    chosen = [m for m in MUTANTS if any(w in f"{m.path} {m.what}" for w in arguments.words or [""])]
    for mutant in MUTANTS:
        if source(mutant).count(mutant.old) != 1:
            sys.exit(f"{mutant.path}: {mutant.old!r} is not there exactly once: adapt the change to the code")
        compile(changed(mutant), mutant.path, "exec")  # what can't be read is caught by anything
    if arguments.list or not chosen:
        print("\n".join(f"{m.path:<30} {m.what}" for m in chosen) + f"\n{len(chosen)} changes")
        return 0

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.jobs) as pool:
        checkouts = Queue()
        for i in range(arguments.jobs):
            checkouts.put(Checkout(Path(folder) / str(i)))
        checkout = checkouts.get()
        failure = checkout.failure(sorted({path for m in chosen for path in paths(m)}), "unchanged")
        checkouts.put(checkout)
        if failure:
            sys.exit(f"{failure} fails in the unchanged code")

        def try_out(mutant):
            checkout, began = checkouts.get(), monotonic()
            try:
                caught_by = checkout.try_out(mutant)
            finally:
                checkouts.put(checkout)
            outcome = "caught" if caught_by else "SURVIVED"
            print(f"{outcome:<8} {monotonic() - began:>5.0f} s  {mutant.path}: {mutant.what}")
            print(f"{'':18}{caught_by or ''}", flush=True)
            return bool(caught_by)

        caught = sum(pool.map(try_out, chosen))
    print(f"{caught} of {len(chosen)} changes caught")
    return 0 if caught == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
