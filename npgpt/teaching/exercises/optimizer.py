"""A step of AdamW, and its state in a resume."""

import pickle
from functools import partial

import numpy as np

from npgpt import kernels
from npgpt.optim import AdamW
from npgpt.teaching.exercises.exercise import Case, Exercise, Mistake, NotAnAnswer
from npgpt.teaching.exercises.values import values
from npgpt.tensor import Tensor

# AdamW


def _package_adamw(p, g, m, v, lr, beta1, beta2, eps, weight_decay, t):
    p, m, v = p.copy(), m.copy(), v.copy()
    kernels.adamw_step([p], [g], [m], [v], lr, beta1, beta2, eps, [weight_decay], t)
    return p, m, v


def _adamw(
    p, g, m, v, lr, beta1, beta2, eps, weight_decay, t,
    correct=True, one_beta=False, power=2, inside=False, late=0, l2=False, decay_last=False,
):  # fmt: skip
    g = g + weight_decay * p if l2 else g
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * np.abs(g) ** power
    t = t + late
    m_hat, v_hat = (m / (1 - beta1**t), v / (1 - (beta1 if one_beta else beta2) ** t)) if correct else (m, v)
    step = lr * m_hat / (np.sqrt(v_hat + eps) if inside else np.sqrt(v_hat) + eps)
    decay = 0 if l2 else lr * weight_decay * (p - step if decay_last else p)
    return p - decay - step, m, v


def _decay_without_lr(p, g, m, v, lr, beta1, beta2, eps, weight_decay, t):
    right, m, v = _adamw(p, g, m, v, lr, beta1, beta2, eps, weight_decay, t)
    return right - lr * weight_decay * p * (1 / lr - 1), m, v


def _replaced(p, g, m, v, lr, beta1, beta2, eps, weight_decay, t):
    return None, (1 - beta1) * m + beta1 * g, (1 - beta2) * v + beta2 * g**2


def _adamw_case(t, weight_decay=0.0, seed=0, shape=(3, 2)):
    old = 0.0 if t == 1 else 1.0
    return {
        "p": values(*shape, seed=seed), "g": values(*shape, seed=seed + 1), "m": old * values(*shape, seed=seed + 2),
        "v": old * values(*shape, seed=seed + 3) ** 2, "lr": 0.1, "beta1": 0.9, "beta2": 0.95, "eps": 0.01,
        "weight_decay": weight_decay, "t": t,
    }  # fmt: skip


ADAMW = Exercise(
    name="adamw",
    title="A step of AdamW, with its bias correction.",
    task="""
    m = beta1 m + (1 - beta1) g         running mean of the gradient
    v = beta2 v + (1 - beta2) g^2       running mean of its square
    p = p - lr weight_decay p
    p = p - lr mhat / (sqrt(vhat) + eps)

m and v start at 0. So after t steps their weights don't add up to 1, but to
1 - beta^t (to which beta?). mhat and vhat are m and v with this put right.
t is the number of this step, from 1. Return new arrays.
""",
    read="docs/course/08-training.md, npgpt/kernels/adamw.py (after you tried)",
    signature="adamw_step(p, g, m, v, lr, beta1, beta2, eps, weight_decay, t)",
    gives="p, g, m, v, arrays of one shape; the others are numbers -> p, m, v",
    outputs=("p", "m", "v"),
    reference=_package_adamw,
    cases=(
        Case("the first step", _adamw_case(1)),
        Case("step 3", _adamw_case(3, seed=5)),
        Case("step 3, with weight decay", _adamw_case(3, weight_decay=0.2)),
        Case("all gradients are 0", {**_adamw_case(1), "g": np.zeros((3, 2))}),
    ),
    mistakes=(
        Mistake(
            partial(_adamw, correct=False),
            "The bias correction is missing. After the first step, m = (1 - beta1) g. By what is it divided to give g?",
        ),
        Mistake(
            partial(_adamw, late=1),
            "The correction is off by one step. After the first step, m = (1 - beta1) g. By what is it divided to give "
            "g? t is 1 then.",
        ),
        Mistake(
            partial(_adamw, one_beta=True),
            "mhat is right, and vhat isn't: with which beta was v made, and so to what do its weights add up?",
        ),
        Mistake(
            partial(_adamw, inside=True),
            "eps is added to the root, and not inside it.",
        ),
        Mistake(partial(_adamw, power=1), "v is a mean of squares. What is the square root of it for then?"),
        Mistake(
            _decay_without_lr,
            "By what is the weight decay multiplied, if the learning rate falls to 0?",
        ),
        Mistake(
            partial(_adamw, l2=True),
            "The decay doesn't go through m and v: that is the W in AdamW. Leave the gradient as it is.",
        ),
        Mistake(
            lambda p, g, m, v, lr, b1, b2, eps, decay, t: _adamw(p, g, m, v, lr, b1, b2, eps, 0.0, t),
            "The weight decay is missing: a part lr weight_decay of p goes away.",
        ),
        Mistake(
            partial(_adamw, decay_last=True),
            "The decay is a part of p as it was before the step: it comes before the step along mhat.",
        ),
        Mistake(_replaced, "The old mean is multiplied by beta, and the new gradient by 1 - beta."),
        Mistake(
            lambda p, g, m, v, *a: (None, m + g, v + g**2),
            "These are sums, or mhat and vhat. A running mean forgets: its old value is multiplied by beta. Return m "
            "and v without the correction, since the next step goes on from them.",
        ),
    ),
)

# Resume

_LR, _BETAS, _EPS = 0.1, (0.9, 0.95), 1e-8


def _package_train(p, gradients, state):
    parameter = Tensor(p.copy(), requires_grad=True)
    optimizer = AdamW([("p", parameter)], lr=_LR, betas=_BETAS, eps=_EPS, weight_decay=0.0)
    if state is not None:
        optimizer.load_state_dict(state["arrays"], state["steps"])
    for g in gradients:
        parameter.grad = g
        optimizer.step()
    return parameter.data, {"arrays": optimizer.state_dict(), "steps": optimizer.steps}


def _train(keep):
    """train() whose state goes through ``keep`` before it is returned."""

    def train(p, gradients, state):
        m, v, t = state or (np.zeros_like(p), np.zeros_like(p), 0)
        for g in gradients:
            t += 1
            p, m, v = _adamw(p, g, m, v, _LR, *_BETAS, _EPS, 0.0, t)
        return p, keep(m, v, t)

    return train


def _drive(train, p, gradients, stops):
    """Train in parts, from stop to stop. The state is written and read between.

    Another run is trained after each part: what an answer keeps outside of the state is lost.
    """
    state, other = None, -p
    for begin, end in zip([0, *stops], [*stops, len(gradients)], strict=True):
        answer = train(p, [g.copy() for g in gradients[begin:end]], state)
        train(other, [2 * g for g in gradients[:1]], None)
        if not isinstance(answer, tuple | list) or len(answer) != 2:
            raise NotAnAnswer("train must return two things, p and the state")
        p, state = answer[0], _written_and_read(answer[1])
    return p


def _written_and_read(state):
    try:
        return pickle.loads(pickle.dumps(state))
    except (pickle.PicklingError, AttributeError, TypeError):
        raise NotAnAnswer("the state can't be written to a file: let it hold arrays and numbers") from None


_TRAINED = {"p": values(4), "gradients": list(values(6, 4, seed=1))}

RESUME = Exercise(
    name="adam_resume",
    title="Adam's state in a resume.",
    task="""
train() does a step of Adam for each gradient of a list. It is stopped and
called again, and must go on as if nothing had been: p comes out the same.

    state       None in the first call, later what the call before returned.
                You decide what it holds; arrays and numbers, so that it can be
                written to a file

Use lr = 0.1, beta1 = 0.9, beta2 = 0.95, eps = 1e-8 and no weight decay, with
the formulas of the exercise ``adamw``. What does the next step need besides p?
""",
    read="npgpt/optim.py: state_dict and load_state_dict (after you tried)",
    signature="train(p, gradients, state)",
    gives="p, an array; gradients, a list of arrays of its shape; state -> p, state: both as they are after the steps",
    outputs=("p",),
    reference=_package_train,
    drive=_drive,
    cases=(
        Case("6 steps in one go", {**_TRAINED, "stops": []}),
        Case("stopped after step 2", {**_TRAINED, "stops": [2]}),
        Case("stopped after each step", {**_TRAINED, "stops": [1, 2, 3, 4, 5]}),
        Case("stopped twice after step 3: the second call has no gradients", {**_TRAINED, "stops": [3, 3]}),
    ),
    mistakes=(
        Mistake(
            _train(lambda m, v, t: ()),
            "After the stop, m, v and t begin anew: the state is not used, or empty. What does the next step need?",
        ),
        Mistake(
            _train(lambda m, v, t: (np.zeros_like(m), np.zeros_like(v), t)),
            "The moments begin at zero after the stop: m and v belong to the state.",
        ),
        Mistake(
            _train(lambda m, v, t: (m, v, 0)),
            "The number of steps begins anew after the stop, so the bias correction is too strong: t belongs to the "
            "state.",
        ),
        Mistake(_train(lambda m, v, t: (m, np.zeros_like(v), t)), "v is lost in the stop, and m isn't."),
        Mistake(_train(lambda m, v, t: (np.zeros_like(m), v, t)), "m is lost in the stop, and v isn't."),
    ),
)
