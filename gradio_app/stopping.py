"""Work that stops when nobody waits for it any more."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

T = TypeVar("T")

_TICK: Final = 0.5
"""Seconds after which a waiting visitor is looked for."""
_END: Final = object()


def stoppable(work: Callable[[Callable[[], bool]], Iterator[T]], tick: float = _TICK) -> Iterator[T | None]:
    """Run an iterator in a thread of its own, and tell it to stop once this one is closed.

    Gradio closes the generator of a handler when its visitor presses Stop or leaves, but can do so only while the
    generator waits at a `yield`. So this one yields None every now and then, which says nothing but that it can be
    closed.

    Args:
        work: takes what to ask whether to stop, and gives the iterator.
        tick: seconds between the Nones.

    Yields:
        What the iterator yields, and None in between.
    """
    stopped = threading.Event()
    found: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            for item in work(stopped.is_set):
                found.put((item, None))
                if stopped.is_set():
                    return
        except BaseException as error:
            found.put((_END, error))
        else:
            found.put((_END, None))

    threading.Thread(target=run, name="painting", daemon=True).start()
    try:
        while True:
            try:
                item, error = found.get(timeout=tick)
            except queue.Empty:
                yield None
                continue
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stopped.set()
