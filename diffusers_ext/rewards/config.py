"""What a checkpoint says of its own use as a judge."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

from .errors import ModelError

FILE: Final = "reward_config.json"


@dataclass(frozen=True)
class RewardConfig:
    """Optional settings kept beside a model's weights.

    Attributes:
        temperature: divides the log-odds of pairwise verdicts, so that P(yes) is calibrated (Guo et al. 2017).
        pointwise_temperature: the same for verdicts with no reference.
        cot_temperature: the same for verdicts after a chain of thought.
        max_new_tokens: how long a chain of thought may get.
        video_frames: how many frames of a video are shown where the caller does not say.
    """

    temperature: float = 1.0
    pointwise_temperature: float = 1.0
    cot_temperature: float = 1.0
    max_new_tokens: int = 512
    video_frames: int = 8

    @classmethod
    def load(cls, folder: Path) -> RewardConfig:
        """Read `reward_config.json` from a checkpoint folder; the defaults where there is none."""
        path = folder / FILE
        if not path.is_file():
            return cls()
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ModelError(f"{path}: not valid JSON ({error})") from error
        if not isinstance(content, dict):
            raise ModelError(f"{path}: expected a JSON object, not {type(content).__name__}")
        known = {field.name for field in fields(cls)}
        if unknown := set(content) - known:
            raise ModelError(f"{path}: unknown keys {sorted(unknown)}; it takes {sorted(known)}")
        for key, value in content.items():
            kind = int if key in {"max_new_tokens", "video_frames"} else (int, float)
            if not isinstance(value, kind) or isinstance(value, bool) or not 0 < value < math.inf:
                raise ModelError(f"{path}: {key} must be a number above zero, not {value!r}")
        return cls(**content)

    def save(self, folder: Path) -> None:
        """Write `reward_config.json` into a checkpoint folder."""
        (folder / FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
