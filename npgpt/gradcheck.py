"""python -m npgpt.gradcheck : compare every gradient that is written by hand with central differences.

    from npgpt.gradcheck import gradcheck

is the same check for a function of your own. (``npgpt.gradcheck`` is this module, not the function.) The mathematics is
in checking/central_differences.py, the list of what the command checks in checking/cases.py.
"""

import textwrap
from time import perf_counter
from typing import TYPE_CHECKING

from npgpt.commandline import Parser
from npgpt.errors import ConfigError
from npgpt.process import run

if TYPE_CHECKING:
    from npgpt.checking.central_differences import Comparison as Comparison
    from npgpt.checking.central_differences import Report as Report
    from npgpt.checking.central_differences import gradcheck as gradcheck

WIDTH = 79
SHOWN = 3  # wrong gradients of one case; a mistake in one operation makes nearly all of a GPT's wrong


def __getattr__(name):
    """Import the function when it is first used (PEP 562), so that the command reads its flags before NumPy loads."""
    if name in ("Comparison", "Report", "gradcheck"):
        from npgpt.checking import central_differences

        return getattr(central_differences, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> int:
    parser = Parser("gradcheck", "Compare every gradient that is written by hand with central differences, in float64.")
    parser.add_argument("operations", nargs="*", metavar="OPERATION", help="check only these (default: all)")
    chosen = parser.parse_args().operations

    from npgpt.checking.cases import cases
    from npgpt.checking.central_differences import TOLERANCE
    from npgpt.kernels import BACKEND

    rows = cases()
    known = list(dict.fromkeys(case.operation for case in rows))
    for name in chosen:
        if name not in known:
            raise ConfigError(f"there is no operation {name!r}; there are {', '.join(known)}")
    rows = [case for case in rows if case.operation in chosen or not chosen]
    print(f"{BACKEND} kernels; a gradient with a relative error above {TOLERANCE:.0e} is wrong")
    _print_row("", "operation", "shapes", "error", "time")
    wrong = sum(not _check(case) for case in rows)
    print(f"{wrong} of {len(rows)} are wrong" if wrong else f"all {len(rows)} are right")
    return 1 if wrong else 0


def _print_row(verdict, operation, shapes, error, time):
    print(f"{verdict:5}  {operation:<33} {shapes:<22} {error:>7} {time:>7}", flush=True)


def _check(case) -> bool:
    """Print a case's row, and below it the wrong gradients -> whether all are right"""
    from npgpt.checking.central_differences import gradcheck

    start = perf_counter()
    try:
        report = gradcheck(case.f, list(case.inputs.values()), list(case.inputs))
        ok, error = report.ok, f"{report.error:.1e}"
        notes = [str(comparison) for comparison in report.inputs if not comparison.ok]
        if len(notes) > SHOWN:
            notes[SHOWN:] = [f"and {len(notes) - SHOWN} more"]
    except Exception as mistake:  # of a wrong backward pass; the other rows are still wanted
        ok, error, notes = False, "-", [f"{type(mistake).__name__}: {mistake}"]
    label = f"{case.operation}, {case.option}" if case.option else case.operation
    _print_row("ok" if ok else "WRONG", label, _shapes(case), error, f"{perf_counter() - start:.2f} s")
    for note in notes:
        print(textwrap.fill(note, WIDTH, initial_indent="       ", subsequent_indent="       "))
    return ok


def _shapes(case) -> str:
    shapes = [x.shape for x in case.inputs.values()]
    if len(shapes) > 3:
        return f"{len(shapes)} parameters"
    return ", ".join("x".join(map(str, shape)) or "()" for shape in shapes)


if __name__ == "__main__":
    run(main)
