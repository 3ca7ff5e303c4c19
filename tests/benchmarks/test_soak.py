import shutil

import pytest

pytest.importorskip("fastapi", reason="the server needs the extra serve")


@pytest.mark.skipif(shutil.which("ps") is None, reason="the server's memory is asked from the program ps")
def test_a_short_soak(monkeypatch, capsys):
    from bench import soak

    monkeypatch.setattr("sys.argv", ["soak", "--seconds", "3", "--clients", "4", "--growth", "200"])
    assert soak.main() == 0
    out = capsys.readouterr().out
    assert "whole" in out
    assert "memory: " in out


def test_memory_that_grows_is_noticed(monkeypatch, capsys):
    from bench import soak

    class Ended:
        def __init__(self, folder):
            pass

        def end(self):
            return 143

    monkeypatch.setattr("sys.argv", ["soak", "--seconds", "1", "--growth", "5"])
    monkeypatch.setattr(soak, "_python", lambda *arguments: None)
    monkeypatch.setattr(soak, "Server", Ended)
    for last, code in ((104.0, 0), (106.0, 1)):
        monkeypatch.setattr(soak, "soak", lambda server, settings, last=last: [100.0] * 80 + [last] * 20)
        assert soak.main() == code
