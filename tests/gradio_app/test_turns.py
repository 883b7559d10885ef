from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

pytest.importorskip("gradio", reason="the page needs gradio: pip install 'rewarddance[gradio]'")

from gradio_app.turns import TurnError, Turns


def visitor(session, user=None):
    return SimpleNamespace(session_hash=session, username=user)


def test_a_visitors_second_job_is_refused_and_another_visitors_is_not():
    turns = Turns()
    with turns.taken(visitor("x")):
        with turns.taken(visitor("y")):
            pass
        with pytest.raises(TurnError, match="a job running"), turns.taken(visitor("x")):
            pass
    with turns.taken(visitor("x")):
        pass


def test_who_is_logged_in_is_one_visitor_in_two_pages():
    turns = Turns()
    with turns.taken(visitor("x", "ann")):
        with turns.taken(visitor("y", "bob")):
            pass
        with pytest.raises(TurnError), turns.taken(visitor("y", "ann")):
            pass


def test_a_job_that_fails_or_is_closed_gives_its_turn_back():
    turns = Turns()

    def job():
        with turns.taken(visitor("x")):
            yield 1
            raise ValueError

    running = job()
    next(running)
    running.close()
    running = job()
    next(running)
    with pytest.raises(ValueError):
        next(running)
    with turns.taken(visitor("x")):
        pass


def test_one_that_is_about_to_end_is_waited_for():
    turns = Turns()
    begun, end = threading.Event(), threading.Event()

    def first():
        with turns.taken(visitor("x")):
            begun.set()
            end.wait()

    thread = threading.Thread(target=first)
    thread.start()
    begun.wait()
    threading.Timer(0.2, end.set).start()
    with turns.taken(visitor("x")):
        assert end.is_set()
    thread.join()
