from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from diffusers_ext.rewards.combining import Combiner
from diffusers_ext.rewards.errors import Cancelled


class Squares:
    """Answers numbers with their squares, `size` at a time, when told to go on."""

    def __init__(self, size=3):
        self.size = size
        self.batches = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, questions, way):
        for start in range(0, len(questions), self.size):
            assert self.gate.wait(10)
            batch = questions[start : start + self.size]
            self.batches.append(list(batch))
            if "bad" in batch:
                raise ZeroDivisionError
            yield [(start + place, number * number) for place, number in enumerate(batch)]


def test_one_caller_gets_all_answers_in_order():
    squares = Squares()
    counts = []
    assert Combiner(squares).ask(list(range(8)), "way", counts.append) == [number**2 for number in range(8)]
    assert counts == [3, 3, 2]


def test_those_who_wait_are_answered_together_and_get_their_own():
    squares = Squares(size=100)
    squares.gate.clear()
    combiner = Combiner(squares)
    with ThreadPoolExecutor(9) as threads:
        first = threads.submit(combiner.ask, [0], "way")
        while not combiner._waiting:
            pass
        others = [threads.submit(combiner.ask, [10 * index, 10 * index + 1], "way") for index in range(1, 9)]
        while len(combiner._waiting) < 9:
            pass
        squares.gate.set()
        assert first.result() == [0]
        for index, other in enumerate(others, start=1):
            assert other.result() == [(10 * index) ** 2, (10 * index + 1) ** 2]
    assert len(squares.batches) < 9


def test_ways_do_not_mix():
    squares = Squares(size=100)
    squares.gate.clear()
    combiner = Combiner(squares)
    with ThreadPoolExecutor(4) as threads:
        found = [threads.submit(combiner.ask, [index], index % 2) for index in range(4)]
        squares.gate.set()
        assert [item.result() for item in found] == [[0], [1], [4], [9]]
    assert all(len({number % 2 for number in batch}) == 1 for batch in squares.batches)


def test_cancelling_one_leaves_the_others():
    squares = Squares(size=1)
    combiner = Combiner(squares)
    stop = threading.Event()
    with ThreadPoolExecutor(2) as threads:
        squares.gate.clear()
        long = threads.submit(combiner.ask, list(range(50)), "way", lambda count: stop.set(), stop.is_set)
        while not combiner._waiting:
            pass
        other = threads.submit(combiner.ask, [7], "way")
        squares.gate.set()
        with pytest.raises(Cancelled, match="after 1 of 50"):
            long.result()
        assert other.result() == [49]
    assert len(squares.batches) < 50


def test_an_error_reaches_only_the_one_who_caused_it():
    squares = Squares(size=1)
    combiner = Combiner(squares)
    squares.gate.clear()
    with ThreadPoolExecutor(2) as threads:
        good = threads.submit(combiner.ask, [1, 2, 3], "way")
        while not combiner._waiting:
            pass
        bad = threads.submit(combiner.ask, ["bad"], "way")
        squares.gate.set()
        assert good.result() == [1, 4, 9]
        with pytest.raises(ZeroDivisionError):
            bad.result()
    assert combiner.ask([5], "way") == [25]


def test_no_questions_need_no_model():
    squares = Squares()
    assert Combiner(squares).ask([], "way") == []
    assert not squares.batches
