"""Do the tests notice when the code is wrong? Changes it in one place at a time, in a copy, and runs them.

    python tests/mutants.py                 all changes, two at a time: some 25 minutes on two idle cores
    python tests/mutants.py gelu optim      those with one of these words in their place or description
    python tests/mutants.py --list          only print them
    python tests/mutants.py --check         only print those that no longer fit the code; exit code 1 if there are any

A change names a function and an expression or statement in it, which is found in the syntax tree: moving the function,
formatting and comments make no difference. Its own tests are those of the function's file, and of TESTS. If they don't
catch it, all tests are run. What only these catch is printed as MISSED: TESTS lacks a file. What no test catches is
printed as SURVIVED: a test is missing. The exit code is 1 then.

The tests run in the unchanged code first, for some minutes, which compiles its kernels for all. Then a change takes
about five seconds, up to the test that catches it; one in a kernel takes longer, for it is compiled.
"""

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import accumulate
from pathlib import Path
from queue import Queue
from time import monotonic

from mutant_table import MUTANTS, TESTS, Mutant

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 600  # seconds for a change's tests, some minutes for all of them; one that makes a loop endless is caught too


@cache
def definitions() -> dict[str, list[tuple[Path, ast.AST]]]:
    """Functions, classes and modules' assigned names, by each end of their full names: "gelu", "gelu.gelu", ..."""
    found = defaultdict(list)
    for path in sorted((ROOT / "npgpt").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        pending = [(module, node) for node in ast.parse(path.read_text(encoding="utf-8")).body]
        while pending:
            scope, node = pending.pop()
            names = []
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names = [node.name]
                if isinstance(node, ast.ClassDef):
                    pending += [(f"{scope}.{node.name}", child) for child in node.body]
            elif isinstance(node, ast.Assign) and scope == module:
                names = [x.id for target in node.targets for x in ast.walk(target) if isinstance(x, ast.Name)]
            for parts in (f"{scope}.{name}".split(".") for name in names):
                for i in range(len(parts)):
                    found[".".join(parts[i:])].append((path, node))
    return found


def find(mutant: Mutant) -> tuple[Path, list[ast.AST]]:
    """The file, and what to change in it: [an expression], [a keyword argument] or statements one after the other.

    Raises LookupError unless it is there exactly once.
    """
    named = definitions().get(mutant.where, [])
    if len(named) != 1:
        files = " and ".join(str(path.relative_to(ROOT)) for path, _ in named)
        raise LookupError(f"defined in {files}: add the module's name" if files else f"not defined{elsewhere(mutant)}")
    path, definition = named[0]
    found = occurrences(mutant, definition)
    if len(found) != 1:
        raise LookupError(f"{mutant.old!r} is there {len(found)} times" + ("" if found else elsewhere(mutant)))
    return path, found[0]


def elsewhere(mutant: Mutant) -> str:
    """Names the functions that hold what is to be changed: it may have moved."""
    full = {name: named[0][1] for name, named in definitions().items() if name.startswith("npgpt.")}
    found = [n for n, node in full.items() if isinstance(node, ast.FunctionDef) and occurrences(mutant, node)]
    return f"; {mutant.old!r} is in {', '.join(found[:4])}" if found else ""


def occurrences(mutant: Mutant, definition: ast.AST) -> list[list[ast.AST]]:
    wanted = ast.parse(mutant.old).body
    if isinstance(wanted[0], ast.Expr) and is_expression(mutant.new):
        return [[node] for node in ast.walk(definition) if same([node], [wanted[0].value])]
    found = []
    for node in ast.walk(definition):
        if isinstance(node, ast.keyword) and node.arg and same(ast.parse(ast.unparse(node)).body, wanted):
            found.append([node])
        for body in (getattr(node, name, None) for name in ("body", "orelse", "finalbody")):
            if isinstance(body, list):
                parts = [body[i : i + len(wanted)] for i in range(len(body))]
                found += [part for part in parts if same(part, wanted)]
    return found


def same(nodes: list[ast.AST], others: list[ast.AST]) -> bool:
    """Whether they are written alike, wherever they stand."""
    return list(map(type, nodes)) == list(map(type, others)) and [*map(ast.dump, nodes)] == [*map(ast.dump, others)]


def is_expression(text: str) -> bool:
    body = ast.parse(text).body
    return len(body) == 1 and isinstance(body[0], ast.Expr)


def changed(mutant: Mutant) -> tuple[Path, str]:
    """The file, and its text with the change. Raises LookupError as ``find`` does."""
    path, nodes = find(mutant)
    data = path.read_bytes()
    first, last = nodes[0], nodes[-1]
    ends = [0, *accumulate(map(len, data.splitlines(keepends=True)))]  # of lines, in bytes, as columns are
    begin, end = ends[first.lineno - 1] + first.col_offset, ends[last.end_lineno - 1] + last.end_col_offset
    new = f"({mutant.new})" if isinstance(first, ast.expr) else mutant.new.replace("\n", "\n" + " " * first.col_offset)
    text = (data[:begin] + new.encode() + data[end:]).decode()
    if ast.dump(ast.parse(text)) == ast.dump(ast.parse(data)):
        raise LookupError("nothing is changed")
    return path, text


def tests_of(mutant: Mutant) -> list[str]:
    """The test files that should catch it: those it names, or those that mirror its file."""
    if mutant.tests:
        return [f"tests/{name}" for name in mutant.tests.split()]
    path = find(mutant)[0].relative_to(ROOT / "npgpt")
    mirrored = path.parent / f"test_{path.stem}.py"
    others = [name for place, names in TESTS.items() if path.as_posix().startswith(place) for name in names.split()]
    names = [mirrored.as_posix(), *others, f"ops/{mirrored.name}" if path.parts[0] == "kernels" else ""]
    return [f"tests/{name}" for name in dict.fromkeys(names) if name and (ROOT / "tests" / name).is_file()]


def misfits() -> list[str]:
    """What in the table doesn't fit the code, each with the reason."""
    named = {name for names in [*TESTS.values(), *(m.tests for m in MUTANTS)] for name in names.split()}
    found = [f"there is no tests/{name}" for name in sorted(named) if not (ROOT / "tests" / name).is_file()]
    found += [f"TESTS: there is no npgpt/{place}" for place in TESTS if not (ROOT / "npgpt" / place).exists()]
    for mutant in MUTANTS:
        try:
            changed(mutant)
            reason = "" if tests_of(mutant) else "no tests mirror its file: name them"
        except (LookupError, SyntaxError) as error:
            reason = str(error)
        if reason:
            found.append(f"{mutant.where} ({mutant.what}): {reason}")
    return found


class Checkout:
    """A copy of the tree to change and to test in, with what is compiled beside its sources."""

    def __init__(self, folder: Path, original: Path = ROOT):
        self.folder, self.original = folder, original
        away = shutil.ignore_patterns(
            ".git", "runs", ".venv", ".hypothesis", ".*_cache", "*.egg-info", "*-pytest-*.pyc"
        )
        shutil.copytree(original, folder, ignore=away)

    def failure(self, tests: list[str]) -> str | None:
        """The first test that fails, or None."""
        environment = {**os.environ, "PYTHONPATH": str(self.folder)}
        environment.pop("NUMBA_CACHE_DIR", None)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests],
                cwd=self.folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=LONGEST,
            )
        except subprocess.TimeoutExpired:
            return f"no end after {LONGEST} s"
        if done.returncode <= 0:
            return f"a crash, signal {-done.returncode}" if done.returncode else None
        found = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
        return found.group(1) if found else (done.stdout + done.stderr).strip().splitlines()[-1]

    def try_out(self, mutant: Mutant) -> tuple[str, str]:
        """-> caught, MISSED or SURVIVED, and the test that caught it. A kernel's change recompiles what it concerns."""
        path, text = changed(mutant)
        (self.folder / path.relative_to(ROOT)).write_text(text, encoding="utf-8")
        try:
            if test := self.failure(tests_of(mutant)):
                return "caught", test
            test = self.failure([])
            return ("MISSED", test) if test else ("SURVIVED", "")
        finally:  # the source, and the kernels that were compiled from it
            shutil.copytree(self.original / "npgpt", self.folder / "npgpt", dirs_exist_ok=True)


def main():
    parser = argparse.ArgumentParser(description="Change the code in one place at a time and see whether a test fails.")
    parser.add_argument("words", nargs="*", help="only changes with one of these in their place or description")
    parser.add_argument("--list", action="store_true", help="print the changes and end")
    parser.add_argument("--check", action="store_true", help="print the changes that don't fit the code and end")
    parser.add_argument("--jobs", type=int, default=2, help="changes tried at a time (default: 2)")
    arguments = parser.parse_args()
    if wrong := misfits():
        print("\n".join(wrong) + f"\n{len(wrong)} misfits: adapt tests/mutant_table.py to the code")
        return 1
    if arguments.check:
        print(f"all {len(MUTANTS)} changes fit the code")
        return 0
    chosen = [
        m
        for m in MUTANTS
        if any(w in f"{find(m)[0].relative_to(ROOT)} {m.where} {m.what}" for w in arguments.words or [""])
    ]
    if arguments.list or not chosen:
        print("\n".join(f"{m.where:<36} {m.what}" for m in chosen) + f"\n{len(chosen)} changes")
        return 0

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.jobs) as pool:
        unchanged = Checkout(Path(folder) / "unchanged")
        if failure := unchanged.failure(sorted({path for m in chosen for path in tests_of(m)})):
            sys.exit(f"{failure} fails in the unchanged code")
        checkouts = Queue()
        for i in range(arguments.jobs):  # their kernels are compiled by now
            checkouts.put(Checkout(Path(folder) / str(i), unchanged.folder))

        def try_out(mutant):
            checkout, began = checkouts.get(), monotonic()
            try:
                outcome, test = checkout.try_out(mutant)
            finally:
                checkouts.put(checkout)
            print(
                f"{outcome:<8} {monotonic() - began:>5.0f} s  {mutant.where}: {mutant.what}\n{'':18}{test}", flush=True
            )
            return outcome == "caught"

        caught = sum(pool.map(try_out, chosen))
    print(f"{caught} of {len(chosen)} changes caught by their own tests")
    return 0 if caught == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
