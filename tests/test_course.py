"""The course is true: the code of each chapter runs from top to bottom, and prints what is shown below it."""

import importlib.util
import re

import pytest
from conftest import ROOT

COURSE = ROOT / "docs" / "course"
CHAPTERS = sorted(COURSE.glob("*.md"))
BLOCK = re.compile(r"```python\n(?P<code>.*?)```\n(?:\n```text\n(?P<shown>.*?)```\n)?", re.DOTALL)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_code_runs_and_prints_what_is_shown(chapter, capsys):
    names = {}
    blocks = list(BLOCK.finditer(chapter.read_text(encoding="utf-8")))
    assert blocks
    for block in blocks:
        exec(compile(block["code"], chapter.name, "exec"), names)
        assert capsys.readouterr().out == (block["shown"] or ""), block["code"]


def test_chapters_lead_to_each_other_and_to_files_that_exist():
    assert [path.name[:2] for path in CHAPTERS] == [f"{n:02}" for n in range(1, 11)] + ["RE"]
    for i, chapter in enumerate(CHAPTERS):
        text = chapter.read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([\w.-]+)\)", text):
            assert (COURSE / link).is_file(), link
        if i < 9:
            assert f"({CHAPTERS[i + 1].name})" in text.split("Next: ")[1]
        for path in re.findall(r"npgpt/[\w/]+\.py", text):
            assert (ROOT / path).is_file(), path


def test_the_speed_of_each_version_is_printed(capsys):
    spec = importlib.util.spec_from_file_location("speed", COURSE / "speed.py")
    speed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(speed)
    speed.main(n=8, seconds=0)
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(speed.versions(8))
