"""How far a run is, and what has been learned by then."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from ..configuring import differences, plain
from ..states import read_state, refuse_changes, write_state
from .config import UNBOUND, RewardTraining, TrainingError

FILE: Final = "training.pt"


@dataclass(frozen=True)
class State:
    """What a run goes on from, whole, on the CPU.

    Attributes:
        step: how many are done.
        learned: weights by name.
        moments: the optimizer's state by the same names.
    """

    step: int
    learned: dict[str, Tensor]
    moments: Any


def save_state(out: Path, state: State, config: RewardTraining) -> None:
    """Keep how far a run is.

    Raises:
        TrainingError: it could not be written; the old state is still there.
    """
    kept = {"step": state.step, "config": plain(config), "learned": state.learned, "optimizer": state.moments}
    write_state(out / FILE, kept, f"step {state.step}", TrainingError)


def load_state(out: Path, config: RewardTraining) -> State | None:
    """The state that a folder holds, or None where there is none yet.

    Raises:
        TrainingError: the run was another one; the message shows the differences.
    """
    kept = read_state(out / FILE)
    if kept is None:
        return None
    refuse_changes(out, f"step {kept['step']}", differences(kept["config"], config, UNBOUND), TrainingError)
    return State(int(kept["step"]), kept["learned"], kept["optimizer"])
