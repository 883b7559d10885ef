"""The state of a run on disk: whole, or the one before."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from ..configuring import plain
from .config import LoraTraining, differences
from .errors import LoraTrainingError

FILE: Final = "state.pt"


def save_state(
    out: Path,
    iteration: int,
    seconds: float,
    learned: dict[str, Tensor],
    old: dict[str, Tensor],
    optimizer: dict[str, Any],
    config: LoraTraining,
) -> None:
    """Write a state beside the one before, and then in its place.

    Raises:
        LoraTrainingError: it could not be written; the one before is still there.
    """
    partial = out / f"{FILE}.partial"
    state = {
        "iteration": iteration,
        "seconds": seconds,
        "learned": {name: value.cpu() for name, value in learned.items()},
        "old": {name: value.cpu() for name, value in old.items()},
        "optimizer": optimizer,
        "config": plain(config),
    }
    try:
        torch.save(state, partial)
        partial.replace(out / FILE)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as the latter
        partial.unlink(missing_ok=True)
        raise LoraTrainingError(
            f"{out / FILE}: the state after {iteration} iterations could not be written ({error}). The one before is "
            "whole; make room and give the same command again"
        ) from error


def load_state(out: Path, config: LoraTraining) -> dict[str, Any] | None:
    """The state that a folder holds, or None.

    Raises:
        LoraTrainingError: it is of another run; the message shows the differences.
    """
    path = out / FILE
    if not path.exists():
        return None
    state = torch.load(path, map_location="cpu", weights_only=True)
    if changed := differences(state["config"], config):
        listed = "\n".join(f"  {line}" for line in changed)
        raise LoraTrainingError(
            f"{out} holds a run of {state['iteration']} iterations with another configuration:\n{listed}\n"
            "Change it back to go on with that run, or name another folder for a new one"
        )
    return state
