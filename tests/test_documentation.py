"""The documentation is true: README's code, the commands it names, the types of public functions."""

import argparse
import ast
import importlib
import re
import shlex

import pytest
from conftest import ROOT, TEXT
from helpers.commands import QUICK, command
from test_architecture import modules

README = (ROOT / "README.md").read_text(encoding="utf-8")
# {heading: the code blocks below it}: a block of Python, then a block of its output, if that is shown.
PARTS = {part.split("\n")[0]: part for part in re.split(r"(?m)^## ", README) if "```python" in part}
CODE = {heading: re.findall(r"```(\w*)\n(.*?)```", part, re.DOTALL) for heading, part in PARTS.items()}
COMMANDS = sorted(set(re.findall(r"python -m npgpt\.(\w+)([^\n`|&]*)", README)))


def test_readme_has_code_and_commands():
    assert {"As a library", "Check a gradient of your own"} <= set(CODE)
    commands = {
        "train",
        "prepare",
        "sample",
        "chat",
        "serve",
        "convert",
        "evaluate",
        "info",
        "report",
        "explain",
        "exercises",
        "gradcheck",
    }
    assert commands == {name for name, _ in COMMANDS}


@pytest.mark.parametrize("heading", CODE)
def test_code_in_the_readme_runs_and_prints_what_is_shown(heading, tmp_path, monkeypatch, capsys):
    """Code that loads runs/the-verdict gets a tiny run of that name."""
    (language, code), *shown = CODE[heading]
    assert language == "python"
    monkeypatch.chdir(tmp_path)
    if '"runs/the-verdict"' in code:
        (tmp_path / "text.txt").write_text(TEXT)
        assert command("train", "text.txt", *QUICK, "--out", "runs/the-verdict", cwd=tmp_path).code == 0
    exec(code, {})
    printed = capsys.readouterr().out
    assert [printed] == [text for _, text in shown] or not shown


@pytest.mark.parametrize(("name", "arguments"), COMMANDS)
def test_commands_in_the_readme_have_flags_that_exist(name, arguments, monkeypatch):
    class Parsed(Exception):
        pass

    parse = argparse.ArgumentParser.parse_args

    def parse_only(self, *given):
        raise Parsed(parse(self, *given))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    monkeypatch.setattr("sys.argv", [name, *shlex.split(arguments)])
    with pytest.raises(Parsed):
        importlib.import_module(f"npgpt.{name}").main()


# Their functions take what llvmlite's builder makes, for which llvmlite has no types.
UNTYPED = {"kernels.machine.vectors", "kernels.machine.tiles", "kernels.machine.tile_panels"}


def public_functions(body, place=""):
    """Functions and methods without a leading underscore, except those that Numba compiles."""
    for node in body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name.startswith("_"):
            continue
        if isinstance(node, ast.ClassDef):
            yield from public_functions(node.body, f"{node.name}.")
        elif not any(re.search("jit|overload|intrinsic", ast.unparse(d)) for d in node.decorator_list):
            yield place + node.name, node


@pytest.mark.parametrize("module", [module for module in modules() if module not in UNTYPED])
def test_public_functions_have_types(module):
    missing = []
    for name, node in public_functions(ast.parse(modules()[module].read_text(encoding="utf-8")).body):
        a = node.args
        arguments = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
        bound = "." in name and "staticmethod" not in map(ast.unparse, node.decorator_list)
        untyped = [argument.arg for argument in arguments[bound:] if not argument.annotation]
        missing += [f"{name}: {x}" for x in (*untyped, *([] if node.returns else ["the return value"]))]
    assert not missing, f"npgpt.{module} lacks types: {', '.join(missing)}"
