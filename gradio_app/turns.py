"""One job at a time for each visitor, so that nobody takes the whole queue."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import gradio as gr

from diffusers_ext.rewards.errors import RewardDanceError

_PATIENCE: Final = 1.5
"""Seconds in which a job that has been stopped may end."""


class TurnError(RewardDanceError):
    """A visitor's second job."""


class Turns:
    """Who has a job running."""

    def __init__(self) -> None:
        self._busy: set[str] = set()
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, request: gr.Request) -> Iterator[None]:
        """Do a visitor's job: of whoever is logged in, else of the page that is open.

        Raises:
            TurnError: the visitor has another one running.
        """
        visitor = str(request.username or request.session_hash)
        with self._changed:
            if not self._changed.wait_for(lambda: visitor not in self._busy, _PATIENCE):
                raise TurnError("you have a job running; wait for it, or stop it, before you begin another")
            self._busy.add(visitor)
        try:
            yield
        finally:
            with self._changed:
                self._busy.discard(visitor)
                self._changed.notify_all()
