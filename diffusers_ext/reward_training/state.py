"""How far a run is, and what has been learned by then."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import nn

from ..configuring import plain
from ..states import read_state, refuse_changes, write_state
from .config import RewardTraining, TrainingError, differences

FILE: Final = "training.pt"


def save_state(
    out: Path, step: int, student: nn.Module, optimizer: torch.optim.Optimizer, config: RewardTraining
) -> None:
    """Keep what learns, and how far it is.

    Raises:
        TrainingError: it could not be written; the old state is still there.
    """
    learned = {name: item.detach().cpu() for name, item in student.named_parameters() if item.requires_grad}
    state = {"step": step, "config": plain(config), "learned": learned, "optimizer": optimizer.state_dict()}
    write_state(out / FILE, state, f"step {step}", TrainingError)


def load_state(out: Path, student: nn.Module, optimizer: torch.optim.Optimizer, config: RewardTraining) -> int:
    """Go on from the state that a folder holds.

    Returns:
        The step to do next; 0 where there is no state yet.

    Raises:
        TrainingError: the run was another one; the message shows the differences.
    """
    state = read_state(out / FILE)
    if state is None:
        return 0
    refuse_changes(out, f"step {state['step']}", differences(state["config"], config), TrainingError)
    parameters = dict(student.named_parameters())
    with torch.no_grad():
        for name, value in state["learned"].items():
            parameters[name].copy_(value)
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
