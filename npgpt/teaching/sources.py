"""Sources: what an operation is, in its author's words: docstring, formulas, and the lines of the code themselves."""

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from npgpt.kernels.table import KERNELS
from npgpt.teaching.formulas import formulas
from npgpt.teaching.trace import Operation

_ROOT = Path(__file__).parents[2]


def describe(operation: Operation) -> dict[str, Any]:
    """The operation's function, its backward function and its kernels, as JSON.

    {"name", "docstring", "formulas", "forward": source, "backward": source or None, "kernels": [source with
    "docstring", that of its file, ...]}. A source is {"name", "file", "line", "text"}. A backward function that stands
    inside of the forward one is given too; its lines are among forward's.

    The kernels are those whose names are in the function's code, in their NumPy version, which defines the result.
    """
    code = operation.code
    docstring = _docstring(code)
    back = getattr(operation.backward, "__code__", None)
    kernels = dict.fromkeys(name for c in _nested(code) for name in c.co_names if name in KERNELS)
    return {
        "name": operation.name,
        "docstring": docstring,
        "formulas": formulas(docstring),
        "forward": _source(code),
        "backward": _source(back) if back is not None else None,
        "kernels": [_kernel(name) for name in kernels],
    }


def _kernel(name):
    function = KERNELS[name]["numpy"]
    file_docstring = inspect.getdoc(sys.modules[function.__module__]) or ""
    return {**_source(function.__code__), "docstring": file_docstring}


def _source(code: CodeType) -> dict[str, Any]:
    try:
        text = inspect.cleandoc("\n" + inspect.getsource(code))
    except (OSError, TypeError):  # typed at a prompt
        text = ""
    path = Path(code.co_filename)
    file = path.relative_to(_ROOT).as_posix() if path.is_relative_to(_ROOT) else path.name
    return {"name": code.co_qualname, "file": file, "line": code.co_firstlineno, "text": text}


def _docstring(code: CodeType) -> str:
    """A function's docstring is the first of its constants, if it is one."""
    with_docstring = FunctionType(code, {}) if not code.co_freevars else None
    return inspect.cleandoc(with_docstring.__doc__ or "") if with_docstring else ""


def _nested(code: CodeType) -> Iterator[CodeType]:
    """A function's code and that of the functions inside of it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)
