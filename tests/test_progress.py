from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from diffusers_ext import progress
from diffusers_ext.progress import counted


def test_a_log_gets_the_first_the_last_and_one_a_minute(capsys, monkeypatch):
    clock = iter(range(0, 10_000, 20))  # twenty seconds for each
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with counted("training", 10, 2, True) as shown:
        for number in range(3, 11):
            shown.advance(**({} if number == 10 else {"loss": number / 4}))
    assert capsys.readouterr().err.splitlines() == [
        "training: 3 of 10, 2 min to go, loss 0.75",  # seven are left, at twenty seconds
        "training: 6 of 10, 1 min to go, loss 1.5",
        "training: 9 of 10, 0 min to go, loss 2.25",
        "training: 10 of 10, 0 min to go",
    ]


def test_nothing_is_said_where_nothing_is_to_be_shown(capsys):
    with counted("training", 2, 0, False) as shown:
        shown.advance(loss=1)
        shown.say("half of it")
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_a_terminal_gets_a_bar():
    import pty

    ours, theirs = pty.openpty()
    code = (
        "from diffusers_ext.progress import counted\n"
        "with counted('painting', 3, 1, True) as shown:\n    shown.advance(loss=0.5)\n    shown.advance(loss=0.25)"
    )
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    subprocess.run([sys.executable, "-c", code], stderr=theirs, check=True, env=environment)
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    plain = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", shown)
    last = [line for line in re.split(r"[\r\n]+", plain) if "painting" in line][-1]
    assert "3/3" in last and "loss 0.25" in last and "━" in last


def test_figures_are_read_only_when_they_are_shown(capsys):
    class Awaited:
        read = 0

        def __float__(self) -> float:
            self.read += 1
            return 0.12344

    figure = Awaited()
    with counted("training", 3, 0, True) as shown:
        for _ in range(3):
            shown.advance(loss=figure)
    assert figure.read == 2  # the first and the last
    assert capsys.readouterr().err.splitlines()[-1] == "training: 3 of 3, 0 min to go, loss 0.1234"
