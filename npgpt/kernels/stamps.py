"""Stamps of source files: a compiled kernel is out of date when the stamp of its file has changed.

A stamp covers what a file and the kernels' files that it imports do; a comment, docstring or line break is no change.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

_PACKAGE = "npgpt.kernels"
_FOLDER = Path(__file__).parent


@cache
def stamp(path: Path) -> str:
    """A digest of the file's syntax and of that of all files below npgpt/kernels that it imports, at any remove."""
    found, waiting = set(), [path]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += _parsed(file)[1]
    return hashlib.sha256("".join(sorted(_parsed(file)[0] for file in found)).encode()).hexdigest()


@cache
def _parsed(path: Path) -> tuple[str, list[Path]]:
    """A file's syntax without docstrings and positions, as text, and the kernels' files that it imports."""
    tree = ast.parse(path.read_bytes())
    imports = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node, clean=False):
            del node.body[0]
        if isinstance(node, ast.Import):
            imports += [name.name for name in node.names]
        if isinstance(node, ast.ImportFrom) and not node.level:  # a relative one is in another package
            imports += [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
    parts = [name.removeprefix(_PACKAGE + ".").split(".") for name in imports if name.startswith(_PACKAGE + ".")]
    files = [_FOLDER.joinpath(*part).with_suffix(".py") for part in parts]
    return ast.dump(tree), [file for file in files if file.exists()]
