"""What the model says of a token."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from npgpt.generation import filters, token_logprobs

logits = st.lists(st.floats(-8, 8, width=32) | st.sampled_from([0.0, 1.0]), min_size=9, max_size=12)


@given(logits, st.integers(0, 8), st.integers(0, 14))
def test_logprobs_are_the_models_own_and_the_likeliest_come_first(row, id, top):
    row = np.array(row, np.float32)
    expected = filters.log_softmax(row)
    found = token_logprobs(row, np.int64(id), top)
    assert (found.id, found.logprob) == (id, expected[id])
    order = sorted(range(len(row)), key=lambda i: (-expected[i], i))[:top]
    assert found.top == tuple((i, expected[i]) for i in order)
    assert {type(x) for x in (found.id, *(i for i, _ in found.top))} == {int}  # JSON can hold them
    assert {type(x) for x in (found.logprob, *(x for _, x in found.top))} == {float}


def test_a_token_that_cannot_come():
    assert token_logprobs(np.array([0.0, -np.inf]), 1, top=2).logprob == -np.inf
    assert token_logprobs(np.array([0.0, -np.inf]), 1, top=2).top == ((0, 0.0),)
