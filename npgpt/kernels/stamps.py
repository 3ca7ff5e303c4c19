"""Stamps of source files: a compiled kernel is out of date when the stamp of its file has changed.

A stamp covers the bytecode of a file and of the kernels' files that it imports. A comment, a docstring or a line break
is no change.
"""

import hashlib
from functools import cache
from opcode import opmap
from pathlib import Path
from types import CodeType

_PACKAGE = "npgpt.kernels"
_FOLDER = Path(__file__).parent


@cache
def stamp(path: Path) -> str:
    """A digest of the file's bytecode and of that of all files below npgpt/kernels that it imports, at any remove."""
    found, waiting = set(), [path]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += _compiled(file)[1]
    return hashlib.sha256("".join(sorted(_compiled(file)[0] for file in found)).encode()).hexdigest()


@cache
def _compiled(path: Path) -> tuple[str, list[Path]]:
    """A file's bytecode without docstrings and positions, as text, and the kernels' files that it imports."""
    code = compile(path.read_bytes(), path, "exec", dont_inherit=True, optimize=2)
    names = set()
    text = repr(_content(code, names))
    modules = {name for name in names if f"{name}.".startswith(f"{_PACKAGE}.")}
    modules |= {f"{module}.{name}" for module in modules for name in names}  # from npgpt.kernels import gelu
    files = _files()
    return text, [files[module] for module in sorted(modules & files.keys())]


def _content(code: CodeType, names: set[str]) -> tuple:
    """What a code object does, without where it stands; adds the names in it to ``names``, modules' among them."""
    names.update(code.co_names)
    line = code.co_firstlineno if "__firstlineno__" in code.co_names else None  # of a class, since Python 3.13
    constants = [_constant(x, names) for x in code.co_consts if line is None or x != line]
    instructions = code.co_code
    if line is not None and line < 256 and "LOAD_SMALL_INT" in opmap:  # a small line is no constant since Python 3.14
        instructions = instructions.replace(bytes([opmap["LOAD_SMALL_INT"], line]), b"", 1)
    variables = code.co_varnames, code.co_freevars, code.co_cellvars
    arguments = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
    return code.co_name, instructions, code.co_exceptiontable, constants, code.co_names, variables, arguments


def _constant(value, names):
    if isinstance(value, CodeType):
        return _content(value, names)
    return sorted(map(repr, value)) if isinstance(value, frozenset) else value  # a set has another order each time


@cache
def _files() -> dict[str, Path]:
    """{a module's name: its file}, of all below npgpt/kernels. An __init__.py holds no kernel."""
    files = (file for file in _FOLDER.rglob("*.py") if file.stem != "__init__")
    return {".".join((_PACKAGE, *file.relative_to(_FOLDER).with_suffix("").parts)): file for file in files}
