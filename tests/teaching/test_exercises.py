"""The exercises: what is right passes, what is empty or wrong fails, and each mistake gets its own hint.

Some mistakes are those of mutant_table.py. They are made in the package's code, in memory, and the result is graded.
"""

import dataclasses
import re
import types
from unittest.mock import patch

import numpy as np
import pytest
from conftest import ROOT
from mutants import MUTANTS, changed

from npgpt import kernels, ops
from npgpt.teaching.exercises import EXERCISES, graph, training
from npgpt.teaching.exercises.grading import grade
from npgpt.teaching.exercises.teacher import WIDTH, report
from npgpt.tensor import Tensor

each_exercise = pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
EACH_MISTAKE = [
    pytest.param(exercise, mistake, id=f"{exercise.name}-{i}")
    for exercise in EXERCISES.values()
    for i, mistake in enumerate(exercise.mistakes)
]


def completed(exercise, mistake):
    """The wrong function, with what it leaves out as None done right."""

    def function(*arguments):
        with np.errstate(all="ignore"):
            given = mistake.wrong(*arguments)
        if isinstance(given, tuple) and any(x is None for x in given):
            right = exercise.solution(*arguments)
            given = tuple(y if x is None else x for x, y in zip(given, right, strict=True))
        return given

    return function


def test_there_are_at_least_twenty_with_names_of_their_own():
    assert len(EXERCISES) >= 20
    assert len({exercise.title for exercise in EXERCISES.values()}) == len(EXERCISES)
    assert all(name == exercise.name and name.isidentifier() for name, exercise in EXERCISES.items())


def test_the_course_names_each_exercise():
    course = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs" / "course").glob("*.md")))
    assert set(re.findall(r"npgpt.exercises (?:start|check) (\w+)", course)) <= set(EXERCISES)
    assert [name for name in EXERCISES if f"`{name}`" not in course and f"start {name}`" not in course] == []


@each_exercise
def test_the_packages_own_code_is_right(exercise):
    verdict = grade(exercise, exercise.solution)
    assert verdict.solved, report(verdict, [])
    assert verdict.case == len(exercise.cases)


@each_exercise
def test_the_function_without_a_body_is_not(exercise):
    module = {}
    exec(exercise.file("check it"), module)
    verdict = grade(exercise, module[exercise.function_name])
    assert not verdict.solved
    assert verdict.case == 1
    assert f"{exercise.function_name} returns None" in verdict.problem or "must return two things" in verdict.problem
    assert "write it here" in exercise.file("check it").splitlines()[verdict.line - 1]


@each_exercise
def test_the_file_can_be_read(exercise):
    text = exercise.file("python -m npgpt.exercises check NAME")
    assert [line for line in text.splitlines() if len(line) > WIDTH] == []
    for path in re.findall(r"(?:npgpt|docs)/[\w/-]+\.(?:py|md)", text):
        assert (ROOT / path).is_file(), path
    parameters = list(exercise.cases[0].arguments)
    if exercise.forward:
        assert {name.removeprefix("d") for name in exercise.outputs} <= set(parameters)
        parameters.insert(0, exercise.signature.partition("(")[2].partition(",")[0])
    if not exercise.drive:
        assert exercise.signature == f"{exercise.function_name}({', '.join(parameters)})"


@pytest.mark.parametrize(("exercise", "mistake"), EACH_MISTAKE)
def test_each_mistake_gets_its_hint(exercise, mistake):
    verdict = grade(exercise, completed(exercise, mistake))
    assert not verdict.solved
    assert verdict.hint == mistake.hint
    answer = report(verdict, [])
    assert max(map(len, answer.splitlines())) <= WIDTH
    assert " ".join(f"Hint: {mistake.hint}".split()) in " ".join(answer.split())
    assert answer.endswith(f"{exercise.name} is not solved yet.\n")


def probabilities(S, largest):
    e = np.exp(S - largest(S))
    return e / e.sum(-1, keepdims=True)


def one_maximum_for_all_rows(dy, x):
    y = probabilities(x, np.max)
    return y * (dy - (dy * y).sum(-1, keepdims=True))


def scores(q, k):
    return q @ k.T / np.sqrt(q.shape[-1])


def hidden_by_a_small_number(q, k, v):
    S = np.where(np.tri(len(q), dtype=bool), scores(q, k), -100)
    return probabilities(S, lambda S: S.max(-1, keepdims=True)) @ v


def summed_by_size(gradient, shape):
    axes = tuple(i for i in range(gradient.ndim) if gradient.shape[i] not in shape)
    return gradient.sum(axes).reshape(shape)


_kept = {}


def kept_in_the_module(p, gradients, state):
    if state is None:
        _kept["state"] = None
    p, _kept["state"] = EXERCISES["adam_resume"].solution(p, gradients, _kept["state"])
    return p, 1


@pytest.mark.parametrize(("name", "answer"), [
    ("softmax", one_maximum_for_all_rows), ("attention", lambda q, k, v: probabilities(scores(q, k), np.max) @ v),
    ("causal_attention", hidden_by_a_small_number), ("unbroadcast", summed_by_size),
    ("adam_resume", kept_in_the_module),
])  # fmt: skip
def test_answers_that_are_right_for_most_inputs(name, answer):
    with np.errstate(all="ignore"):
        assert not grade(EXERCISES[name], answer).solved


def test_a_state_that_no_file_holds_is_none():
    resume = EXERCISES["adam_resume"]

    def train(p, gradients, state):
        p, kept = resume.solution(p, gradients, state and state())
        return p, lambda: kept

    assert grade(resume, train).problem == "the state can't be written to a file: let it hold arrays and numbers"


def test_parameters_that_are_given_as_a_list():
    """Another run is trained between the parts, and not from what the answer gave."""

    def train(p, gradients, state):
        p, state = EXERCISES["adam_resume"].solution(np.asarray(p), gradients, state)
        return p.tolist(), state

    assert grade(EXERCISES["adam_resume"], train).solved


def test_a_mistake_that_an_earlier_case_rules_out_is_not_named():
    """min() of NaN passes the first cases, as no norm of one array would."""

    def clip(gradients, max_norm):
        norm = np.sqrt(sum((g**2).sum() for g in gradients))
        return [g * min(1.0, max_norm / norm) for g in gradients], norm

    with np.errstate(all="ignore"):
        verdict = grade(EXERCISES["clipping"], clip)
    assert verdict.hint.startswith("An infinite norm makes all gradients 0")


@each_exercise
def test_answers_do_not_depend_on_the_moment(exercise):
    wrong = completed(exercise, exercise.mistakes[0])
    assert report(grade(exercise, wrong), []) == report(grade(exercise, wrong), [])


# The mistakes of mutant_table.py


def mutated(what, name):
    """The module that a row of the table changes, changed in memory. Two rows that are called alike differ in place."""
    rows = [m for m in MUTANTS if m.what == what]
    mutant = next(m for m in rows if len(rows) == 1 or m.where.startswith(name))
    try:
        path, text = changed(mutant)
    except LookupError as misfit:
        pytest.skip(f"{misfit}: python tests/mutants.py --check says more")
    module = types.ModuleType(f"mutated_{path.stem}")
    exec(compile(text, str(path), "exec"), module.__dict__)
    return module


def kernel(name):
    """The package's answer with another version of a kernel."""

    def answer(exercise, module):
        def function(*arguments):
            with patch.object(kernels, name, getattr(module, f"{name}_numpy")):
                return exercise.solution(*arguments)

        return function

    return answer


def operation(name):
    """The package's answer with another version of an operation."""
    return lambda exercise, module: dataclasses.replace(exercise, forward=getattr(module, name)).solution


def itself(name):
    return lambda exercise, module: getattr(module, name)


def walk(exercise, module):
    def function(*arguments):
        with patch.multiple(graph, Node=module.Node, backpropagate=module.backpropagate):
            return exercise.solution(*arguments)

    return function


def clip(exercise, module):
    def function(*arguments):
        with patch.object(training, "clip_grad_norm", module.clip_grad_norm):
            return exercise.solution(*arguments)

    return function


def rotary(exercise, module):
    def function(*arguments):
        with patch.object(ops, "rotary", module.rotary):
            return exercise.solution(*arguments)

    return function


def fused(exercise, module):
    def function(q, k, v):
        qkv = Tensor(np.concatenate([q, k, v], axis=1)[None])
        return module.causal_self_attention(qkv, n_head=1).data[0]

    return function


def optimizer(exercise, module):
    def function(p, g, m, v, lr, beta1, beta2, eps, weight_decay, t):
        parameter = Tensor(p.copy(), requires_grad=True)
        adamw = module.AdamW([("p", parameter)], lr, (beta1, beta2), eps, weight_decay)
        adamw.load_state_dict({"exp_avg.p": m, "exp_avg_sq.p": v}, t - 1)
        parameter.grad = g.copy()
        adamw.step()
        return parameter.data, adamw.exp_avg["p"], adamw.exp_avg_sq["p"]

    return function


# A change of mutant_table.py, the exercise, how the changed code answers it, and words of the hint.
CHANGES = [
    ("unbroadcast: a stretched axis not summed", "unbroadcast", itself("unbroadcast"), "were stretched"),
    ("a second consumer's contribution overwrites the first", "backpropagate", walk, "overwrites"),
    ("db of the first row only", "linear", operation("linear"), "Which rows of dy"),
    ("tanh form, backward, NumPy: 3 missing", "gelu", kernel("gelu_tanh_backward"), "x + c x^3"),
    ("backward, NumPy: the row sum missing", "softmax", kernel("softmax_backward"), "always adds up to 1"),
    ("forward, NumPy: the maximum not subtracted", "softmax", kernel("softmax_forward"), "exp(1000)"),
    ("backward, NumPy: the mean of g kept", "layernorm", kernel("layernorm_backward"), "A mean is missing"),
    ("epsilon outside the root, NumPy", "layernorm", kernel("layernorm_forward"), "inside the root"),
    ("the variance divided by C - 1", "layernorm", kernel("layernorm_forward"), "Divide by C"),
    (
        "backward, NumPy: 1 not subtracted at the target",
        "cross_entropy",
        kernel("cross_entropy_backward"),
        "second term",
    ),
    (
        "the gradient divided by all targets, ignored ones too",
        "cross_entropy",
        operation("cross_entropy"),
        "which targets",
    ),
    ("the mask off by one, NumPy", "causal_attention", kernel("attention_forward"), "attend to itself"),
    ("dropped 1/sqrt(d)", "causal_attention", fused, "sqrt(D) is missing"),
    ("K and V swapped", "causal_attention", fused, "k and v are swapped"),
    ("backward, NumPy: the row sum missing", "attention_backward", kernel("attention_backward"), "softmax's"),
    ("Q and K swapped in the gradients, NumPy", "attention_backward", kernel("attention_backward"), "to give dq"),
    ("a repeated id collects once, NumPy", "embedding", kernel("embedding_backward"), "np.add.at"),
    ("kept elements not scaled up, NumPy", "dropout", kernel("dropout"), "A part p of the elements"),
    ("the gradient turned the same way", "rotary", rotary, "Which rotation undoes"),
    ("epsilon inside the root, NumPy", "adamw", kernel("adamw_step"), "not inside it"),
    ("a bias correction off by one step", "adamw", optimizer, "off by one step"),
    ("decay without the learning rate", "adamw", kernel("adamw_step"), "falls to 0"),
    ("the norm of one gradient at a time", "clipping", clip, "one long vector"),
    ("warm-up begins at 0", "schedule", itself("warmup_cosine"), "rate of 0 learn"),
    ("a whole cosine, not half of one", "schedule", itself("warmup_cosine"), "end of the schedule"),
    ("top_p leaves out the token that crosses the threshold", "top_p", itself("top_p"), "crosses the line"),
]


@pytest.mark.parametrize(("what", "name", "answer", "words"), CHANGES, ids=[f"{row[1]}-{row[0]}" for row in CHANGES])
def test_a_mutant_of_the_package_gets_the_hint(what, name, answer, words):
    exercise = EXERCISES[name]
    with np.errstate(all="ignore"):
        verdict = grade(exercise, answer(exercise, mutated(what, name)))
    assert not verdict.solved
    assert words in verdict.hint


@pytest.mark.parametrize(
    "whole", [np.matmul, np.dot, lambda A, B: A.dot(B), lambda A, B: np.einsum("ik,kj->ij", A, B), np.inner]
)
def test_no_way_around_the_blocks(whole):
    verdict = grade(EXERCISES["blocked_product"], lambda A, B, size: whole(A, B))
    assert "a block of 4 x 4 does not fit into the cache" in verdict.problem


def test_other_ways_to_add_up_blocks():
    def product(A, B, size):
        C = np.zeros_like(A, shape=(len(A), B.shape[1]))
        for i in range(0, len(A), size):
            for k in range(0, len(B), size):
                for j in range(0, B.shape[1], size):
                    C[i : i + size, j : j + size] += np.einsum(
                        "ik,kj->ij", A[i : i + size, k : k + size], B[k : k + size, j : j + size]
                    )
        return C

    assert grade(EXERCISES["blocked_product"], product).solved
