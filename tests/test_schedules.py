"""Learning rate schedules at places that are computed by hand."""

import math
from dataclasses import replace

import pytest
from helpers.commands import TINY, command, metrics, train

from npgpt.schedules import SCHEDULES, warmup_constant, warmup_cosine, warmup_linear, warmup_stable_decay
from npgpt.training.plan import Plan
from npgpt.training.settings import TrainSettings

SCHEDULE = {"lr": 1.0, "min_lr": 0.2, "warmup": 4, "max_steps": 12}
RISING = [0.25, 0.5, 0.75, 1.0]  # the first step learns already


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        *enumerate(RISING),
        (4, 1.0),  # the cosine begins at its top
        (6, 0.2 + 0.4 * (1 + math.sqrt(0.5))),  # a quarter of the way: cos(45 degrees)
        (8, 0.6),  # half way down
        (10, 0.2 + 0.4 * (1 - math.sqrt(0.5))),
        (12, 0.2),
        (13, 0.2),
        (10_000, 0.2),
    ],
)
def test_cosine(step, expected):
    assert warmup_cosine(step, **SCHEDULE) == pytest.approx(expected, rel=1e-14)


def test_linear():
    rates = [warmup_linear(step, **SCHEDULE) for step in range(15)]
    assert rates == pytest.approx([*RISING, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.2, 0.2], rel=1e-14)


def test_constant():
    assert [warmup_constant(step, lr=1.0, warmup=4) for step in (*range(6), 10_000)] == [*RISING, 1.0, 1.0, 1.0]


def test_stable_then_decay():
    def rates(fraction, steps=range(14)):
        return [warmup_stable_decay(step, **SCHEDULE, decay_fraction=fraction) for step in steps]

    decay = [0.2 + 0.8 * (1 - math.sqrt(p / 4)) for p in range(5)]
    assert rates(1 / 3) == pytest.approx([*RISING, *[1.0] * 4, *decay, 0.2], rel=1e-14)
    assert rates(0.0) == [*RISING, *[1.0] * 8, 0.2, 0.2]
    from_the_warm_up = [0.2 + 0.8 * (1 - math.sqrt(p / 8)) for p in range(9)]
    assert rates(1.0) == pytest.approx([*RISING, *from_the_warm_up, 0.2], rel=1e-14)  # never before the warm-up's end


def test_the_decay_is_of_a_rounded_number_of_steps():
    assert 0.29 * 100 < 29  # as it is computed, and 29 are meant
    rates = [warmup_stable_decay(step, 1.0, 0.0, 0, 100, decay_fraction=0.29) for step in (71, 72)]
    assert rates == [1.0, 1 - math.sqrt(1 / 29)]


@pytest.mark.parametrize("schedule", [warmup_cosine, warmup_linear])
def test_schedules_without_a_part(schedule):
    assert schedule(0, 1.0, 0.1, warmup=0, max_steps=10) == 1.0
    assert schedule(0, 1.0, 0.1, warmup=0, max_steps=1) == 1.0
    assert [schedule(step, 1.0, 0.1, warmup=2, max_steps=2) for step in range(3)] == [0.5, 1.0, 0.1]
    assert [schedule(step, 1.0, 1.0, warmup=1, max_steps=4) for step in range(5)] == [1.0] * 5


@pytest.mark.parametrize(
    ("flags", "rates"),
    [
        ({}, [0.5, 1.0, 1.0, 0.55, 0.1]),
        ({"schedule": "linear"}, [0.5, 1.0, 1.0, 0.55, 0.1]),
        ({"schedule": "constant"}, [0.5, 1.0, 1.0, 1.0, 1.0]),
        ({"schedule": "wsd"}, [0.5, 1.0, 1.0, 1.0, 0.1]),
        ({"schedule": "wsd", "decay_fraction": 0.8}, [0.5, 1.0, 1.0, 0.1 + 0.9 * (1 - math.sqrt(0.5)), 0.1]),
    ],
)
def test_a_plan_follows_its_schedule(flags, rates):
    plan = TrainSettings(max_steps=10, warmup=2, lr=1.0, **flags).resolve(n_windows=1, context=8)
    assert [plan.learning_rate(step) for step in (0, 1, 2, 6, 10)] == pytest.approx(rates, rel=1e-14)


def test_a_run_keeps_its_schedule_when_it_goes_on(folder):
    for schedule in ("linear", "constant", "wsd"):
        typed = ("text.txt", *TINY, "--schedule", schedule, "--lr", 1.0, "--min-lr", 0.1, "--warmup", 0)
        typed = typed if schedule != "constant" else (*typed[:-4], "--warmup", 0)
        typed += ("--log-every", 1, "--eval-every", 100, "--sample-every", 0, "--max-steps")
        run, _ = train(folder, *typed, 4)
        assert command("train", "--resume", run, "--max-steps", 6, cwd=folder).code == 0
        rates = [line["lr"] for line in metrics(run, "train")]
        assert rates == pytest.approx(
            {
                "linear": [1.0, 0.775, 0.55, 0.325, 0.1, 0.1],
                "constant": [1.0] * 6,
                "wsd": [1.0, 1.0, 1.0, 1.0, 0.1, 0.1],  # a fifth of 4 steps is 1
            }[schedule]
        )


def test_a_plan_follows_each_schedule_by_its_name():
    plans = [Plan(8, 100, 1.0, 4, 0.1, 20, 10, 0, "", schedule=name, decay_fraction=0.5) for name in SCHEDULES]
    rates = [tuple(plan.learning_rate(step) for step in range(21)) for plan in plans]
    assert len(set(rates)) == len(SCHEDULES)
    with pytest.raises(ValueError, match="there is no schedule 'exponential'"):
        replace(plans[0], schedule="exponential").learning_rate(0)
