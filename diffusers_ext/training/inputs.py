"""What a run reads besides its configuration, looked at before anything is loaded or made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from ..rewards.addresses import is_address
from ..rewards.instructions import PRESETS, Instruction, get_instruction, load_instructions
from ..trackers import check_trackers
from .config import LoraTraining
from .errors import LoraTrainingError
from .prompts import Prompt, evaluation_prompts, training_prompts


@dataclass(frozen=True)
class Inputs:
    """What the files say that a configuration names.

    Attributes:
        prompts: to learn from.
        asked: to be measured on.
        own: instructions that are not of the package, by name.
    """

    prompts: tuple[Prompt, ...]
    asked: tuple[Prompt, ...]
    own: dict[str, Instruction] = field(default_factory=dict)

    def by(self, name: str) -> str | Instruction:
        """The instruction of that name, which only a server may know."""
        return (PRESETS | self.own).get(name, name)

    def digests(self) -> dict[str, str]:
        """A hash of each by the configuration's key, to tell later whether the files still say the same."""
        said: dict[str, Any] = {
            "prompts": _told(self.prompts),
            "evaluation_prompts": _told(self.asked),
            "instructions": {name: repr(item) for name, item in self.own.items()},
        }
        return {key: hashlib.sha256(json.dumps(value).encode()).hexdigest() for key, value in said.items()}


def read_inputs(config: LoraTraining) -> Inputs:
    """Read them, and refuse early what would fail late.

    Raises:
        LoraTrainingError: a file of prompts that cannot be read or holds none; a tracker that is not known or not
            installed; peft is missing.
        InstructionError: an instruction that nobody has written.
    """
    if find_spec("peft") is None:
        raise LoraTrainingError("training needs peft: pip install 'rewarddance[train]'")
    check_trackers(config.trackers, LoraTrainingError)
    own = load_instructions(config.instructions) if config.instructions else {}
    for judge in config.all_judges:
        if not is_address(judge.model):  # a server may know others
            get_instruction(judge.instruction, own)
    return Inputs(
        tuple(training_prompts(config.prompts, config.prompt_count, config.seed)),
        tuple(evaluation_prompts(config.evaluation_prompts, config.evaluation_count)),
        own,
    )


def _told(prompts: Sequence[Prompt]) -> list[Any]:
    files = {item.first_frame for item in prompts if item.first_frame is not None}
    content = {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return [item.text if item.first_frame is None else [item.text, content[item.first_frame]] for item in prompts]
