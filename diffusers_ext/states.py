"""States of training runs on disk: a new one replaces the old when it is whole, and belongs to one configuration."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .configuring import Wrong


@contextmanager
def claimed(out: Path, wrong: Wrong) -> Iterator[None]:
    """Have a run's folder to oneself while training in it; of processes that train together, the first has it.

    The claim ends with the process, however it ends.

    Raises:
        RewardDanceError: (as `wrong`) the folder cannot be made, or another process is training in it.
    """
    from filelock import FileLock, Timeout

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise wrong(f"out: {out} cannot be made ({error})") from error
    if int(os.environ.get("RANK", "0")) > 0:
        yield
        return
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise wrong(
            f"another process is training in {out}. Wait for it, or stop it, to go on with that run; name another "
            "folder for a new one"
        ) from error
    try:
        yield
    finally:
        lock.release()


def write_state(path: Path, state: dict[str, Any], done: str, wrong: Wrong) -> None:
    """Write a state beside the one before, and then in its place.

    Args:
        path: of the file.
        state: tensors and plain values.
        done: how far the run is, for the error, e.g. ``step 40``.
        wrong: what is raised.

    Raises:
        RewardDanceError: (as `wrong`) it could not be written; the one before is still there.
    """
    import torch

    partial = path.with_suffix(".partial")
    try:
        torch.save(state, partial)
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as the latter
        partial.unlink(missing_ok=True)
        raise wrong(
            f"{path}: the state at {done} could not be written ({error}). The one before is whole; make room and give "
            "the same command again"
        ) from error


def read_state(path: Path) -> dict[str, Any] | None:
    """The state that a file holds, or None where there is none. Tensors and plain values only: no code is run."""
    import torch

    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None


def refuse_changes(out: Path, done: str, changed: list[str], wrong: Wrong) -> None:
    """Refuse to go on with a run in another configuration, showing what differs.

    Raises:
        RewardDanceError: (as `wrong`) something does.
    """
    if changed:
        listed = "\n".join(f"  {line}" for line in changed)
        raise wrong(
            f"{out} holds a run at {done} with another configuration:\n{listed}\n"
            "Change it back to go on with that run, or name another folder for a new one"
        )
