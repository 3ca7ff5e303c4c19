"""The record, the way back through it, and what is refused there; recording switched off and on."""

import contextvars
import gc
import threading
import weakref

import numpy as np
import pytest
from helpers.against_torch import requires_torch
from helpers.arrays import leaf, seeds
from helpers.tolerances import FLOAT64_GRADIENT
from hypothesis import given
from hypothesis import strategies as st

from npgpt import Tensor, no_grad
from npgpt.tensor import enable_grad, is_grad_enabled

# The walk


def test_a_result_that_is_used_twice_is_passed_once():
    """The docstring's example: a walk that went on at the first contribution would give 6, or 8."""
    a = leaf(1.0)
    b = a + a
    c = b + b
    c.backward()
    assert a.grad == 4


def test_paths_of_different_lengths_all_count():
    x = leaf(3.0)
    y = x * x
    (x + y * x + (y * 2) * (y - x) + y).backward()
    assert x.grad == 1 + 3 * 3**2 + (8 * 3**3 - 6 * 3**2) + 2 * 3  # of x + x^3 + 2 x^4 - 2 x^3 + x^2


@pytest.mark.parametrize("depth", [10_000, 100_000])
def test_depth_has_no_limit(depth):
    """Forward, backward, and letting go of a graph that was never walked: none of them recurses."""
    x = leaf(1.0)
    for walk in (True, False):
        y = x
        for _ in range(depth):
            y = y + 1
        assert y.item() == depth + 1
        if walk:
            y.backward()
            assert x.grad == 1
        del y


def test_a_wide_graph():
    x = leaf(np.ones(3))
    y = x
    for _ in range(2000):
        y = y + x
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, [2001] * 3)


@requires_torch
@given(seeds, st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=10))
def test_any_graph_against_torch(seed, program):
    """Each line of the program takes two of the results so far, which are used any number of times, or never."""
    import torch

    lines = [lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a * b, lambda a, b: a / (b * b + 1)]
    inputs = np.random.default_rng(seed).uniform(-1, 1, (3, 4))
    gradients = []
    for leaves in ([leaf(x) for x in inputs], [torch.tensor(x, requires_grad=True) for x in inputs]):
        results = list(leaves)
        for line, i, j in program:
            results.append(lines[line](results[i % len(results)], results[j % len(results)]))
        sum(results[3:]).sum().backward()
        gradients.append([np.zeros(4) if x.grad is None else np.asarray(x.grad) for x in leaves])
    for ours, theirs in zip(*gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=FLOAT64_GRADIENT * max(1, np.abs(theirs).max()))


def test_backward_is_told_which_gradients_are_needed():
    told = []

    def operation(*inputs):
        return Tensor.from_op(np.ones(2), inputs, lambda dy, needs: told.append(needs) or [dy * 1.0 for _ in inputs])

    x, constant = leaf([1.0, 2.0]), Tensor(np.ones(2))
    operation(x, None, constant, x * 2).sum().backward()
    assert told == [(True, False, False, True)]
    assert constant.grad is None
    np.testing.assert_array_equal(x.grad, [3, 3])


def test_what_is_returned_for_an_input_that_needs_nothing_is_ignored():
    x, constant = leaf([1.0, 2.0]), Tensor(np.ones(2))
    Tensor.from_op(x.data, (x, constant), lambda dy, needs: (dy, "of no shape")).sum().backward()
    np.testing.assert_array_equal(x.grad, [1, 1])


def test_gradients_add_up_over_passes_until_they_are_taken_away():
    x = leaf([1.0, 2.0])
    for expected in ([3, 3], [6, 6]):
        (x * 3).sum().backward()
        np.testing.assert_array_equal(x.grad, expected)
    x.grad = None
    (x * 5).sum().backward()
    np.testing.assert_array_equal(x.grad, [5, 5])


def test_a_leaf_is_its_own_result():
    x = leaf([1.0, 2.0])
    given_gradient = np.array([5.0, 7.0])
    x.backward(given_gradient)
    np.testing.assert_array_equal(x.grad, [5, 7])
    assert not np.shares_memory(x.grad, given_gradient)


def test_the_gradient_of_a_leaf_is_nobody_elses():
    """It is added to in place in the next pass: dy, a view of it, or an array for two parents would change with it."""
    ways = {
        "dy for both": lambda a, b: a + b,
        "views": lambda a, b: a.reshape(4).reshape(2, 2).T + b.transpose(1, 0),
        "repeated": lambda a, b: a.sum() + b.sum(axis=0, keepdims=True),
        "one array for two": lambda a, b: Tensor.from_op(a.data + b.data, (a, b), lambda dy, needs: (d := dy * 1, d)),
        "dy, and what is added from it later": lambda a, b: Tensor.from_op(
            a.data + b.data, (a, b), lambda dy, needs: (dy, lambda db: np.add(db, dy, out=db))
        ),
        "a view and its base": lambda a, b: Tensor.from_op(
            a.data + b.data, (a, b), lambda dy, needs: (d := dy * 1, d[:])
        ),
    }
    for name, way in ways.items():
        a, b = leaf(np.ones((2, 2))), leaf(np.ones((2, 2)))
        y = way(a, b)
        dy = np.ones(y.shape)
        y.backward(dy)
        arrays = [a.grad, b.grad, dy, a.data, b.data]
        for i, one in enumerate(arrays):
            for other in arrays[i + 1 :]:
                assert not np.shares_memory(one, other), name
        before = a.grad.copy(), b.grad.copy()
        (a * 2).sum().backward()
        np.testing.assert_array_equal(a.grad, before[0] + 2, err_msg=name)
        np.testing.assert_array_equal(b.grad, before[1], err_msg=name)
        np.testing.assert_array_equal(dy, 1, err_msg=name)
        assert a.grad.flags.writeable


# Memory


class Recorded:
    """A chain of operations, each of which keeps an array of its own for the backward pass."""

    def __init__(self, length):
        self.kept, self.alive = [], []
        self.x = leaf(np.ones(100))
        y = self.x
        for _ in range(length):
            y = self.step(y)
        self.result = y.sum()

    def step(self, x):
        factor = np.full(100, 2.0)
        self.kept.append(weakref.ref(factor))

        def backward(dy, needs):
            self.alive.append(sum(ref() is not None for ref in self.kept))
            return (dy * factor,)

        return Tensor.from_op(x.data * factor, (x,), backward)


def test_memory_is_given_back_during_the_backward_pass():
    graph = Recorded(5)
    graph.result.backward()
    assert graph.alive == [5, 4, 3, 2, 1]
    assert all(ref() is None for ref in graph.kept)
    np.testing.assert_array_equal(graph.x.grad, 2.0**5)


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0,), (0, 0)])
@pytest.mark.parametrize("of_a_leaf", [True, False])
def test_a_gradient_that_adds_itself(order, of_a_leaf):
    """Alone, or before, after and beside one that is an array."""
    x = leaf(np.ones(3))
    y = x if of_a_leaf else x * 1.0

    def adds(dx, dy):
        dx[1:2] += 10 * dy

    uses = (
        lambda: Tensor.from_op(y.data[1:2] * 10, (y,), lambda dy, needs: (lambda dx: adds(dx, dy),)),
        lambda: y * 2.0,
    )
    total = sum((uses[use]().sum() for use in order), start=Tensor(np.float64(0)))
    total.backward()
    np.testing.assert_array_equal(x.grad, [2 * (1 in order), 10 * order.count(0) + 2 * (1 in order), 2 * (1 in order)])


def test_gradients_on_the_way_are_given_back_too():
    """Of a long chain, only the gradient that is handed on is there, not one for each step."""
    gradients, most = [], 0

    def step(x):
        def backward(dy, needs):
            nonlocal most
            gradients.append(weakref.ref(dy))
            most = max(most, sum(ref() is not None for ref in gradients))
            return (dy * 2,)

        return Tensor.from_op(x.data * 2, (x,), backward)

    y = x = leaf(np.ones(100))
    for _ in range(50):
        y = step(y)
    y.sum().backward()
    assert len(gradients) == 50
    assert most == 1
    np.testing.assert_array_equal(x.grad, 2.0**50)


@pytest.mark.parametrize("walked", [True, False])
def test_nothing_refers_to_itself(walked):
    """What is dropped goes at once; no array waits for the garbage collector."""
    gc.disable()
    try:
        graph = Recorded(5)
        middle = graph.x * 3
        result = (middle.exp() + middle).sum() + graph.result
        if walked:
            result.backward()
        refs = [weakref.ref(t) for t in (middle, result, graph.result)] + [weakref.ref(middle.data)]
        del middle, result
        graph.result = None
        assert all(ref() is None for ref in refs + graph.kept)
    finally:
        gc.enable()


# no_grad


def test_no_grad_records_nothing():
    x = leaf([1.0])
    with no_grad():
        assert not is_grad_enabled()
        with no_grad():
            y = x * 2
        assert not is_grad_enabled()
        z = x * 2
    assert is_grad_enabled()
    for result in (y, z):
        assert not result.requires_grad
        with pytest.raises(RuntimeError, match="depends on nothing with requires_grad"):
            result.backward()
    assert (x * 2).requires_grad


def test_enable_grad_records_within_no_grad():
    x = leaf([1.0])
    with no_grad():
        with enable_grad():
            y = x * 2
        assert not is_grad_enabled()
        with pytest.raises(ZeroDivisionError), enable_grad():
            raise ZeroDivisionError
        assert not is_grad_enabled()
    y.backward()
    np.testing.assert_array_equal(x.grad, [2.0])


def test_no_grad_as_a_decorator():
    @no_grad()
    def depth(n):
        """Calls itself, so that one decorator is entered several times."""
        assert not is_grad_enabled()
        return n if n == 0 else depth(n - 1)

    assert depth(3) == 0
    assert depth.__name__ == "depth"
    assert is_grad_enabled()


def test_no_grad_may_end_in_another_context():
    """As in an async generator that is not read to its end."""
    block, elsewhere = no_grad(), contextvars.Context()
    elsewhere.run(block.__enter__)
    with no_grad():
        block.__exit__(None, None, None)
        assert not is_grad_enabled()
    assert is_grad_enabled()


def test_no_grad_is_for_one_thread():
    """Two threads are inside at once and leave in the order in which they came; a third one still records."""
    first_inside, second_inside, first_left = threading.Event(), threading.Event(), threading.Event()
    seen = []

    @no_grad()
    def inside(entered, wait_for):
        entered.set()
        assert wait_for.wait(10)
        seen.append(is_grad_enabled())

    def run(entered, wait_for, left):
        inside(entered, wait_for)
        seen.append(is_grad_enabled())
        left.set()

    threads = [
        threading.Thread(target=run, args=(first_inside, second_inside, first_left)),
        threading.Thread(target=run, args=(second_inside, first_left, threading.Event())),
    ]
    threads[0].start()
    assert first_inside.wait(10)
    threads[1].start()
    assert is_grad_enabled()
    for thread in threads:
        thread.join(10)
    assert seen == [False, True, False, True]


# What is refused


def test_a_graph_is_walked_once():
    x = leaf([1.0, 2.0])
    middle = x * 2
    y = middle.sum()
    y.backward()
    for again in (y, middle.sum()):
        with pytest.raises(RuntimeError, match="has been through this graph and released it"):
            again.backward()
    np.testing.assert_array_equal(x.grad, [2, 2])


def test_backward_needs_something_to_walk_and_a_gradient_that_fits():
    x = leaf(np.ones((2, 3)))
    with pytest.raises(RuntimeError, match="depends on nothing with requires_grad"):
        Tensor(1.0).backward()
    with pytest.raises(ValueError, match=r"needs one element, not an array \(2, 3\)"):
        (x * 2).backward()
    with pytest.raises(ValueError, match=r"the gradient has shape \(3,\), and the tensor \(2, 3\)"):
        (x * 2).backward(np.ones(3))
    assert x.grad is None


def test_an_operation_with_a_wrong_gradient_is_named():
    def wrong(*gradients):
        def operation(x):
            def backward(dy, needs):
                return gradients

            return Tensor.from_op(x.data * 2, (x,), backward)

        return operation(leaf(np.ones((2, 3)))).sum()

    named = r"backward of .*operation returned"
    with pytest.raises(
        RuntimeError, match=named + r" a gradient \(3,\) float64 for its input 0, which is \(2, 3\) float64"
    ):
        wrong(np.ones(3)).backward()
    with pytest.raises(RuntimeError, match=named + r" a gradient \(2, 3\) float32 for its input 0"):
        wrong(np.ones((2, 3), np.float32)).backward()
    with pytest.raises(RuntimeError, match=named + " 2 gradients for 1 inputs"):
        wrong(np.ones((2, 3)), np.ones((2, 3))).backward()
