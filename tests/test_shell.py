import os
import shlex
import sys

import pytest

from npgpt import shell


@pytest.mark.parametrize(
    ("system", "path", "typed"),
    [("linux", "runs/my text", "'runs/my text'"), ("linux", "it's", shlex.quote("it's")), ("linux", "runs/a", "runs/a"),
     ("linux", "-x", "./-x"), ("win32", r"runs\a", r"runs\a"), ("win32", r"C:\my runs\a", r'"C:\my runs\a"')],
)  # fmt: skip
def test_a_path_as_it_is_typed(monkeypatch, system, path, typed):
    monkeypatch.setattr(shell.sys, "platform", system)
    assert shell.quoted(path) == typed
    assert shell.joined(["train", path]) == f"train {typed.removeprefix('./')}"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
def test_a_folder_whose_name_is_no_text(tmp_path):
    """It can be reached by another name, and answers in JSON hold its own."""
    (tmp_path / "run").symlink_to(os.fsdecode(b"a\xff"))
    assert shell.name_of(tmp_path / "run") == "a?"
    assert shell.name_of(tmp_path / "né") == "né"
