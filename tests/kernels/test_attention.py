import numpy as np
import pytest
from helpers.arrays import dtypes, few, lay_out, seeds, small_sizes, values
from helpers.tolerances import rounding
from helpers.versions import Case, versions_agree
from hypothesis import strategies as st

from npgpt.kernels import KERNELS
from npgpt.kernels.dropout import keep_mask_numpy

FORWARD, BACKWARD = KERNELS["attention_forward"], KERNELS["attention_backward"]
LARGEST = 100.0  # of q's and k's elements: scores then reach 1e4


def weights(q, k, scale, padding_mask, row_max, row_sum):
    """P (B, H, Tq, Tk) by the definition."""
    seen = np.tri(q.shape[1], k.shape[1], k.shape[1] - q.shape[1], bool)[None, None]
    seen = seen if padding_mask is None else seen & padding_mask[:, None, None]
    S = scale * np.einsum("bihd,bjhd->bhij", q, k)
    e = np.exp(np.where(seen, S, 0) - np.where(seen, row_max[..., None], 0))
    return np.where(seen, e, 0) / row_sum[..., None]


@st.composite
def drawn(draw):
    """(dy, forward arguments): new queries after earlier keys; padding, also all that a query could see."""
    dtype, rng = draw(dtypes), np.random.default_rng(draw(seeds))
    B, H, D = draw(few), draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 3, 8, 17]))
    T = draw(st.sampled_from([1, 2, 3, 5, 8, 32, 33, 65, 0]) if B * H < 3 else small_sizes)
    Tk = T + draw(st.sampled_from([0, 0, 1, 6]))
    # All in one layout: Numba compiles the kernel for each combination of layouts. What is empty is always contiguous.
    layout = draw(st.sampled_from(["contiguous", "slice", "reversed"])) if B * T else "contiguous"
    q, k = (lay_out(draw(values((B, t, H, D), dtype, LARGEST)), layout) for t in (T, Tk))
    v = lay_out(draw(values((B, Tk, H, D), dtype)), layout)
    dy = lay_out(draw(values((B, T, H, D), dtype)), layout)
    padding_mask = draw(st.sampled_from([None, "some", "the last", "none"]))
    if padding_mask == "some":
        padding_mask = rng.random((B, Tk)) < 0.6
    elif padding_mask is not None:
        padding_mask = np.zeros((B, Tk), bool) | (np.arange(Tk) == (Tk - 1 if padding_mask == "the last" else Tk))
    scale = draw(st.sampled_from([D**-0.5, 0.01, -0.1]))
    return dy, (q, k, v, scale, padding_mask, draw(st.sampled_from([0.0, 0.0, 0.3])), draw(st.integers(0, 2**64 - 1)))


def backward_of(dy, forward):
    """The backward pass's arguments. What is written is laid out as q, k and v are: plain, or as slices."""
    q, k, v, scale, padding_mask, dropout, seed = forward
    _, row_max, row_sum = FORWARD["numpy"](*forward)
    layout = "slice" if q.strides[2] > q.strides[3] * q.shape[3] else "contiguous"
    dq, dk, dv = (lay_out(np.full(x.shape, np.nan, x.dtype), layout) for x in (q, k, v))
    return dy, q, k, v, row_max, row_sum, scale, dq, dk, dv, padding_mask, dropout, seed


def growth(q, k, scale):
    """A score of size S is off by u S, and its exponential by so much relatively. S <= scale |q| |k|."""
    norms = [np.sqrt(np.square(x).sum(axis=-1).max(initial=0)) for x in (q, k)]
    return 1 + 2 * abs(scale) * norms[0] * norms[1] + np.log(max(k.shape[1], 1))


def forward_bounds(q, k, v, scale, padding_mask, dropout, seed):
    _, row_max, row_sum = FORWARD["numpy"](q, k, v, scale, padding_mask, dropout, seed)
    size = growth(q, k, scale)
    P = weights(q, k, scale, padding_mask, row_max, row_sum) / (1 - dropout)
    y = (P @ np.abs(v).transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)
    return [(sum(k.shape[1::2]), magnitude * size) for magnitude in (y, np.ones_like(row_max), row_sum)]


def backward_bounds(dy, q, k, v, row_max, row_sum, scale, dq, dk, dv, padding_mask, dropout, seed):
    size = growth(q, k, scale)
    P = weights(q, k, scale, padding_mask, row_max, row_sum)
    M = keep_mask_numpy(P.shape, dropout, seed) / (1 - dropout)
    dy, q, k, v = (np.abs(x).transpose(0, 2, 1, 3) for x in (dy, q, k, v))
    dP = dy @ v.swapaxes(-1, -2) * M
    dS = P * (dP + (dP * P).sum(axis=-1, keepdims=True)) * abs(scale)
    magnitudes = dS @ k, dS.swapaxes(-1, -2) @ q, (P * M).swapaxes(-1, -2) @ dy
    return [(sum(k.shape[-2:]), size * m.transpose(0, 2, 1, 3)) for m in magnitudes]


def large_forward(rng, dtype, B=2, T=131, H=3, D=8):
    qkv = rng.standard_normal((B, T, 3, H, D)).astype(dtype)
    padding_mask = np.arange(T) >= np.array([[0], [5]])
    return *(qkv[:, :, i] for i in range(3)), D**-0.5, padding_mask, 0.2, 7


def large_backward(rng, dtype):
    arguments = large_forward(rng, dtype)
    return backward_of(rng.standard_normal(arguments[0].shape).astype(dtype), arguments)


CASES = {
    "attention_forward": Case(drawn().map(lambda d: d[1]), large_forward, forward_bounds, nan_somewhere=(0, 1)),
    "attention_backward": Case(
        drawn().map(lambda d: backward_of(*d)),
        large_backward,
        backward_bounds,
        writes=(7, 8, 9),
        nan_somewhere=(0, 1, 2),
    ),
}


def example(dtype, T=70, seed=0):
    """q, k, v (2, T, 3, 4)"""
    return [np.random.default_rng([seed, i]).standard_normal((2, T, 3, 4)).astype(dtype) for i in range(3)]


# nan_somewhere: 0 times NaN is NaN, and how many hidden keys are multiplied by their weight of 0 is up to a version.

each_version = pytest.mark.parametrize("attention", FORWARD.values(), ids=FORWARD)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@each_dtype
@pytest.mark.parametrize("T", [1, 1024])
def test_the_shortest_and_the_longest_text(dtype, T):
    rng = np.random.default_rng(0)
    forward = large_forward(rng, dtype, B=2, T=T, H=1, D=4)
    dy = rng.standard_normal(forward[0].shape).astype(dtype)
    versions_agree("attention_forward", CASES["attention_forward"], forward)
    versions_agree("attention_backward", CASES["attention_backward"], backward_of(dy, forward))


def test_heads_that_are_wider_than_a_block_of_a_product():
    """800 products to add up, in blocks of 768, and several blocks of queries."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, T, 1, 800)).astype(np.float32) for T in (70, 72, 72))
    forward = q, k, v, 800**-0.5, None, 0.0, 0
    versions_agree("attention_forward", CASES["attention_forward"], forward)
    dy = rng.standard_normal(q.shape).astype(np.float32)
    versions_agree("attention_backward", CASES["attention_backward"], backward_of(dy, forward))


@each_version
@each_dtype
def test_by_hand(attention, dtype):
    """Two positions: the second weighs two equal scores, then the first twice as much."""
    v = np.array([3, 9], dtype).reshape(1, 2, 1, 1)
    q = np.ones((1, 2, 1, 1), dtype)
    y, row_max, row_sum = attention(q, np.zeros_like(q), v, 1.0)
    np.testing.assert_allclose(y.ravel(), [3, 6], rtol=rounding(dtype, 2))
    assert (row_max.ravel().tolist(), row_sum.ravel().tolist()) == ([0, 0], [1, 2])
    k = np.array([np.log(2), 0], dtype).reshape(1, 2, 1, 1)
    np.testing.assert_allclose(attention(q, k, v, 1.0)[0].ravel(), [3, 5], rtol=rounding(dtype, 2))


@each_version
@each_dtype
def test_what_comes_later_changes_nothing(attention, dtype):
    """Bit for bit, and wherever the cut falls relative to the blocks of 64."""
    q, k, v = example(dtype)
    before, *_ = attention(q, k, v, 0.5)
    for cut in (1, 63, 64, 69):
        for x, other in zip((q, k, v), example(dtype, seed=1), strict=True):
            x[:, cut:] = other[:, cut:] * 50
        np.testing.assert_array_equal(attention(q, k, v, 0.5)[0][:, :cut], before[:, :cut])
        q, k, v = example(dtype)


@each_version
@each_dtype
def test_new_queries_get_what_they_would_get_among_all(attention, dtype):
    """With a cache of keys and values only the last queries are computed: one, some, or more than a block."""
    q, k, v = example(dtype)
    whole, *_ = attention(q, k, v, 0.5)
    for new in (1, 5, 66):
        # weighted means of normal numbers: at most about 4
        np.testing.assert_allclose(
            attention(q[:, -new:], k, v, 0.5)[0], whole[:, -new:], rtol=0, atol=4 * rounding(dtype, 70)
        )


@each_version
@each_dtype
def test_padding_is_as_if_it_were_not_there(attention, dtype):
    q, k, v = example(dtype)
    padding_mask = np.random.default_rng(3).random(70) < 0.7
    y, *_ = attention(q, k, v, 0.5, np.stack([padding_mask, np.ones(70, bool)]))
    np.testing.assert_allclose(
        y[0, padding_mask],
        attention(*(x[:1, padding_mask] for x in (q, k, v)), 0.5)[0][0],
        rtol=0,
        atol=4 * rounding(dtype, 70),
    )
    np.testing.assert_allclose(y[1], attention(q, k, v, 0.5)[0][1], rtol=0, atol=4 * rounding(dtype, 70))


@each_version
@each_dtype
def test_a_query_that_sees_nothing_gives_zeros_and_gets_zeros(attention, dtype):
    q, k, v = example(dtype)
    padding_mask = np.ones((2, 70), bool)
    padding_mask[0, :66] = False
    y, row_max, row_sum = attention(q, k, v, 0.5, padding_mask)
    np.testing.assert_array_equal(y[0, :66], 0)
    np.testing.assert_array_equal(row_max[0, :, :66], 0)
    np.testing.assert_array_equal(row_sum[0, :, :66], 1)
    assert np.all(y[0, 66:] != 0)
    for backward in BACKWARD.values():
        dq, dk, dv = (np.full_like(q, np.nan) for _ in range(3))
        backward(np.ones_like(q), q, k, v, row_max, row_sum, 0.5, dq, dk, dv, padding_mask)
        for d in (dq, dk, dv):
            np.testing.assert_array_equal(d[0, :66], 0)
            assert np.isfinite(d).all()


@pytest.mark.parametrize("version", FORWARD)
@each_dtype
def test_a_single_position_takes_its_own_value(version, dtype):
    """Whatever its score, its weight is 1, and it has no gradient."""
    q, k, v = example(dtype, T=1)
    dy = np.ones_like(q)
    for size in (0, 1, 1e2, 1e4):
        q_large = q * dtype(size)
        y, row_max, row_sum = FORWARD[version](q_large, k, v, 0.3)
        np.testing.assert_array_equal(y, v)
        dq, dk, dv = (np.full_like(q, np.nan) for _ in range(3))
        BACKWARD[version](dy, q_large, k, v, row_max, row_sum, 0.3, dq, dk, dv)
        np.testing.assert_array_equal(dv, dy)
        np.testing.assert_array_equal(dq, 0)
        np.testing.assert_array_equal(dk, 0)


@each_version
def test_dropped_weights_are_those_of_the_mask(attention):
    """With values that are a row of the identity, y is the weights themselves."""
    T, p, seed = 70, 0.4, 11
    q = np.zeros((2, T, 3, T))
    v = np.broadcast_to(np.eye(T)[None, :, None], q.shape)
    y, *_ = attention(q, q, v, 1.0, None, p, seed)
    keep = keep_mask_numpy((2, 3, T, T), p, seed)
    even = np.tril(np.ones((T, T))) / np.arange(1, T + 1)[:, None]  # equal scores, equal weights
    np.testing.assert_allclose(y.transpose(0, 2, 1, 3), even * keep / (1 - p), rtol=rounding(np.float64, T))


@each_version
@each_dtype
@pytest.mark.parametrize("special", [np.nan, np.inf])
@pytest.mark.parametrize("damaged", ["q", "k", "v"])
@pytest.mark.filterwarnings("ignore:invalid value")  # that is the subject
def test_not_a_number_comes_out_wherever_it_is_seen(attention, dtype, special, damaged):
    for at in (3, 66):
        q, k, v = (np.abs(x) for x in example(dtype))  # so that an infinite score is not -inf, which is a mask
        {"q": q, "k": k, "v": v}[damaged][1, at, 2, 1] = special
        y, row_max, row_sum = attention(q, k, v, 0.5)
        seen_by = slice(at, at + 1) if damaged == "q" else slice(at, None)
        assert not np.isfinite(y[1, seen_by, 2]).all(axis=-1).any()
        assert np.isfinite(y[0]).all()
        assert np.isfinite(y[1][:, :2]).all()
        for backward in BACKWARD.values():
            dq, dk, dv = (np.zeros_like(q) for _ in range(3))
            backward(np.ones_like(q), q, k, v, row_max, row_sum, 0.5, dq, dk, dv)
            assert not np.isfinite(dq[1, seen_by, 2]).all(axis=-1).any()
            assert not np.isfinite(dk[1, : at + 1, 2]).all(axis=-1).any()


@each_version
@each_dtype
def test_not_a_number_in_a_padded_score_is_hidden(attention, dtype):
    q, k, v = example(dtype)
    padding_mask = np.ones((2, 70), bool)
    padding_mask[1, 5] = False
    right, *_ = attention(q, k, v, 0.5, padding_mask)
    k[1, 5] = np.nan
    np.testing.assert_array_equal(
        np.delete(attention(q, k, v, 0.5, padding_mask)[0], 5, axis=1), np.delete(right, 5, axis=1)
    )


@each_version
@each_dtype
def test_not_a_number_in_a_later_score_is_hidden(attention, dtype):
    q, k, v = example(dtype)
    right, *_ = attention(q, k, v, 0.5)
    for at in (69, 64, 63, 1):
        k[:, at] = np.nan
        np.testing.assert_array_equal(attention(q, k, v, 0.5)[0][:, :at], right[:, :at])


@pytest.mark.parametrize("version", FORWARD)
@pytest.mark.filterwarnings("ignore:invalid value")  # that is the subject
def test_hidden_scores_have_no_gradient_even_where_all_others_are_not_a_number(version):
    """Every query from 3 on has NaN weights; the padded keys still get nothing through them."""
    q, k, v = example(np.float64)
    padding_mask = np.ones((2, 70), bool)
    padding_mask[:, [1, 30, 65]] = False
    k[:, 3] = np.nan
    y, row_max, row_sum = FORWARD[version](q, k, v, 0.5, padding_mask)
    assert np.isnan(y[:, 3:]).all()
    dq, dk, dv = (np.full_like(q, np.nan) for _ in range(3))
    BACKWARD[version](np.ones_like(q), q, k, v, row_max, row_sum, 0.5, dq, dk, dv, padding_mask)
    np.testing.assert_array_equal(dk[:, ~padding_mask[0]], 0)
    assert np.isnan(dk[:, 4]).all()
