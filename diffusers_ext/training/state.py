"""How far a run is, and what has been learned by then."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from ..configuring import differences, plain
from ..states import read_state, refuse_changes, write_state
from .config import UNBOUND, LoraTraining
from .errors import LoraTrainingError

FILE: Final = "state.pt"


def save_state(
    out: Path,
    iteration: int,
    seconds: float,
    weights: Mapping[str, Mapping[str, Tensor]],
    optimizer: dict[str, Any],
    config: LoraTraining,
    digests: Mapping[str, str],
) -> None:
    """Keep the weights of all policies by the names of what they are, how far the run is, and what its files said.

    Raises:
        LoraTrainingError: it could not be written; the one before is still there.
    """
    state = {
        "iteration": iteration,
        "seconds": seconds,
        "weights": {
            policy: {name: value.cpu() for name, value in of_policy.items()} for policy, of_policy in weights.items()
        },
        "optimizer": optimizer,
        "config": plain(config),
        "digests": dict(digests),
    }
    write_state(out / FILE, state, f"iteration {iteration}", LoraTrainingError)


def load_state(out: Path, config: LoraTraining, digests: Mapping[str, str]) -> dict[str, Any] | None:
    """The state that a folder holds, or None; `digests` are of :class:`~diffusers_ext.training.inputs.Inputs`.

    Raises:
        LoraTrainingError: it is of another run; the message shows the differences.
    """
    state = read_state(out / FILE)
    if state is not None:
        changed = differences(state["config"], config, UNBOUND) or [
            f"{key}: {getattr(config, key)} says something else than it did"
            for key, digest in digests.items()
            if state["digests"][key] != digest
        ]
        refuse_changes(out, f"iteration {state['iteration']}", changed, LoraTrainingError)
    return state
