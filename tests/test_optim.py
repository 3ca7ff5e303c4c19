"""AdamW against torch's and against its formulas."""

import numpy as np
import pytest
from helpers.tolerances import FLOAT32_EXTRA, FLOAT32_TIMES_TORCH, FLOAT64_VALUE

from npgpt import Tensor, optim
from npgpt.errors import ConfigError
from npgpt.optim import AdamW

# "a" to "d" are matrices, embeddings or stacks, which decay; the others have one dimension or none.
SHAPES = {"a.weight": (3, 5), "b.weight": (1, 4), "c": (2, 3, 2), "d": (200, 100), "bias": (5,), "scale": ()}
DECAYING = {"a.weight", "b.weight", "c", "d"}
SETTINGS = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.3}


def arrays(dtype, seed=0, shapes=SHAPES):
    """Numbers of all sizes from 1e-4 to 1e2, so that eps matters for some."""
    rng = np.random.default_rng(seed)
    return {
        name: np.asarray(rng.standard_normal(shape) * 10 ** rng.uniform(-4, 2, shape), dtype)
        for name, shape in shapes.items()
    }


def optimizer_of(dtype=np.float64, seed=0, **settings):
    parameters = {name: Tensor(array, requires_grad=True) for name, array in arrays(dtype, seed).items()}
    return AdamW(parameters.items(), **{**SETTINGS, **settings})


def give_gradients(optimizer, step):
    dtype = optimizer.parameters["bias"].dtype
    for name, gradient in arrays(dtype, seed=100 + step).items():
        optimizer.parameters[name].grad = gradient


def test_the_first_step_by_hand():
    """m / (1 - beta1) is the gradient g and v / (1 - beta2) is g^2, so a weight moves by lr g / (|g| + eps)."""
    p = {"w": Tensor(np.array([[2.0, -3.0]]), requires_grad=True), "b": Tensor(np.array([5.0]), requires_grad=True)}
    optimizer = AdamW(p.items(), lr=0.1, betas=(0.9, 0.99), eps=1.0, weight_decay=0.5)
    p["w"].grad, p["b"].grad = np.array([[4.0, -0.5]]), np.array([0.0])
    optimizer.step()
    np.testing.assert_allclose(p["w"].data, [[2 * 0.95 - 0.1 * 4 / 5, -3 * 0.95 + 0.1 * 0.5 / 1.5]], rtol=1e-15)
    assert p["b"].data == 5  # no gradient and, having one dimension, no decay


def test_the_defaults_are_torchs_but_for_the_learning_rate():
    torch = pytest.importorskip("torch", reason="compares with torch, which is not installed")
    theirs, ours = torch.optim.AdamW([torch.zeros(1)]).defaults, AdamW([])
    for name in ("betas", "eps", "weight_decay"):
        assert getattr(ours, name) == theirs[name], name
    assert ours.lr == 3e-4


STEPS = 25
RATES = 0.01 * np.random.default_rng(1).uniform(0.1, 2, STEPS)


def torch_steps(dtype):
    """-> {name: array} after all steps of torch's AdamW in float32 or float64, on numbers of float32."""
    torch = pytest.importorskip("torch", reason="compares with torch, which is not installed")
    parameters = {name: torch.from_numpy(array.astype(dtype)) for name, array in arrays(np.float32).items()}
    groups = [
        {"params": [p], "weight_decay": SETTINGS["weight_decay"] if name in DECAYING else 0.0}
        for name, p in parameters.items()
    ]
    optimizer = torch.optim.AdamW(groups, betas=SETTINGS["betas"], eps=SETTINGS["eps"])
    for step, rate in enumerate(RATES):
        for name, gradient in arrays(np.float32, seed=100 + step).items():
            parameters[name].grad = torch.from_numpy(gradient.astype(dtype))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    return {name: p.numpy() for name, p in parameters.items()}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_25_steps_against_torch(dtype):
    """The learning rate changes from step to step."""
    parameters = {name: Tensor(a.astype(dtype), requires_grad=True) for name, a in arrays(np.float32).items()}
    optimizer = AdamW(parameters.items(), **SETTINGS)
    for step, rate in enumerate(RATES):
        for name, gradient in arrays(np.float32, seed=100 + step).items():
            parameters[name].grad = gradient.astype(dtype)
        optimizer.lr = rate
        optimizer.step()
    expected, in_float32 = torch_steps(np.float64), torch_steps(np.float32)
    for name, p in parameters.items():
        error, largest = np.abs(p.data - expected[name]).max(), np.abs(expected[name]).max()
        if dtype == np.float64:
            assert error <= FLOAT64_VALUE * largest, name
        else:
            torchs_error = np.abs(in_float32[name] - expected[name]).max()
            assert error <= FLOAT32_TIMES_TORCH * torchs_error + FLOAT32_EXTRA * largest, name


def test_decay_is_for_matrices_only():
    """Without gradients that pull, a step is p (1 - lr weight_decay) where there is decay, and nothing elsewhere."""
    optimizer = optimizer_of()
    before = {name: p.data.copy() for name, p in optimizer.parameters.items()}
    for p in optimizer.parameters.values():
        p.grad = np.zeros_like(p.data)
    optimizer.step()
    for name, p in optimizer.parameters.items():
        kept = 1 - 0.01 * 0.3 if name in DECAYING else 1
        np.testing.assert_allclose(p.data, before[name] * kept, rtol=1e-15, err_msg=name)


def test_moments_are_for_what_trains_when_it_is_made():
    parameters = {name: Tensor(array, requires_grad=name != "d") for name, array in arrays(np.float64).items()}
    optimizer = AdamW(parameters.items())
    assert list(optimizer.parameters) == list(optimizer.exp_avg) == [name for name in SHAPES if name != "d"]


def test_a_parameter_that_trains_later_needs_a_new_optimizer():
    """Or it would silently stay as it is."""
    p = Tensor(np.ones(3))
    optimizer = AdamW([("p", p)])
    p.requires_grad = True
    with pytest.raises(ValueError, match="parameter p was frozen when this AdamW was made"):
        optimizer.step()
    assert optimizer.steps == 0


def test_freed_memory_is_kept_where_training_starts(monkeypatch):
    calls = []
    monkeypatch.setattr(optim, "keep_freed_memory", lambda: calls.append(1))
    AdamW([])
    assert calls == [1]


def test_a_parameter_without_a_gradient_is_left_alone():
    optimizer = optimizer_of()
    for step in range(2):
        give_gradients(optimizer, step)
        optimizer.step()
    give_gradients(optimizer, 2)
    optimizer.parameters["d"].grad = None
    p = optimizer.parameters["d"].data
    before = p.copy(), optimizer.exp_avg["d"].copy(), optimizer.exp_avg_sq["d"].copy()
    optimizer.step()
    for array, old in zip((p, optimizer.exp_avg["d"], optimizer.exp_avg_sq["d"]), before, strict=True):
        np.testing.assert_array_equal(array, old)


def test_parameters_are_changed_in_place_and_gradients_not_at_all():
    optimizer = optimizer_of()
    data = {name: p.data for name, p in optimizer.parameters.items()}
    give_gradients(optimizer, 0)
    optimizer.step()
    for name, gradient in arrays(np.float64, seed=100).items():
        p = optimizer.parameters[name]
        assert p.data is data[name]
        np.testing.assert_array_equal(p.grad, gradient)


def test_zero_grad_forgets_the_gradients():
    optimizer = optimizer_of()
    give_gradients(optimizer, 0)
    optimizer.zero_grad()
    assert all(p.grad is None for p in optimizer.parameters.values())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_loaded_state_goes_on_exactly_like_the_saved_one(dtype):
    unbroken, stopped = optimizer_of(dtype), optimizer_of(dtype)
    for step in range(6):
        give_gradients(unbroken, step)
        unbroken.step()
    for step in range(3):
        give_gradients(stopped, step)
        stopped.step()
    saved = {name: array.copy() for name, array in stopped.state_dict().items()}
    weights = {name: p.data.copy() for name, p in stopped.parameters.items()}

    resumed = AdamW(((name, Tensor(w, requires_grad=True)) for name, w in weights.items()), **SETTINGS)
    resumed.load_state_dict(saved, steps=3)
    for step in range(3, 6):
        give_gradients(resumed, step)
        resumed.step()
    assert resumed.steps == 6
    for name, p in unbroken.parameters.items():
        assert resumed.parameters[name].data.tobytes() == p.data.tobytes(), name
    for name, array in unbroken.state_dict().items():
        assert resumed.state_dict()[name].tobytes() == array.tobytes(), name


def test_the_state_is_named_after_the_parameters():
    optimizer = optimizer_of(np.float32)
    state = optimizer.state_dict()
    assert list(state) == [f"{kind}.{name}" for kind in ("exp_avg", "exp_avg_sq") for name in SHAPES]
    for name, p in optimizer.parameters.items():
        for array in (state[f"exp_avg.{name}"], state[f"exp_avg_sq.{name}"]):
            assert (array.shape, array.dtype) == (p.shape, p.dtype)
            assert not array.any()
    assert state["exp_avg.bias"] is optimizer.exp_avg["bias"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("exp_avg.bias"), "exp_avg.bias"),
        (lambda state: state.update({"exp_avg.other": np.ones(3)}), "exp_avg.other"),
        (lambda state: state.update({"exp_avg_sq.bias": np.ones((5, 1))}), r"exp_avg_sq.bias .*\(5, 1\).*\(5,\)"),
        (lambda state: state.update({"exp_avg_sq.bias": np.ones(())}), r"exp_avg_sq.bias .*\(\).*\(5,\)"),
        (
            lambda state: state.update({"exp_avg_sq.bias": np.ones(5, complex)}),
            "exp_avg_sq.bias must be floating-point",
        ),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change, message):
    optimizer = optimizer_of()
    state = {name: array + 1 for name, array in optimizer.state_dict().items()}
    change(state)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state, steps=7)
    with pytest.raises(ValueError, match="-1 steps"):
        optimizer.load_state_dict({name: array + 1 for name, array in optimizer.state_dict().items()}, steps=-1)
    assert optimizer.steps == 0
    assert not any(array.any() for array in optimizer.state_dict().values())


def test_what_no_step_can_be_made_of_changes_nothing():
    a, b = Tensor(np.ones((2, 3)), requires_grad=True), Tensor(np.ones((3, 2)).T, requires_grad=True)
    optimizer = AdamW([("a", a), ("b", b)], lr=0.1, lr_for={"b": 0.01})
    a.grad, b.grad = np.ones((2, 3)), np.ones((2, 3))
    with pytest.raises(ValueError, match="parameter b is not contiguous"):
        optimizer.step()
    b.data, b.grad = np.ones((2, 3)), np.ones(3)
    with pytest.raises(ValueError, match=r"parameter b is float64 \(2, 3\), and its gradient float64 \(3,\)"):
        optimizer.step()
    b.data, b.grad = np.ones((2, 2)), np.ones((2, 2))
    with pytest.raises(ValueError, match=r"parameter b is \(2, 2\), and was \(2, 3\)"):
        optimizer.step()
    assert (optimizer.steps, a.data.sum()) == (0, 6)


def test_what_an_optimizer_can_not_be_made_of():
    w = Tensor(np.ones((2, 3)), requires_grad=True)
    with pytest.raises(TypeError, match=r"AdamW\(model\.named_parameters\(\)\)"):
        AdamW([w])
    with pytest.raises(ConfigError, match="lr_for is relative to lr"):
        AdamW([("w", w)], lr=0.0, lr_for={"w": 0.1})


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": -1},
        {"lr": float("nan")},
        {"betas": (0.9, 1)},
        {"betas": (0.9,)},
        {"betas": (-0.1, 0.9)},
        {"eps": -1},
        {"weight_decay": -1},
        {"lr": float("inf")},
        {"weight_decay": float("inf")},
        {"lr_for": {"p": float("nan")}},
        {"lr_for": {"p": -1}},
    ],
)
def test_settings_that_can_not_be(wrong):
    with pytest.raises(ValueError, match="must be 0 or more"):
        AdamW([("p", Tensor([1.0], requires_grad=True))], **wrong)


@pytest.mark.parametrize("lr", [-1.0, float("nan"), float("inf")])
def test_a_rate_that_can_not_be_changes_nothing(lr):
    p = Tensor([1.0], requires_grad=True)
    optimizer = AdamW([("p", p)])
    p.grad, optimizer.lr = np.ones(1, np.float32), lr
    with pytest.raises(ValueError, match="lr must be 0 or more"):
        optimizer.step()
    assert (optimizer.steps, p.data) == (0, 1)


def test_parameters_of_one_name_or_two_dtypes_are_refused():
    a, b = Tensor([1.0], requires_grad=True), Tensor(np.zeros(1), requires_grad=True)
    with pytest.raises(ValueError, match="two parameters are named w"):
        AdamW([("w", a), ("v", a), ("w", a)])
    with pytest.raises(ValueError, match="a and b are one parameter, which would be changed twice"):
        AdamW([("a", a), ("b", a)])
    with pytest.raises(TypeError, match="one dtype"):
        AdamW([("a", a), ("b", b)])
    assert repr(AdamW([("a", a)], lr=0.01)) == "AdamW(1 parameters, lr=0.01)"
