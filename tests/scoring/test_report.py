"""The table, for values of all sizes, and what JSON holds."""

import json
import math
from dataclasses import dataclass

import pytest

from npgpt.scoring.report import Result, heading, number, rows, shortened
from npgpt.scoring.statistics import Estimate


@dataclass(frozen=True)
class Figures:
    nats_per_token: Estimate
    tokens: int


VALUES = [0.0, 1e-300, 1.23456789e-9, 0.99999999, 9999.99, 99999.4, 123456789.0, 1e300, math.inf, -3.14159265]


@pytest.mark.parametrize("value", VALUES)
def test_a_line_has_79_characters_at_most(value):
    figures = Figures(Estimate(value, abs(value)), 10**10)
    lines = [heading(), *rows(Result("x" * 90, "perplexity", figures, figures, "runs/" + "y" * 90))]
    assert max(map(len, lines)) == 79
    assert lines[1].startswith("..." + "x" * 24 + " perplexity nats per token ")
    assert [line[:27].strip() for line in lines[2:]] == ["", "against", "..." + "y" * 24]
    shown, error = lines[1][55:66], lines[1][67:]
    for text, digits in ((shown, 5), (error, 2)):
        printed = float(text.replace(",", ""))
        assert printed == pytest.approx(value if digits == 5 else abs(value), rel=0.5 * 10.0 ** (1 - digits))
    assert lines[2].split() == ["tokens", "10,000,000,000"]


def test_a_value_without_an_error():
    line, _ = rows(Result("f", "lambada", Figures(Estimate(1.5, None), 1)))
    assert line.split() == ["f", "lambada", "nats", "per", "token", "1.5000"]


def test_names_that_a_terminal_should_not_see_as_they_are():
    assert shortened("a\x1b[2J\nb\ud800é", 40) == "a\\x1b[2J\\nb\\ud800é"
    assert shortened("abcdefgh", 8) == "abcdefgh"
    assert shortened("abcdefgh", 7) == "...efgh"


def test_numbers():
    shown = [number(x) for x in (0.5, 12.3456789, 1234.5678, 12345.678, 999999999.0, 1e9, -0.000012345, 0.0)]
    assert shown == ["0.50000", "12.346", "1,234.6", "12,346", "999,999,999", "1.0000e+09", "-1.2345e-05", "0.0000"]
    assert [number(x, 2) for x in (0.0123, 5.55, 180.4, 12.0)] == ["0.012", "5.5", "180", "12"]


def test_what_json_holds():
    infinite = Figures(Estimate(math.inf, math.nan), 3)
    values = Result("f", "perplexity", Figures(Estimate(1.5, None), 2), infinite, "runs/x").to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == {
        "file": "f",
        "task": "perplexity",
        "nats_per_token": {"value": 1.5, "standard_error": None},
        "tokens": 2,
        "against": {"model": "runs/x", "nats_per_token": {"value": None, "standard_error": None}, "tokens": 3},
    }
    assert "against" not in Result("f", "lambada", infinite).to_dict()
