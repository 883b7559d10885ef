"""The state of a run on disk: whole, or the one before."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ..configuring import plain
from .config import RewardTraining, TrainingError, differences

FILE = "training.pt"


def save_state(
    out: Path, step: int, student: nn.Module, optimizer: torch.optim.Optimizer, config: RewardTraining
) -> None:
    """Write what learns, and how far it is, beside the old state, and then in its place.

    Raises:
        TrainingError: it could not be written; the old state is still there.
    """
    partial = out / f"{FILE}.partial"
    learned = {name: item.detach().cpu() for name, item in student.named_parameters() if item.requires_grad}
    state = {"step": step, "config": plain(config), "learned": learned, "optimizer": optimizer.state_dict()}
    try:
        torch.save(state, partial)
        partial.replace(out / FILE)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as the latter
        partial.unlink(missing_ok=True)
        raise TrainingError(
            f"{out / FILE}: the state at step {step} could not be written ({error}). The one before is whole; make "
            "room and start the same command again"
        ) from error


def load_state(out: Path, student: nn.Module, optimizer: torch.optim.Optimizer, config: RewardTraining) -> int:
    """Go on from the state that a folder holds.

    Returns:
        The step to do next; 0 where there is no state yet.

    Raises:
        TrainingError: the run was another one; the message shows the differences.
    """
    path = out / FILE
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    if changed := differences(state["config"], config):
        listed = "\n".join(f"  {line}" for line in changed)
        raise TrainingError(
            f"{out} holds a run of {state['step']} steps with another configuration:\n{listed}\n"
            "Change it back to go on with that run, or name another folder for a new one"
        )
    parameters = dict(student.named_parameters())
    with torch.no_grad():
        for name, value in state["learned"].items():
            parameters[name].copy_(value)
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
