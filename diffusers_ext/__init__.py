"""RewardDance: generative reward models that judge, rerank and explain pictures made by diffusion models.

Names are imported when first used, so that `import diffusers_ext` itself costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .ranking import BestOfN, Ranking, best_of_n, rank
    from .rewards.errors import RewardDanceError
    from .rewards.instructions import Instruction, get_instruction, load_instructions
    from .rewards.judgement import Judgement
    from .rewards.model import RewardModel

try:
    __version__ = version("rewarddance")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

_HOMES = {
    "BestOfN": "ranking",
    "Instruction": "rewards.instructions",
    "Judgement": "rewards.judgement",
    "Ranking": "ranking",
    "RewardDanceError": "rewards.errors",
    "RewardModel": "rewards.model",
    "best_of_n": "ranking",
    "get_instruction": "rewards.instructions",
    "load_instructions": "rewards.instructions",
    "rank": "ranking",
}

__all__ = [
    "BestOfN",
    "Instruction",
    "Judgement",
    "Ranking",
    "RewardDanceError",
    "RewardModel",
    "best_of_n",
    "get_instruction",
    "load_instructions",
    "rank",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
