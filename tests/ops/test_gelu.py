import pytest
from helpers.against_torch import check, check_stored, requires_torch, stored_cases
from helpers.arrays import normal, shapes
from hypothesis import given


@pytest.mark.parametrize("case", stored_cases("gelu") + stored_cases("gelu_tanh"))
def test_stored(case):
    check_stored(case)


@requires_torch
@pytest.mark.parametrize("name", ["gelu", "gelu_tanh"])
@given(shapes.flatmap(normal))
def test_against_torch(name, x):
    check(name, {"x": x})
