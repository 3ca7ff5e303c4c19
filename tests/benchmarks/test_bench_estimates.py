"""bench.estimates: its runs are what training takes, and what a run foretells is found in the lines that it logs."""

import pytest

from bench.estimates import _MEMORY, _TIME, BUDGETS, RUNS, _rows
from npgpt.commandline import Parser
from npgpt.training.execute import MAX_STEPS_UNTIMED
from npgpt.training.log import format_duration
from npgpt.training.settings import TrainSettings


def settings_of(flags):
    parser = Parser("train", "")
    parser.add_flags(TrainSettings)
    return TrainSettings(**vars(parser.parse_args(list(flags))))


def test_each_run_is_what_training_takes_and_long_enough_to_be_foretold():
    for flags in RUNS.values():
        assert settings_of(flags).max_steps > MAX_STEPS_UNTIMED
    for seconds, *flags in BUDGETS.values():
        assert settings_of([f"--time-budget={seconds}s", *flags]).time_budget == seconds


@pytest.mark.parametrize("seconds", [7, 75, 3675])
def test_times_and_memory_are_found_in_the_log(seconds):
    hours, minutes, rest = _TIME.match(f"time:  about {format_duration(seconds)} for 9 steps").groups()
    assert 3600 * int(hours or 0) + 60 * int(minutes) + int(rest) == seconds
    assert _MEMORY.match("memory: about 2,583 MB")[1] == "2,583"


def test_a_row_says_what_was_foretold_what_was_taken_and_their_ratio():
    found = {"seconds_foretold": 20.0, "seconds": 25.0, "memory_foretold": 2e9, "memory": 1e9}
    assert _rows({"nano": found}) == [["nano", "20.0", "25.0", "1.25", "2,000", "1,000", "0.50"]]
