"""Trackers of Accelerate, by the names that configurations have for them."""

from __future__ import annotations

from .configuring import Wrong


def check_trackers(names: tuple[str, ...], wrong: Wrong) -> None:
    """Refuse those that Accelerate does not know, or whose package is missing.

    Raises:
        RewardDanceError: (as `wrong`) there is one.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    installed = [str(item) for item in get_available_trackers()]
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise wrong(f"trackers: {name!r} is none of {', '.join(LOGGER_TYPE_TO_CLASS)}")
        if name not in installed:
            raise wrong(f"trackers: {name} is not installed here; install its package, or leave it out")
