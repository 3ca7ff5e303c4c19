"""python -m npgpt.explain : the page it writes, and the mistakes that it names."""

import io
import os
import sys

import numpy as np
import pytest
from helpers.commands import command, refused

from npgpt.checkpoints import make_model, open_checkpoint, save
from npgpt.explain import PROMPT, SHIPPED, main


def test_a_page_of_the_shipped_model(tmp_path):
    ended = command("explain", "--prompt", "the beam was false.", cwd=tmp_path)
    assert ended.code == 0, ended
    assert ended.out.startswith("explain.html: open it in a browser (")
    page = (tmp_path / "explain.html").read_bytes()
    assert page.startswith(b"<!DOCTYPE html>")
    assert 1e6 < len(page) < 5e6
    assert [path.name for path in tmp_path.iterdir()] == ["explain.html"]
    again = command("explain", "--prompt", "the beam was false.", "--out", "again.html", cwd=tmp_path)
    assert again.code == 0
    assert (tmp_path / "again.html").read_bytes() == page


def test_a_terminal_sees_how_many_slopes_there_are(tmp_path, monkeypatch):
    """While they are computed; a bar that stayed would end below 100 %."""
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "argv", ["explain", "--prompt", "the beam.", "--out", str(tmp_path / "a.html")])
    assert main() == 0
    *_, bar, last = terminal.getvalue().split("\r")
    assert (bar.strip(), last) == ("", "")
    assert "slopes: 0" in terminal.getvalue()


def test_mistakes(tmp_path):
    def mistake(*arguments, words):
        refused("explain", *arguments, cwd=tmp_path, words=words)

    mistake("--prompt", "", words=["the prompt is empty"])
    mistake("--prompt", "beam " * 200, words=["tokens, and at most 64 can be shown"])
    mistake("--prompt", ".", words=["one token"])
    mistake("--model", "nothing/here", words=["nothing/here"])
    mistake("--out", ".", words=["is a folder"])
    mistake("--out", "nowhere/page.html", words=["nowhere", "not a folder that you may write to"])


def test_weights_that_give_infinity(tmp_path):
    """Each of them is finite, so they load; the loss is not."""
    shipped = open_checkpoint(SHIPPED)
    model = make_model(shipped)
    model.wte.weight.data *= np.float32(1e36)
    model.ln_f.weight.data *= np.float32(1e5)
    save(model, tmp_path / "large.safetensors", tokenizer=shipped.tokenizer)
    words = ["large.safetensors: NaN or infinity comes out"]
    refused("explain", "--model", "large.safetensors", "--prompt", "the beam.", cwd=tmp_path, words=words)


def test_without_docstrings_there_is_nothing_to_show(python):
    done = python(
        "import subprocess, sys\n"
        "print(subprocess.run([sys.executable, '-OO', '-m', 'npgpt.explain'], capture_output=True, text=True).stderr)"
    )
    assert "start it without -OO" in done.stdout


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to(tmp_path):
    tmp_path.chmod(0o500)
    refused("explain", cwd=tmp_path, words=["may write to"])


def test_help_names_the_prompt(tmp_path):
    ended = command("explain", "--help", cwd=tmp_path)
    assert ended.code == 0
    assert PROMPT.split(" was")[0] in " ".join(ended.out.split())
