"""The derivations are true: their formulas, written as plain NumPy (helpers/formulas.py), against central differences.

Three things are tested of each operation: the docstrings contain the formulas, the backward pass is the slope of the
forward pass, and the operation computes the same. After that come the steps between, each ∂y/∂x, and what is concluded.
"""

import math
from importlib import import_module

import numpy as np
import pytest
from helpers.formulas import (
    DERIVATIONS,
    EPS,
    SEED,
    P,
    Phi,
    layernorm_backward,
    mean,
    phi,
    probabilities,
    rstd,
    s,
    u,
    xhat,
)
from helpers.tolerances import CENTRAL_DIFFERENCE, CENTRAL_DIFFERENCE_STEP, FLOAT64_GRADIENT, FLOAT64_VALUE

from npgpt import Tensor, ops
from npgpt.gradcheck import gradcheck
from npgpt.kernels import adamw, cross_entropy, gelu, layernorm, softmax

each_derivation = pytest.mark.parametrize("derivation", DERIVATIONS.values(), ids=DERIVATIONS)


def values(*shapes):
    rng = np.random.default_rng(0)
    return [rng.uniform(0.5, 2, shape) * rng.choice([-1.0, 1.0], shape) for shape in shapes]


def quoted(formula, doc):
    """Whether the docstring has the formula, with any spaces between its words."""
    return " ".join(formula.split()) in " ".join(doc.__doc__.split())


def test_every_operation_has_a_derivation():
    assert set(ops.__all__) <= DERIVATIONS.keys()


@each_derivation
def test_the_docstrings_have_the_formulas(derivation):
    assert all(quoted(formula, doc) for formula in derivation.formulas for doc in derivation.docs)


@each_derivation
def test_the_formula_is_the_slope(derivation):
    def written_out(*inputs):
        arrays = [x.data for x in inputs]
        y = np.asarray(derivation.forward(*arrays))
        return Tensor.from_op(y, inputs, lambda dy, needs: derivation.backward(dy, *arrays))

    report = gradcheck(written_out, values(*derivation.shapes))
    assert report.ok, report


@each_derivation
def test_the_operation_computes_the_formula(derivation):
    arrays = values(*derivation.shapes)
    inputs = [Tensor(x, requires_grad=True) for x in arrays]
    y = derivation.operation(*inputs)
    np.testing.assert_allclose(y.data, derivation.forward(*arrays), rtol=0, atol=4 * FLOAT64_VALUE)
    (dy,) = values(y.shape)
    y.backward(dy)
    for x, dx in zip(inputs, derivation.backward(dy, *arrays), strict=True):
        np.testing.assert_allclose(x.grad, dx, rtol=0, atol=FLOAT64_GRADIENT)


# The steps of the derivations: each line with ∂, for one row x


def jacobian(f, x):
    """J_jk = ∂f_j/∂x_k by central differences"""
    h = CENTRAL_DIFFERENCE_STEP
    return np.stack([(f(x + h * e) - f(x - h * e)) / (2 * h) for e in np.eye(len(x))], axis=-1)


def test_each_partial_derivative():
    (x,) = values((6,))
    C, one, y = 6, np.eye(6), probabilities(x)
    c, xh, r = x - mean(x), xhat(x), rstd(x)
    t = 2
    steps = [
        (softmax, "∂e_j/∂x_k = 1[j = k] e_k", np.exp, one * np.exp(x)),
        (softmax, "∂z/∂x_k = e_k", lambda x: np.exp(x).sum(), np.exp(x)),
        (
            softmax,
            "∂y_j/∂x_k = (1[j = k] e_k z - e_j e_k) / z^2 = y_k (1[j = k] - y_j)",
            probabilities,
            y * (one - y[:, None]),
        ),
        (
            cross_entropy,
            "∂(log sum_k exp(x_nk))/∂x_nj = exp(x_nj) / sum_k exp(x_nk)",
            lambda x: np.log(np.exp(x).sum()),
            y,
        ),
        (cross_entropy, "∂(x_n[t_n])/∂x_nj = 1[j = t_n]", lambda x: x[t], one[t]),
        (layernorm, "∂c_j/∂x_k = 1[j = k] - 1/C", lambda x: x - mean(x), one - 1 / C),
        (layernorm, "= (2/C) sum_j c_j (1[j = k] - 1/C) = (2/C) c_k", lambda x: mean((x - mean(x)) ** 2)[0], 2 / C * c),
        (layernorm, "= -rstd^3 c_k / C = -rstd^2 xhat_k / C", lambda x: rstd(x)[0], -(r**2) * xh / C),
        (layernorm, "= rstd (1[j = k] - 1/C - xhat_j xhat_k / C)", xhat, r * (one - 1 / C - np.outer(xh, xh) / C)),
        (gelu, "∂Phi/∂x = phi(x)", Phi, one * phi(x)),
        (gelu, "∂s/∂x = 2 s (1 - s) ∂u/∂x", s, one * 2 * s(x) * (1 - s(x)) * np.diag(jacobian(u, x))),
    ]
    for doc, formula, f, expected in steps:
        assert quoted(formula, doc), formula
        np.testing.assert_allclose(jacobian(f, x), expected, rtol=0, atol=CENTRAL_DIFFERENCE, err_msg=formula)


# What the docstrings conclude


def test_what_can_not_change_the_result_has_no_gradient():
    """The same number added to all of x; in a layer norm without eps, a stretched x - mean."""
    x, dy, weight = values((3, 5), (3, 5), (5,))
    for dx in (DERIVATIONS["softmax"].backward(dy, x)[0], layernorm_backward(dy, x, weight, None)[0]):
        np.testing.assert_allclose(dx.sum(axis=1), 0, rtol=0, atol=FLOAT64_VALUE)
    along_xhat = [(layernorm_backward(dy, x, weight, None, eps)[0] * xhat(x, eps)).sum(axis=1) for eps in (0, EPS)]
    np.testing.assert_allclose(along_xhat[0], 0, rtol=0, atol=FLOAT64_VALUE)
    assert (np.abs(along_xhat[1]) > 1e-3).all()


def test_dropout_keeps_the_expectation():
    assert quoted("E[y_i] = (1 - p) x_i / (1 - p) + p 0 = x_i", import_module("npgpt.kernels.dropout"))
    n = 100_000
    y = ops.dropout(Tensor(np.full(n, 3.0)), P, SEED).data
    assert set(y.round(9)) == {0, 5}
    assert abs(y.mean() - 3) < 5 * y.std() / math.sqrt(n)


def test_rotary_scores_depend_on_contents_and_on_the_difference_of_positions():
    q, k = values((4,), (4,))

    def score(q, k, i, j):
        def at(x, position):
            qkv = np.concatenate([x, x, x])[None, None]
            return ops.rotary(Tensor(qkv), n_head=1, first=position).data[0, 0, :4]

        return at(q, i) @ at(k, j)

    assert score(q, k, 2, 7) == pytest.approx(score(q, k, 102, 107), abs=FLOAT64_GRADIENT)
    for other in (score(q, k, 2, 8), score(k, q, 2, 7), score(2 * q, k, 2, 7)):
        assert abs(score(q, k, 2, 7) - other) > 0.01


def test_adamw_divides_by_the_sum_of_the_weights():
    assert quoted("m = (1 - beta1) (g_t + beta1 g_{t-1} + ... + beta1^(t-1) g_1)", adamw)
    beta1, beta2, lr, gradients = 0.9, 0.99, 0.1, values((7, 3))[0]
    p, m, v = (np.zeros(3) for _ in range(3))
    for t, g in enumerate(gradients, 1):
        adamw.adamw_step_numpy([p], [g], [m], [v], lr, beta1, beta2, 1e-8, [0.0], t)
    weights = (1 - beta1) * beta1 ** np.arange(7)[::-1]
    np.testing.assert_allclose(m, weights @ gradients, rtol=0, atol=FLOAT64_VALUE)
    assert weights.sum() == pytest.approx(1 - beta1**7)
    for size in (1e-3, 1e3):  # the same gradient at each step
        p, m, v = (np.zeros(3) for _ in range(3))
        for t in range(1, 4):
            adamw.adamw_step_numpy([p], [np.full(3, size)], [m], [v], lr, beta1, beta2, 1e-8, [0.0], t)
            np.testing.assert_allclose(p, -lr * t, rtol=1e-4)
