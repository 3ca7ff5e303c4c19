"""python -m npgpt.gradcheck: it covers every operation and option, and names a wrong gradient with its place."""

import functools
import inspect
import re
from dataclasses import fields

import pytest
from helpers.commands import assert_refused, command, process

from npgpt import kernels, ops
from npgpt.checking.cases import GPTS, OPERATIONS, TINY
from npgpt.config import ACTIVATIONS, POSITIONS, GPTConfig
from npgpt.tensor import Tensor

# What the command covers


def test_every_operation_is_covered():
    assert set(ops.__all__) <= {name for name, *_ in OPERATIONS}
    for name, _, f, _ in OPERATIONS:
        function = getattr(f, "func", f)
        if name in ops.__all__:
            assert function is getattr(ops, name)


@pytest.mark.parametrize("name", ops.__all__)
def test_every_option_of_an_operation_is_covered(name):
    """Each parameter with a default has that default in one case, and another value in another."""
    signature = inspect.signature(getattr(ops, name))
    bound = []
    for operation, _, f, shapes in OPERATIONS:
        if operation == name:
            arguments, keywords = (f.args, f.keywords) if isinstance(f, functools.partial) else ((), {})
            call = signature.bind(*arguments, *shapes, **keywords)
            bound.append(call.arguments)
    for parameter in signature.parameters.values():
        if parameter.default is not inspect.Parameter.empty and parameter.name != "cache":  # which has no gradients
            assert any(parameter.name not in call for call in bound), parameter
            assert any(parameter.name in call for call in bound), parameter


def test_every_method_of_a_tensor_is_covered():
    members = {name.strip("_") for name, x in vars(Tensor).items() if inspect.isfunction(x) or isinstance(x, property)}
    others = {
        "init",
        "repr",
        "len",
        "source",
        "backward",
        "shape",
        "ndim",
        "size",
        "dtype",
        "item",
        "numpy",
        "detach",
        "array",
        *("iter", "float", "bool", "format", "deepcopy", "iadd", "isub"),  # made of others, or no operation
    }
    methods = members - others
    assert methods == {name for name, *_ in OPERATIONS} - set(ops.__all__)


def test_every_option_of_a_model_is_covered():
    configs = [GPTConfig(**{**TINY, **changes}) for _, changes, _ in GPTS]
    assert {config.position for config in configs} == set(POSITIONS)
    assert {config.activation for config in configs} == set(ACTIVATIONS)
    sizes = {"vocab_size", "block_size", "n_layer", "n_head", "n_embd"}
    for field in fields(GPTConfig):
        if field.name not in sizes:
            assert len({getattr(config, field.name) for config in configs}) > 1, field.name


# The command


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return command("gradcheck", cwd=tmp_path_factory.mktemp("work"))


def test_gradcheck_prints_a_row_for_each_case(table):
    assert table.code == 0
    lines = table.out.splitlines()
    count = len(OPERATIONS) + len(GPTS)
    assert lines[0].startswith(f"{kernels.BACKEND} kernels")
    assert lines[1].split() == ["operation", "shapes", "error", "time"]
    assert lines[-1] == f"all {count} are right"
    rows = lines[2:-1]
    assert len(rows) == count == len({row[:40] for row in rows})
    assert all(row.startswith("ok     ") for row in rows)
    assert [row.split()[1].strip(",") for row in rows] == [name for name, *_ in OPERATIONS] + ["gpt"] * len(GPTS)
    assert len({len(row) for row in rows}) == 1, "a column is too narrow"
    assert max(map(len, lines)) < 80
    assert table.out.isascii()


def test_errors_of_right_gradients_are_well_below_the_tolerance(table):
    """A last bit that differs on another machine must not make a row wrong."""
    for row in table.out.splitlines()[2:-1]:
        assert float(row.split()[-3]) < 4e-9, row


def test_gradcheck_of_chosen_operations(tmp_path):
    ended = command("gradcheck", "softmax", "add", cwd=tmp_path)
    assert ended.code == 0
    names = [line.split()[1].strip(",") for line in ended.out.splitlines()[2:-1]]
    assert names == ["add", "add", "softmax", "softmax"]


def test_gradcheck_in_a_process_of_its_own(tmp_path):
    ended = process("gradcheck", "exp", cwd=tmp_path)
    assert ended.code == 0
    assert ended.out.endswith("all 1 are right\n")


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["layernrom"], ["no operation 'layernrom'", "softmax, layernorm, embedding"]),
        (["add", "__add__"], ["no operation '__add__'"]),
        ([""], ["no operation ''"]),
        (["--all"], ["unrecognized arguments: --all", "--help lists the flags"]),
    ],
)
def test_unknown_operations_are_refused(typed, words, tmp_path):
    assert_refused(command("gradcheck", *typed, cwd=tmp_path), *words)


def test_gradchecks_help_loads_nothing_heavy(python):
    ended = python(
        "import sys; from npgpt.gradcheck import main\n"
        "sys.argv[1:] = ['--help']\n"
        "try: main()\n"
        "finally: print({'numpy', 'numba'} & set(sys.modules))\n"
    )
    assert ended.stdout.startswith("usage: python -m npgpt.gradcheck [-h] [OPERATION ...]\n")
    assert ended.stdout.endswith("set()\n")


def wrong_rows(ended):
    return [line.split()[1].strip(",") for line in ended.out.splitlines() if line.startswith("WRONG")]


def test_a_broken_kernel_is_named_with_its_place(monkeypatch, tmp_path):
    right = kernels.layernorm_backward

    def broken(dy, x, *others):
        dx, dweight, dbias = right(dy, x, *others)
        dx.reshape(-1, x.shape[-1])[2, 3] += 0.25
        return dx, dweight, dbias

    monkeypatch.setattr(kernels, "layernorm_backward", broken)
    ended = command("gradcheck", "softmax", "layernorm", "linear", "gpt", cwd=tmp_path)
    assert ended.code == 1
    cases = sum(name == "layernorm" for name, *_ in OPERATIONS) + len(GPTS)
    assert wrong_rows(ended) == ["layernorm"] * (cases - len(GPTS)) + ["gpt"] * len(GPTS)
    lines = ended.out.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("WRONG  layernorm"))
    assert "2x3x5, 5, 5" in lines[first]
    assert lines[first + 1].startswith("       dx[0, 2, 3]: by hand ")
    by_hand, numerical = (float(number) for number in re.findall(r"-?\d+\.\d+", lines[first + 1]))
    assert by_hand - numerical == pytest.approx(0.25, abs=1e-3)
    assert not lines[first + 2].startswith("       ")  # weight and bias are right
    assert "and 23 more" in ended.out  # of a GPT's 28: those of the last layer norm are right
    assert lines[-1] == f"{cases} of {cases + 5} are wrong"
    assert max(map(len, lines)) < 80


def one_is_wrong(gradients):
    """A kernel's results with the first gradient 0.01 % too large."""
    return (1.0001 * gradients[0], *gradients[1:]) if isinstance(gradients, tuple) else 1.0001 * gradients


@pytest.mark.parametrize(
    ("kernel", "operations"),
    [
        ("softmax_backward", {"softmax"}),
        ("gelu_backward", {"gelu"}),
        ("gelu_tanh_backward", {"gelu_tanh"}),
        ("layernorm_backward", {"layernorm"}),
        ("cross_entropy_backward", {"cross_entropy", "linear_cross_entropy"}),
    ],
)
def test_a_gradient_off_by_a_ten_thousandth_is_found_in_each_case(kernel, operations, monkeypatch, tmp_path):
    right = getattr(kernels, kernel)
    monkeypatch.setattr(kernels, kernel, lambda *arguments, **named: one_is_wrong(right(*arguments, **named)))
    ended = command("gradcheck", *ops.__all__, cwd=tmp_path)
    assert ended.code == 1
    assert wrong_rows(ended) == [name for name, *_ in OPERATIONS if name in operations]


def test_embedding_with_a_wrong_gradient_is_found(monkeypatch, tmp_path):
    right = kernels.embedding_backward
    monkeypatch.setattr(kernels, "embedding_backward", lambda dy, ids, dweight: right(1.0001 * dy, ids, dweight))
    ended = command("gradcheck", *ops.__all__, cwd=tmp_path)
    assert ended.code == 1
    assert wrong_rows(ended) == [name for name, *_ in OPERATIONS if name == "embedding"]


@pytest.mark.parametrize("part", [0, 1, 2], ids=["dq", "dk", "dv"])
def test_attention_with_a_wrong_gradient_is_found(part, monkeypatch, tmp_path):
    right = kernels.attention_backward

    def broken(dy, q, k, v, row_max, row_sum, scale, *others):
        right(dy, q, k, v, row_max, row_sum, scale, *others)
        others[part][...] *= 1.0001

    monkeypatch.setattr(kernels, "attention_backward", broken)
    ended = command("gradcheck", "causal_self_attention", "softmax", cwd=tmp_path)
    assert ended.code == 1
    assert wrong_rows(ended) == [name for name, *_ in OPERATIONS if name == "causal_self_attention"]


def test_an_exception_of_a_backward_pass_is_shown_in_its_row(monkeypatch, tmp_path):
    monkeypatch.setattr(kernels, "softmax_backward", lambda dy, y: (dy * y).sum(-1))
    ended = command("gradcheck", "softmax", "relu", cwd=tmp_path)
    assert ended.code == 1
    assert wrong_rows(ended) == ["softmax", "softmax"]
    assert "RuntimeError: backward of softmax returned a gradient (2, 3)" in ended.out
    assert "ok     relu" in ended.out
    assert max(map(len, ended.out.splitlines())) < 80
