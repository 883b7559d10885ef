"""Requests by their names, so that one that comes twice is worked on once."""

from __future__ import annotations

import asyncio
import contextvars
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .bodies import BodyError

T = TypeVar("T")


@dataclass(frozen=True)
class _Entry(Generic[T]):
    fingerprint: bytes
    task: asyncio.Task[T]

    @property
    def failed(self) -> bool:
        return self.task.done() and (self.task.cancelled() or self.task.exception() is not None)


class Answered(Generic[T]):
    """The latest requests and their answers, under way or done. For one event loop.

    Work goes on when the caller who asked for it goes away: he may be about to ask again.
    """

    def __init__(self, size: int = 4096) -> None:
        """Keep so many."""
        self._size = size
        self._entries: OrderedDict[str, _Entry[T]] = OrderedDict()

    async def once(self, name: str, fingerprint: bytes, work: Callable[[], Coroutine[Any, Any, T]]) -> tuple[T, bool]:
        """The answer to a request, and whether it was known or under way before.

        What failed is forgotten, so that it is worked on again when it is asked for again.

        Args:
            name: what the client calls the request.
            fingerprint: equal for equal requests.
            work: finds the answer.

        Raises:
            BodyError: another request had that name.
            Exception: whatever the work raises.
        """
        entry = self._entries.get(name)
        if entry is not None and entry.fingerprint != fingerprint:
            raise BodyError(f"the idempotency key {name[:80]!r} was used for another request; give each its own")
        known = entry is not None and not entry.failed
        if entry is None or entry.failed:
            # In a context of its own, or Ray Serve would end this work together with the first caller's request.
            entry = _Entry(fingerprint, contextvars.Context().run(asyncio.ensure_future, work()))
            self._entries[name] = entry
            self._entries.move_to_end(name)
            self._forget()
        return await asyncio.shield(entry.task), known

    def _forget(self) -> None:
        for name in [name for name, entry in self._entries.items() if entry.task.done()]:
            if len(self._entries) <= self._size:
                return
            del self._entries[name]
