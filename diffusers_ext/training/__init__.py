"""Fine-tune generators against judges: LoRA by reinforcement, with monitors that see when only the reward rises.

See docs/training.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import LoraTraining, read_config
    from .errors import LoraTrainingError
    from .trainer import Result, train_lora

_HOMES = {
    "LoraTraining": "config",
    "LoraTrainingError": "errors",
    "Result": "trainer",
    "read_config": "config",
    "train_lora": "trainer",
}

__all__ = ["LoraTraining", "LoraTrainingError", "Result", "read_config", "train_lora"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
