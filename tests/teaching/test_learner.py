"""python -m npgpt.exercises: it lists, begins and grades, and has an answer to whatever is in the learner's file."""

import re
from contextlib import nullcontext
from itertools import pairwise

import pytest
from helpers.commands import command, refused

from npgpt.teaching.exercises import EXERCISES, learner

RIGHT = {
    "dropout": "def dropout_backward(dy, x, keep, p):\n    return dy * keep / (1 - p)\n",
    "unbroadcast": "from npgpt.tensor import unbroadcast\n",
}


def write(folder, name, text):
    (folder / "exercises").mkdir(exist_ok=True)
    path = folder / "exercises" / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    return path


def answer(folder, name, text):
    """What is said about a file, by the code of the process that runs it."""
    path = write(folder, name, text)
    solved, said = learner.answer_to(EXERCISES[name], path)
    assert max(map(len, said.splitlines())) < 80
    assert "Traceback" not in said
    return solved, said


# The command


def test_the_list_has_all_exercises_and_what_is_solved(tmp_path):
    ended = command("exercises", cwd=tmp_path)
    assert ended.code == 0
    lines = ended.out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == list(EXERCISES)
    assert lines[-1] == "0 of 22 are solved. The next one: python -m npgpt.exercises start chain_rule"
    assert max(map(len, lines)) < 80
    assert list(tmp_path.iterdir()) == []

    command("exercises", "start", "linear", cwd=tmp_path)
    path = write(tmp_path, "dropout", RIGHT["dropout"])
    assert command("exercises", "check", "dropout", cwd=tmp_path).code == 0
    lines = command("exercises", "list", cwd=tmp_path).out.splitlines()
    marked = {line.split()[1]: line.split()[0] for line in lines[:-1] if not line.startswith(" ")}
    assert marked == {"linear": "begun", "dropout": "solved"}
    assert lines[-1].startswith("1 of 22 are solved.")

    path.write_text(RIGHT["dropout"] + "# changed\n")
    assert "changed  dropout" in command("exercises", cwd=tmp_path).out
    command("exercises", "start", "chain_rule", cwd=tmp_path)  # the first one, which is then to be written
    ended = command("exercises", cwd=tmp_path)
    assert ended.out.endswith("The next one: python -m npgpt.exercises check chain_rule\n")


def test_a_full_disk_leaves_no_empty_file(tmp_path, monkeypatch):
    """It would be taken for an exercise that was begun."""

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("os.fsync", full)
        ended = command("exercises", "start", "gelu", cwd=tmp_path)
    assert (ended.code, ended.err) == (2, "error: exercises/gelu.py: No space left on device\n")
    assert list((tmp_path / "exercises").iterdir()) == []
    assert command("exercises", "start", "gelu", cwd=tmp_path).code == 0


def test_an_exercise_from_its_beginning_to_its_end(tmp_path):
    ended = command("exercises", "start", "dropout", cwd=tmp_path)
    assert ended.code == 0
    assert ended.out == (
        "exercises/dropout.py has the task, and the function dropout_backward to write.\n"
        "When you have written it: python -m npgpt.exercises check dropout\n"
    )
    path = tmp_path / "exercises" / "dropout.py"
    empty = path.read_text(encoding="utf-8")
    ended = command("exercises", "check", "dropout", cwd=tmp_path)
    assert ended.code == 1
    assert "dropout_backward returns None" in ended.out
    assert "  line 18: ...  # write it here" in ended.out

    path.write_text(empty.replace("...  #", "return dy * keep  #"), encoding="utf-8")
    ended = command("exercises", "check", "dropout", cwd=tmp_path)
    assert ended.code == 1
    lines = ended.out.splitlines()
    assert lines[0] == "dropout, case 1 of 3: p = 0.4"
    title, row = next((a, b) for a, b in pairwise(lines) if b.startswith("WRONG"))
    assert title.split() == ["yours", "numerically", "ratio"]
    yours, numerically, ratio = map(float, row.split()[-3:])
    assert yours / numerically == pytest.approx(0.6, abs=1e-4)
    assert ratio == 0.6
    assert len(title) == len(row)
    assert "Hint: A part p of the elements is dropped" in ended.out

    path.write_text(empty.replace("...  #", "return dy * keep / (1 - p)  #"), encoding="utf-8")
    ended = command("exercises", "check", "dropout", cwd=tmp_path)
    assert (ended.code, ended.out) == (
        0,
        "dropout is solved: all 3 cases are right.\nThe package's own is in npgpt/ops/dropout.py.\n",
    )
    path.write_text(empty, encoding="utf-8")
    assert command("exercises", "check", "dropout", cwd=tmp_path).code == 1
    assert "begun    dropout" in command("exercises", cwd=tmp_path).out


def test_another_folder_and_a_name_with_dashes(tmp_path):
    ended = command("exercises", "start", "top-p", "--dir", "my own", cwd=tmp_path)
    assert ended.code == 0
    assert "python -m npgpt.exercises check top_p --dir 'my own'" in ended.out
    assert "check top_p --dir 'my own'" in (tmp_path / "my own" / "top_p.py").read_text()
    assert "begun    top_p" in command("exercises", "--dir", "my own", cwd=tmp_path).out


def test_a_file_is_never_overwritten(tmp_path):
    command("exercises", "start", "linear", cwd=tmp_path)
    (tmp_path / "exercises" / "linear.py").write_text("mine")
    words = ["exercises/linear.py is there already", "npgpt.exercises check linear", "rename it"]
    refused("exercises", "start", "linear", cwd=tmp_path, words=words)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["check", "linear"], ["there is no exercises/linear.py", "python -m npgpt.exercises start linear"]),
        (["start", "layernrom"], ["no exercise 'layernrom'. Did you mean layernorm?"]),
        (["start", "linear_backward"], ["no exercise 'linear_backward'. Did you mean linear?"]),
        (["check", "../x"], ["no exercise '../x'. python -m npgpt.exercises lists them"]),
        (["start"], ["python -m npgpt.exercises start NAME"]),
        (["list", "linear"], ["list takes no name"]),
        (["linear"], ["invalid choice: 'linear'"]),
        (["start", "linear", "--dir", ""], ["the name is empty"]),
        (["start", "linear", "--dir", "text.txt"], ["text.txt is a file: name another folder with --dir"]),
    ],
)
def test_mistakes_in_the_command_are_refused(typed, words, folder):
    refused("exercises", *typed, cwd=folder, words=words)


def test_help_loads_nothing_heavy(python):
    ended = python(
        "import sys; from npgpt.exercises import main\n"
        "sys.argv[1:] = ['--help']\n"
        "try: main()\n"
        "finally: print({'numpy', 'numba'} & set(sys.modules))\n"
    )
    assert ended.stdout.startswith("usage: python -m npgpt.exercises")
    assert ended.stdout.endswith("set()\n")


# A file that doesn't end


def test_a_loop_without_an_end_is_stopped_with_its_line(tmp_path, capfd):
    text = "def unbroadcast(gradient, shape):\n    print('here')\n    while True:\n        shape = shape\n"
    path = write(tmp_path, "unbroadcast", text)
    solved, said = learner.check(EXERCISES["unbroadcast"], path.parent, seconds=0.3)
    assert not solved
    question = "Is there a loop without an end, or work that doubles with each step?"
    assert said.startswith(f"unbroadcast.py was stopped after 0.3 seconds.\n{question}\n  line ")
    assert "line 3: while True:" in said or "line 4: shape = shape" in said
    assert capfd.readouterr().out == "here\n"


def test_a_hint_is_found_in_a_graph_of_too_many_ways(tmp_path):
    """All usual mistakes are made for it, and one of them would go through x60 = 2 x59, x59 = 2 x58 ... 2^60 times."""
    text = """
def backpropagate(graph, grad):
    gradients = {list(graph)[-1]: grad}
    for name in reversed(graph):
        for parent, slope in graph[name]:
            gradients[parent] = gradients.get(parent, 0.0) + slope * gradients.get(name, 0.0)
    return {name: -dy if dy > 1e9 else dy for name, dy in gradients.items() if name not in graph}
"""
    path = write(tmp_path, "backpropagate", text)
    solved, said = learner.check(EXERCISES["backpropagate"], path.parent)
    assert not solved
    assert "2^60 ways" in said


@pytest.mark.parametrize("text", ["os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_a_process_that_ends_early_solves_nothing(text, tmp_path):
    path = write(tmp_path, "unbroadcast", f"import os\n{text}\n")
    solved, said = learner.check(EXERCISES["unbroadcast"], path.parent)
    assert not solved
    assert "while unbroadcast.py was run, without a result" in said
    assert learner.states(path.parent)["unbroadcast"] == "begun"


# Whatever else is in it


def test_the_right_answer(tmp_path):
    assert answer(tmp_path, "unbroadcast", RIGHT["unbroadcast"]) == (
        True,
        "unbroadcast is solved: all 7 cases are right.\nThe package's own is in npgpt/autograd.py.\n",
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def unbroadcast(gradient, shape:\n    return 1\n", ["not Python yet", "line 1: def unbroadcast"]),
        ("\x00", ["not Python yet"]),
        ("import numpy as np\nnp.nothing\n", ["can't be run", "AttributeError", "line 2: np.nothing"]),
        ("import sys\nsys.exit()\n", ["can't be run", "SystemExit", "line 2: sys.exit()"]),
        ("x = 1\n", ["no function unbroadcast"]),
        ("unbroadcast = 3\n", ["no function unbroadcast"]),
        (
            "def unbroadcast(gradient, shape):\n    return other(gradient)\n\n\ndef other(g):\n    return g.nothing\n",
            ["AttributeError", "line 6: return g.nothing"],
        ),
        ("def unbroadcast(gradient):\n    return gradient\n", ["TypeError", "takes 1 positional argument"]),
        ("def unbroadcast(gradient, shape):\n    raise SystemExit(3)\n", ["SystemExit: 3", "line 2: raise"]),
        (
            "def unbroadcast(gradient, shape):\n    gradient[0] = 1\n    return gradient\n",
            ["read-only", "Work on a copy", "line 2: gradient[0] = 1"],
        ),
        ("def unbroadcast(gradient, shape):\n    pass\n", ["returns None", "line 2: pass"]),
        (
            "def unbroadcast(gradient, shape):\n    y = 'x'\n    return y\n",
            ["result must be an array (3,) of float64, and is of type str", "line 3: return y"],
        ),
        ("def unbroadcast(gradient, shape):\n    return [[1, 2], [3]]\n", ["and is of type list", "line 2"]),
        ("def unbroadcast(gradient, shape):\n    return gradient * 1j\n", ["an array (2, 3) of complex128"]),
        (
            "def unbroadcast(gradient, shape):\n    return gradient\n",
            ["must have the shape (3,), and has (2, 3)", "add up over them"],
        ),
        (
            "def unbroadcast(gradient, shape):\n    return gradient.sum(0).astype('float32')\n",
            ["float32", "too coarse"],
        ),
        (
            "import npgpt\ndef unbroadcast(gradient, shape):\n    return npgpt.Tensor(gradient.sum(0))\n",
            ["is a Tensor", "line 3"],
        ),
        ("def unbroadcast(gradient, shape):\n    return -gradient.sum(0)\n", ["ratio", "-1", "The sign is wrong"]),
        ("def unbroadcast(gradient, shape):\n    return 3 * gradient.sum(0)\n", ["Every element is 3 times"]),
        ("def unbroadcast(gradient, shape):\n    return gradient.sum(0) / 0\n", ["NaN or infinity"]),
        ("def unbroadcast(gradient, shape):\n    return 0 * gradient.sum(0)\n", ["All of it is 0"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line(text, words, tmp_path):
    with pytest.warns() if "/ 0" in text else nullcontext():
        solved, said = answer(tmp_path, "unbroadcast", text)
    assert not solved
    for word in words:
        assert word in " ".join(said.split())


def test_a_list_that_is_changed_and_a_wrong_number_of_results(tmp_path):
    text = "def clip(gradients, max_norm):\n    gradients.append(1)\n    return gradients, 1.0\n"
    _, said = answer(tmp_path, "clipping", text)
    assert "clip changes one of its arguments: work on a copy\n  line 3: return gradients, 1.0" in said
    _, said = answer(tmp_path, "clipping", "def clip(gradients, max_norm):\n    return gradients, 1.0, 2.0\n")
    assert "clip must return gradients, norm, and gives 3 things\n  line 2: return" in said
    _, said = answer(tmp_path, "clipping", "def clip(gradients, max_norm):\n    return 1.0\n")
    assert "clip must return gradients, norm, and gives one thing, of type float\n  line 2: return" in said


def test_a_folder_with_other_letters(tmp_path):
    text = "def unbroadcast(gradient, shape):\n    while True:\n        pass\n"
    folder = tmp_path / "Übungen"
    folder.mkdir()
    (folder / "unbroadcast.py").write_text(text)
    _, said = learner.check(EXERCISES["unbroadcast"], folder, seconds=0.2)
    assert re.search("\n  line (2: while True:|3: pass)\n", said)
