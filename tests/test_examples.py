"""The examples in docstrings run, and show what they say."""

import doctest
import importlib
from importlib.util import find_spec

import pytest
from conftest import ROOT
from test_architecture import needs_the_web

FILES = [path for path in sorted((ROOT / "npgpt").rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]


def test_there_are_examples():
    assert len(FILES) > 20


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    name = name.removesuffix(".__init__")
    if not find_spec("fastapi") and name != "npgpt" and needs_the_web(name.removeprefix("npgpt.")):
        pytest.skip("the server needs the extra serve")
    module = importlib.import_module(name)
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed
