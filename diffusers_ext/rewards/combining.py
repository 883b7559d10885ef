"""Many threads, one model: whoever comes first answers for all who wait, in shared batches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from .errors import Cancelled

Q = TypeVar("Q")
A = TypeVar("A")

_PATIENCE = 0.02
"""Seconds between a waiting thread's looks at whether its answers have come."""


@dataclass(eq=False)
class _Request(Generic[Q, A]):
    questions: Sequence[Q]
    way: Any
    advance: Callable[[int], None]
    cancel: Callable[[], bool] | None
    answers: dict[int, A] = field(default_factory=dict)
    cancelled: bool = False

    @property
    def done(self) -> bool:
        return self.cancelled or len(self.answers) == len(self.questions)

    def poll(self) -> None:
        if not self.done and self.cancel is not None and self.cancel():
            self.cancelled = True


class Combiner(Generic[Q, A]):
    """Puts the questions of several threads together.

    Args:
        answer: answers questions in a given way, batch by batch, each answer with the index of its question.
    """

    def __init__(self, answer: Callable[[Sequence[Q], Any], Iterator[list[tuple[int, A]]]]) -> None:
        self._answer = answer
        self._waiting: list[_Request[Q, A]] = []
        self._list = threading.Lock()
        self._model = threading.Lock()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Have the model to oneself."""
        with self._model:
            yield

    def ask(
        self,
        questions: Sequence[Q],
        way: Any,
        advance: Callable[[int], None] = lambda count: None,
        cancel: Callable[[], bool] | None = None,
    ) -> list[A]:
        """Answer questions, together with those of other threads that are to be answered in the same way.

        Args:
            questions: what to answer.
            way: anything hashable; only requests of the same way share batches.
            advance: told after each batch how many of these questions were answered in it.
            cancel: asked between batches, maybe by another thread.

        Raises:
            Cancelled: `cancel` returned true.
        """
        request = _Request[Q, A](questions, way, advance, cancel)
        with self._list:
            self._waiting.append(request)
        try:
            while not request.done:
                if self._model.acquire(timeout=_PATIENCE):
                    try:
                        self._lead(request)
                    finally:
                        self._model.release()
        finally:
            with self._list:
                self._waiting.remove(request)
        if request.cancelled:
            total = len(request.questions)
            raise Cancelled(f"stopped as asked, after {len(request.answers)} of {total} judgements")
        return [request.answers[index] for index in range(len(questions))]

    def _lead(self, own: _Request[Q, A]) -> None:
        """Answer for all who wait, until one's own request is done; what others got by then they keep."""
        with self._list:
            requests = [own, *(item for item in self._waiting if item is not own and item.way == own.way)]
        places = [
            (request, index)
            for request in requests
            for index in range(len(request.questions))
            if index not in request.answers
        ]
        for request in requests:
            request.poll()
        if own.done:
            return
        for found in self._answer([request.questions[index] for request, index in places], own.way):
            for number, value in found:
                request, index = places[number]
                request.answers[index] = value
            for request in requests:
                count = sum(places[number][0] is request for number, _ in found)
                if count and not request.cancelled:
                    request.advance(count)
                request.poll()
            if own.done:
                return
