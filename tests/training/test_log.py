"""Lines on stderr, how numbers are written in them, and how a signal becomes a wish to stop."""

import signal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from npgpt.signals import StopRequest
from npgpt.training.log import format_count, format_duration, log, log_text


def test_progress_goes_to_stderr(capsys):
    log("1/2  loss 3.0")
    assert capsys.readouterr() == ("", "1/2  loss 3.0\n")


def test_a_text_of_the_model_is_indented_and_can_not_steer_the_terminal(capsys):
    log_text("naïve\r\n\x1b[31mred\a\x9b\x0e\x00 字\ttab\u2028")
    assert capsys.readouterr().err == "    | naïve\n    | [31mred 字\ttab\u2028\n"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0:00"), (0.6, "0:01"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00"), (90061, "25:01:01")],
)
def test_format_duration(seconds, shown):
    assert format_duration(seconds) == shown


@given(st.floats(0, 9.9e11))
@example(999.4)
@example(9999.4)
@example(9999.6)
@example(999_499)
@example(999_600)
@example(999_499_999)
@example(999_600_000)
def test_format_count(number):
    """Examples are where the unit changes."""
    shown = format_count(number)
    assert len(shown) <= 5
    value = float(shown.rstrip("kMG")) * {"k": 1e3, "M": 1e6, "G": 1e9}.get(shown[-1], 1)
    assert value == pytest.approx(number, rel=0.0051, abs=0.5)


# Stopping


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("notice", ["stopping", None])
def test_a_signal_asks_and_another_ends_or_the_first_one_without_a_notice(number, notice, capsys):
    before = signal.getsignal(number)
    with StopRequest(notice) as stop:
        assert not stop.requested
        if notice:
            signal.raise_signal(number)
            assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert stop.requested
    assert capsys.readouterr().err == ("stopping\n" if notice else "")
    assert signal.getsignal(number) == before
