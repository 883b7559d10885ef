"""The nano world: small pictures of coloured shapes in which the truth is known, and the models made for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

CHECKPOINTS: Final = Path(__file__).parent / "checkpoints"
SMALLER_REWARD_MODELS: Final = ("reward-1m", "reward-400k", "reward-200k")
REWARD_MODELS: Final = {name: CHECKPOINTS / name for name in ("reward-5m", *SMALLER_REWARD_MODELS, "video-reward-5m")}
"""The judges that come with the package. Their names are known wherever a judge is named."""
DEFAULT_REWARD_MODEL: Final = REWARD_MODELS["reward-5m"]
DEFAULT_VIDEO_REWARD_MODEL: Final = REWARD_MODELS["video-reward-5m"]
DEFAULT_PIPELINE: Final = CHECKPOINTS / "generator"

GENERATOR_OPTIONS: Final[dict[str, Any]] = {
    "num_inference_steps": 20,
    "guidance_scale": 1.0,
    "max_sequence_length": 1,
}
"""How the nano generator is run here.

Without guidance it errs half the time, which leaves choosing, steering and training something to gain, and takes half
as long. One T5 token instead of 256 (all are zero) makes it several times faster.
"""
