import numpy as np
import pytest
from helpers.arrays import arrays, dtypes, leading, sizes, values
from helpers.tolerances import rounding
from helpers.versions import Case
from hypothesis import strategies as st

from npgpt.kernels import KERNELS
from npgpt.kernels.machine.addresses import CHUNK_SIZE

VERSIONS = KERNELS["adamw_step"]


@st.composite
def arguments(draw):
    dtype, shape = draw(dtypes), (*draw(leading), draw(sizes))
    p, m = (draw(values(shape, dtype, largest=10.0)) for _ in range(2))
    v = np.square(draw(values(shape, dtype, largest=10.0)))
    lr, beta1, beta2 = draw(st.sampled_from([(1e-3, 0.9, 0.95), (0.1, 0.9, 0.999), (0.0, 0.0, 0.5)]))
    weight_decay, t = draw(st.sampled_from([0.0, 0.1])), draw(st.sampled_from([1, 2, 10, 100_000]))
    gradient_scale = draw(st.sampled_from([1.0, 0.3]))
    return p, draw(arrays(shape, dtype, largest=10.0)), m, v, lr, beta1, beta2, 1e-8, weight_decay, t, gradient_scale


def bounds(p, g, m, v, lr, beta1, beta2, eps, weight_decay, t, gradient_scale):
    """m and the change of p may cancel, so their terms count; v can't."""
    g = gradient_scale * g
    m = beta1 * np.abs(m) + (1 - beta1) * np.abs(g)
    v = beta2 * v + (1 - beta2) * np.square(g)
    change = lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
    return [(1, np.abs(p) + change), (1, m), (1, v)]


def large(rng, dtype):
    p, g, m, v = (rng.standard_normal((3, 20_000)).astype(dtype) for _ in range(4))
    return p, g, m, np.square(v), 1e-3, 0.9, 0.95, 1e-8, 0.1, 3, 0.5


CASES = {"adamw_step": Case(arguments(), large, bounds, writes=(0, 2, 3), lists=(0, 1, 2, 3, 8))}

each_version = pytest.mark.parametrize("step", VERSIONS.values(), ids=VERSIONS)


@each_version
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_two_steps_by_hand(step, dtype):
    """With the same gradient twice, the means are the gradient and its square, so each step is lr, against its sign."""
    p, m, v = np.array([1, 1, 1], dtype), np.zeros(3, dtype), np.zeros(3, dtype)
    g = np.array([4, -4, 0], dtype)
    for t in (1, 2):
        step([p], [g], [m], [v], 0.25, 0.5, 0.75, 1e-30, [0.5], t)
    # p: decay by 1 - 0.25 * 0.5 = 7/8, then -+ 1/4, twice
    right = [(7 / 8 - 1 / 4) * 7 / 8 - 1 / 4, (7 / 8 + 1 / 4) * 7 / 8 + 1 / 4, 49 / 64]
    np.testing.assert_allclose(p, right, rtol=rounding(dtype))
    np.testing.assert_allclose(m, [3, -3, 0], rtol=rounding(dtype))
    np.testing.assert_allclose(v, [7, 7, 0], rtol=rounding(dtype))


@each_version
def test_eps_is_added_after_the_root_and_the_correction(step):
    p, m, v = np.zeros(1), np.zeros(1), np.zeros(1)
    step([p], [np.array([2.0])], [m], [v], 1.0, 0.9, 0.99, 6.0, [0.0], 1)
    np.testing.assert_allclose(p, [-2 / (2 + 6)], rtol=rounding(np.float64))


@each_version
def test_a_parameter_that_is_a_view_is_changed_or_refused_and_never_left(step):
    """The compiled step needs its arrays in one piece; a copy would take the change with it."""
    whole = np.ones((4, 6))
    p, m, v = whole[:, ::2], np.zeros((4, 3)), np.zeros((4, 3))
    try:
        step([p], [np.ones((4, 3))], [m], [v], 0.1, 0.9, 0.95, 1e-8, [0.0], 1)
    except ValueError:
        assert step is VERSIONS["numba"]
    else:
        np.testing.assert_allclose(p, 0.9, rtol=1e-7)  # eps = 1e-8 takes off that much of a step


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_many_parameters_at_once_are_as_each_by_itself(dtype):
    """Of all sizes, some of several chunks, some of none, each with its own decay."""
    shapes = [(3, 7), (), (5,), (0, 4), (CHUNK_SIZE,), (CHUNK_SIZE + 1,), (2, CHUNK_SIZE - 3), (1, 1)]
    decays = [0.1 * i for i in range(len(shapes))]
    settings = 0.01, 0.9, 0.95, 1e-8
    rng = np.random.default_rng(0)
    one, together = ([], [], [], []), ([], [], [], [])
    for shape in shapes:
        for i in range(4):
            x = np.asarray(rng.standard_normal(shape), dtype)
            one[i].append(np.asarray(np.square(x)) if i == 3 else x)
            together[i].append(one[i][-1].copy())
    VERSIONS["numba"](*together, *settings, decays, 3)
    for p, g, m, v, decay in zip(*one, decays, strict=True):
        VERSIONS["numba"]([p], [g], [m], [v], *settings, [decay], 3)
    for alone, with_others in zip(one, together, strict=True):
        for x, y in zip(alone, with_others, strict=True):
            np.testing.assert_array_equal(x, y)


def test_what_does_not_belong_together_is_refused():
    p, other = np.ones(4), np.ones(5)
    with pytest.raises(ValueError, match="beside"):
        VERSIONS["numba"]([p], [other], [p], [p], 0.1, 0.9, 0.95, 1e-8, [0.0], 1)
    with pytest.raises(ValueError, match="beside"):
        VERSIONS["numba"]([p], [p], [p], [p.astype(np.float32)], 0.1, 0.9, 0.95, 1e-8, [0.0], 1)


@each_version
def test_nothing_to_do(step):
    assert step([], [], [], [], 0.1, 0.9, 0.95, 1e-8, [], 1) is None
