"""--help says how products were made when a run last began, and does without it where nothing was kept."""

import pytest
from conftest import TEXT
from helpers.commands import RUN, command, train

from npgpt.machine_line import read_machine_line, write_machine_line


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_help_says_how_products_were_made_in_the_last_run(tmp_path):
    assert "machine, when" not in command("train", "--help", cwd=tmp_path).out
    (tmp_path / "text.txt").write_text(TEXT)
    _, ended = train(tmp_path, *RUN)
    said = next(line for line in ended.err.splitlines() if line.startswith("       products "))
    shown = " ".join(command("train", "--help", cwd=tmp_path).out.split())
    assert f"machine, when a run last began: {said.strip()}" in shown


def test_what_is_kept_comes_back_and_what_is_odd_does_not(cache):
    assert read_machine_line() == ""
    write_machine_line("products in float32")
    assert read_machine_line() == "products in float32"
    for odd in (b"\x1b[31mred", b"\xff\xfe", b"two\nlines"):
        (cache / "npgpt" / "products.txt").write_bytes(odd)
        assert read_machine_line() == ""


def test_a_folder_that_cannot_be_made_is_no_mistake(cache):
    cache.write_text("a file")
    write_machine_line("products in float32")
    assert read_machine_line() == ""
