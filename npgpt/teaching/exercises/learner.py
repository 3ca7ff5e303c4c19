"""The learner's file: where it is, how it begins, and how it is run: in a process of its own, with a time limit.

    python -m npgpt.teaching.exercises.learner NAME FILE ANSWER SECONDS

grades FILE and writes the answer, as text, to the file ANSWER. After SECONDS it writes where it was, and ends. Its exit
code is 0 if the exercise is solved, else 1.
"""

import faulthandler
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import traceback
import types
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from npgpt.checkpoints.shared.atomic import atomic_write
from npgpt.errors import UserError
from npgpt.shell import quoted
from npgpt.teaching.exercises import EXERCISES
from npgpt.teaching.exercises.exercise import Exercise
from npgpt.teaching.exercises.grading import grade
from npgpt.teaching.exercises.teacher import report, shown_line

SECONDS = 10.0  # for the learner's code; a right answer takes less than one
_START = 120.0  # more than a slow machine needs to import NumPy and Numba
_SOLVED = "solved.json"
_ENDLESS = "Is there a loop without an end, or work that doubles with each step?"


def command(action: str, name: str, folder: Path) -> str:
    """What to type."""
    where = "" if folder == Path("exercises") else f" --dir {quoted(folder)}"
    return f"python -m npgpt.exercises {action} {name}{where}"


def start(exercise: Exercise, folder: Path) -> Path:
    """Write the file that an exercise begins with -> its path. Raises UserError if there is one already."""
    path = folder / f"{exercise.name}.py"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"{folder} is a file: name another folder with --dir") from None
    if os.path.lexists(path):
        raise UserError(
            f"{path} is there already, and is left as it is.\n"
            f"Grade it: {command('check', exercise.name, folder)}\nOr rename it, to begin anew."
        )
    with atomic_write(path) as file:
        file.write(exercise.file(command("check", exercise.name, folder)).encode())
    return path


def check(exercise: Exercise, folder: Path, seconds: float = SECONDS) -> tuple[bool, str]:
    """Grade the file in a process of its own -> whether it is solved, and what to tell the learner."""
    path = folder / f"{exercise.name}.py"
    if not path.is_file():
        raise UserError(f"there is no {path}. Begin with: {command('start', exercise.name, folder)}")
    content = path.read_bytes()
    with tempfile.TemporaryDirectory() as temporary:
        answer = Path(temporary) / "answer"
        arguments = [exercise.name, str(path), str(answer), str(seconds)]
        environment = {**os.environ, "NPGPT_KERNELS": "numpy"}  # which define the results, and need no compiling
        try:
            ended = subprocess.run(
                [sys.executable, "-u", "-m", "npgpt.teaching.exercises.learner", *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                timeout=_START + seconds,
                start_new_session=True,  # Ctrl-C reaches this process alone, which then kills the other one
            ).returncode
        except subprocess.TimeoutExpired:
            return False, f"{exercise.name}.py takes longer than {seconds:g} seconds. {_ENDLESS}\n"
        text = answer.read_text(encoding="utf-8") if answer.exists() else ""
    solved = ended == 0 and text != ""
    if text.startswith("Timeout"):  # faulthandler's first word
        text = _too_slow(exercise, path, content, seconds, text)
    elif not text:
        text = f"Python ended (exit code {ended}) while {exercise.name}.py was run, without a result.\n"
    _remember(exercise, folder, content if solved else None)
    return solved, text


def states(folder: Path) -> dict[str, str]:
    """{name: "solved", "changed" since it was solved, "begun", or ""} of each exercise."""
    solved = _read_solved(folder)
    found = {}
    for name in EXERCISES:
        path = folder / f"{name}.py"
        found[name] = "begun" if path.is_file() else ""
        if found[name] and name in solved:
            found[name] = "solved" if _digest(path.read_bytes()) == solved[name] else "changed"
    return found


def _digest(content) -> str:
    return hashlib.sha256(content).hexdigest()


def _read_solved(folder) -> dict[str, str]:
    try:
        found = json.loads((folder / _SOLVED).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # not there, or not ours: then nothing is known to be solved
        return {}
    return found if isinstance(found, dict) else {}


def _remember(exercise, folder, content) -> None:
    """Note that this content of the file solves the exercise; None: that it doesn't."""
    before = _read_solved(folder)
    after = {name: digest for name, digest in before.items() if name != exercise.name}
    if content is not None:
        after[exercise.name] = _digest(content)
    if after != before:
        with suppress(OSError):  # a folder that can't be written to: the answer is what was asked for
            new = folder / f"{_SOLVED}.{os.getpid()}"
            new.write_text(json.dumps(after, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            new.replace(folder / _SOLVED)


def _too_slow(exercise, path, content, seconds, dump) -> str:
    """The answer to a file that was stopped. ``dump`` is faulthandler's traceback, the innermost call first."""
    lines = [f"{exercise.name}.py was stopped after {seconds:g} seconds.", _ENDLESS]
    name = str(path).encode("ascii", "backslashreplace").decode()  # as faulthandler writes it
    if found := re.search(rf'"{re.escape(name)}", line (\d+)', dump):
        lines += shown_line(content.decode(errors="replace").splitlines(), int(found[1]))
    return "\n".join([*lines, "", f"{exercise.name} is not solved yet.", ""])


# In the process of its own


def answer_to(exercise: Exercise, path: Path) -> tuple[bool, str]:
    """Run the file and grade its function -> whether it is solved, and what to tell the learner."""
    source = path.read_bytes()
    lines = source.decode(errors="replace").splitlines()
    module = types.ModuleType(exercise.name)
    module.__file__ = str(path)
    sys.modules[exercise.name] = module  # dataclasses, for one, look themselves up there
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except SyntaxError as error:
        where = shown_line(lines, error.lineno) if error.lineno else []
        return False, "\n".join([f"{path.name} is not Python yet: {error.msg}", *where, ""])
    except (Exception, SystemExit) as error:
        return False, "\n".join([f"{path.name} can't be run:", *_raised(error, path, lines), ""])
    function = getattr(module, exercise.function_name, None)
    if not callable(function):
        return False, f"{path.name} has no function {exercise.function_name}: it is the one that is graded.\n"
    verdict = grade(exercise, function)
    if verdict.raised:
        problem = "\n".join(_raised(verdict.raised, path, lines))
        verdict = replace(verdict, problem=problem, line=None)
    return verdict.solved, report(verdict, lines)


def _raised(error, path, lines) -> list[str]:
    """What was raised, and the last line of the learner's file that led there."""
    name = type(error).__name__
    told = [f"{name}: {error}" if str(error) else name]
    numbers = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    if "read-only" in str(error):
        told.append("The arguments are not yours to change: the caller needs them as they are. Work on a copy.")
    if isinstance(error, RecursionError):
        told.append("The recursion is too deep: use a loop, and a list of what is still to do.")
    return [*told, *(shown_line(lines, numbers[-1]) if numbers and numbers[-1] else [])]


def _main() -> int:
    name, path, answer, seconds = sys.argv[1:]
    with open(answer, "w", encoding="utf-8") as file:
        faulthandler.dump_traceback_later(float(seconds), exit=True, file=file)
        solved, text = answer_to(EXERCISES[name], Path(path))
        faulthandler.cancel_dump_traceback_later()
        file.write(text)
    return 0 if solved else 1


if __name__ == "__main__":
    sys.exit(_main())
