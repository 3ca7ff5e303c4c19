"""What is told of the machine and the command can be read, and typed again."""

import os
import shlex
import sys

import pytest

from npgpt.reporting import machine


def test_the_machine():
    described = machine.describe_machine()
    assert all(isinstance(value, str) and value for value in described.values())
    assert {"processor", "cores", "system", "Python", "numpy", "numba"} <= described.keys()
    if hasattr(os, "sysconf"):
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        number, unit = described["memory"].split()
        assert (float(number), unit) == (pytest.approx(size / 1e9, abs=0.051), "GB")


@pytest.mark.parametrize(("processes", "launcher"), [(1, []), (2, ["mpiexec", "-n", "2"])])
def test_the_command(monkeypatch, processes, launcher):
    typed = ["my text.txt", "--sample-prompt", '$HOME isn\'t "it"']
    monkeypatch.setattr(sys, "argv", ["train.py", *typed])
    assert shlex.split(machine.typed_command(processes)) == [*launcher, "python", "-m", "npgpt.train", *typed]
