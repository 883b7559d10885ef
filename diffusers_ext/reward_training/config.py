"""What a training run is made of: a frozen record, read from YAML, that refuses what it does not know."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from ..configuring import read, read_yaml, settle
from ..precision import Precision
from ..rewards.errors import RewardDanceError

Objective = Literal["generative", "bradley-terry"]
Questions = Literal["pairwise", "pointwise", "mixed"]
Weights = Literal["lora", "full"]


class TrainingError(RewardDanceError):
    """A training run that cannot begin, or cannot go on."""


@dataclass(frozen=True)
class RewardTraining:
    """A training run. Every field is a key of the YAML file.

    Attributes:
        data: files of preferences (docs/data.md) to learn from, drawn from in proportion to their sizes.
        out: folder for the trained judge; the state of the run is kept in it too.
        model: folder or hub id of the judge to go on from; None for the nano one that comes with the package.
        validation: file of preferences to measure on, or None.
        objective: ``generative`` is RewardDance's: the next token after the question is yes or no. ``bradley-terry`` is
            the baseline: a scalar head, and sigmoid(r(better) - r(worse)).
        questions: with a reference, every pair in both orders (``pairwise``); each picture alone, the chosen one being
            good and the other not (``pointwise``); or one kind or the other, drawn anew each time (``mixed``).
        instruction: what records are judged by that name none of their own.
        instructions: TOML or JSON file of further instructions that may be named; see docs/instructions.md.
        ties: weight of ties, in [0, 1]: both answers alike. 0 leaves them out.
        rationales: weight of a rationale's tokens (their mean) where a record has one, against 1 for the verdict after
            it; 0 leaves rationales out. Records with rationales are asked both ways, at once and after them.
        quantization: scheme to hold the frozen weights in (QLoRA); see docs/quantization.md.
        weights: ``lora`` trains an adapter in the language model, ``full`` all of the model.
        vision: train the vision tower too.
        rank, alpha, dropout: of the adapter.
        targets: names of the linear layers that get one; None for all of them.
        steps: optimizer steps.
        batch_size: records per step, over all processes.
        micro_batch_size: records at a time in each process.
        learning_rate: at its peak: up over `warmup` steps, then along a cosine down to a tenth.
        weight_decay: of matrices.
        clip: largest norm of the gradient.
        precision: of the computation; ``auto`` is bfloat16 where the hardware multiplies in it, float32 elsewhere.
            Parameters that are trained are float32.
        checkpointing: compute activations anew in the backward pass in place of keeping them.
        seed: of the order of records and all that is drawn.
        save_every, validate_every: in steps.
        validation_records: how many of the validation file's records are judged each time.
        trackers: where to report beside `metrics.jsonl`, e.g. ``tensorboard`` or ``wandb``.
    """

    data: tuple[str, ...]
    out: str
    model: str | None = None
    validation: str | None = None
    objective: Objective = "generative"
    questions: Questions = "pairwise"
    instruction: str = "overall"
    instructions: str | None = None
    ties: float = 0.0
    rationales: float = 0.3
    quantization: str | None = None
    weights: Weights = "lora"
    vision: bool = False
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None
    steps: int = 1000
    batch_size: int = 16
    micro_batch_size: int = 4
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    warmup: int = 20
    clip: float = 1.0
    precision: Precision = "auto"
    checkpointing: bool = True
    seed: int = 0
    save_every: int = 100
    validate_every: int = 100
    validation_records: int = 500
    trackers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        settle(self, TrainingError)
        if not self.data:
            raise TrainingError("data: names no file of preferences to learn from")
        for name in ("rank", "alpha", "steps", "batch_size", "micro_batch_size", "save_every", "validate_every"):
            if getattr(self, name) < 1:
                raise TrainingError(f"{name}: must be at least 1, not {getattr(self, name)}")
        for name in ("ties", "dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise TrainingError(f"{name}: must lie in [0, 1], not {getattr(self, name)}")
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise TrainingError(f"{name}: must be above zero, not {getattr(self, name)}")
        if self.quantization is not None and self.weights == "full":
            raise TrainingError("weights: quantized weights cannot be trained themselves; use lora")
        if self.objective == "bradley-terry" and self.questions != "pointwise":
            raise TrainingError("questions: a Bradley-Terry model looks at each picture alone; use pointwise")


UNBOUND: Final = frozenset(
    {"out", "steps", "micro_batch_size", "validation", "validate_every", "validation_records", "save_every", "trackers"}
)
"""What may change from a run to its resumption: all but these has a say in what is learned."""


def read_config(path: str | Path, **changes: Any) -> RewardTraining:
    """Read a YAML file; `changes` (where not None) take the place of what it says.

    Raises:
        TrainingError: the file cannot be read, has an unknown key, or a value that makes no sense.
    """
    content = read_yaml(Path(path), TrainingError)
    content |= {name: value for name, value in changes.items() if value is not None}
    return read(RewardTraining, content, str(path), TrainingError)
