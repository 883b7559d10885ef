"""What a run is made of: a frozen record, read from YAML."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from ..configuring import read, read_yaml, settle
from ..precision import Precision
from ..rewards.videos import RATE
from .ddpo import DDPO
from .distillation import GuidanceDistillation
from .draft import DRaFT
from .errors import LoraTrainingError
from .grpo import FlowGRPO
from .jitter import Jitter
from .monitors import Alarms
from .nft import DiffusionNFT
from .refl import ReFL
from .rewards import JudgeConfig

SHIPPED: Final = Path(__file__).parent / "configs"
"""Configurations that come with the package; `read_config` takes their names without the folder and the ending."""


@dataclass(frozen=True)
class References:
    """Pictures that a judge compares with: the best of several of the prompt's own, chosen by that judge.

    Attributes:
        candidates: how many they are the best of.
        refresh: iterations after which a reference by the current model is replaced; one by the base never is.
    """

    candidates: int = 4
    refresh: int = 50


@dataclass(frozen=True)
class LoraTraining:
    """A run. Every field is a key of the YAML file, and may be given as it is written there: a name or a mapping for a
    record, a list or a single value for a tuple.

    Attributes:
        out: folder for the LoRA and all that is known of the run; its state is kept there too.
        algorithm: ``nft``, ``refl``, ``draft``, ``grpo`` or ``ddpo``, alone or with its options, e.g.
            ``{name: nft, beta: 0.5}``.
        warm_start: what the first iterations do in place of the algorithm: learn to paint as with guidance; None for
            nothing of the kind.
        pipeline: folder or hub id of a diffusers pipeline; None for the nano generator.
        prompts: file with a prompt on every line, or ``nano`` for prompts of the nano world's training combinations.
            For image-to-video a ``.jsonl``, whose records have a ``prompt`` and a ``first_frame``.
        prompt_count: how many prompts of the nano world.
        judges: what is to rise; one or several.
        instructions: file with instructions of your own, in TOML or JSON, which judges may be given by name.
        second_judge: a judge that is not trained against, to see when the reward rises alone; None for the oracle
            where the evaluation's prompts are all of the nano world, else for none.
        references: of judges that compare.
        jitter: how pictures are changed a little before judges see them whose gradient is climbed; None for not at all.
        height, width: of pictures; None for the pipeline's own.
        frames: of videos.
        fps: of videos, in frames per second, as judges are told.
        max_sequence_length: of T5's and other long encoders' tokens; None for the pipeline's own, and 1 for nano's.
        guidance: what models with embedded guidance (FLUX) are told.
        rank, alpha: of the LoRA.
        targets: ends of the names of the linear layers that get one; None for those in attention.
        quantization: of the frozen denoiser (QLoRA): ``nf4`` or ``int8`` by bitsandbytes, on a GPU.
        precision: of the computation; ``auto`` is bfloat16 where the hardware multiplies in it, float32 elsewhere. What
            learns is float32.
        checkpointing: compute activations anew in the backward pass in place of keeping them.
        iterations: of sampling and learning.
        groups: prompts per iteration, over all processes.
        group_size: pictures of each prompt.
        sampling_steps: denoising steps of the pictures that are learned from.
        micro_batch_size: rows (pictures, or steps of them) at a time in each process.
        decode_batch_size: pictures decoded and judged at a time.
        own_spread: divide advantages by the standard deviation of each group, in place of that over all.
        learning_rate: of AdamW.
        halving: iterations in which the learning rate halves, again and again, once rewards have begun; None to leave
            it as it is.
        average: share of itself that a running average of what is learned keeps from one iteration to the next; it is
            what is evaluated and saved, free of the noise of single steps. 0 for what was learned last.
        weight_decay, clip: of AdamW, and the largest norm of the gradient.
        warmup: optimizer steps in which the learning rate rises, from the first, and again when rewards begin.
        seed: of all that is drawn.
        save_every: iterations between saved states.
        evaluate_every: iterations between evaluations; the first is before any training.
        evaluation_prompts: file as of `prompts`, or ``nano`` for prompts of all kinds, a quarter of them with
            combinations held out of all training.
        evaluation_count, evaluation_size: how many prompts, and how many pictures of each.
        evaluation_steps: denoising steps of evaluated pictures.
        evaluation_guidance: classifier-free guidance of evaluated pictures; 1 for none.
        alarms: when to warn, and whether to stop.
        trackers: of Accelerate, beside `metrics.jsonl`, e.g. ``tensorboard`` or ``wandb``.
    """

    out: str
    algorithm: DiffusionNFT | ReFL | DRaFT | FlowGRPO | DDPO = field(default_factory=DiffusionNFT)
    warm_start: GuidanceDistillation | None = None
    pipeline: str | None = None
    prompts: str = "nano"
    prompt_count: int = 1000
    judges: tuple[JudgeConfig, ...] = field(default_factory=lambda: (JudgeConfig(),))
    instructions: str | None = None
    second_judge: JudgeConfig | None = None
    references: References = field(default_factory=References)
    jitter: Jitter | None = None
    height: int | None = None
    width: int | None = None
    frames: int = 1
    fps: float = RATE
    max_sequence_length: int | None = None
    guidance: float = 3.5
    rank: int = 32
    alpha: int = 64
    targets: tuple[str, ...] | None = None
    quantization: Literal["nf4", "int8"] | None = None
    precision: Precision = "auto"
    checkpointing: bool = False
    iterations: int = 300
    groups: int = 16
    group_size: int = 8
    sampling_steps: int = 10
    micro_batch_size: int = 16
    decode_batch_size: int = 16
    own_spread: bool = False
    learning_rate: float = 3e-4
    halving: int | None = None
    average: float = 0.0
    weight_decay: float = 1e-4
    clip: float = 1.0
    warmup: int = 0
    seed: int = 0
    save_every: int = 20
    evaluate_every: int = 20
    evaluation_prompts: str = "nano"
    evaluation_count: int = 32
    evaluation_size: int = 4
    evaluation_steps: int = 20
    evaluation_guidance: float = 1.0
    alarms: Alarms = field(default_factory=Alarms)
    trackers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        settle(self, LoraTrainingError)
        for problem in self.algorithm.problems():
            raise LoraTrainingError(f"algorithm: {problem}")
        for problem in self.warm_start.problems() if self.warm_start else ():
            raise LoraTrainingError(f"warm_start: {problem}")
        counts = (
            "rank", "iterations", "groups", "sampling_steps", "micro_batch_size", "decode_batch_size", "save_every",
            "evaluate_every", "evaluation_count", "frames", "prompt_count",
        )  # fmt: skip
        for name in counts:
            if getattr(self, name) < 1:
                raise LoraTrainingError(f"{name}: must be at least 1, not {getattr(self, name)}")
        for name in ("learning_rate", "clip", "alpha", "fps"):
            if not getattr(self, name) > 0:
                raise LoraTrainingError(f"{name}: must be above zero, not {getattr(self, name)}")
        if self.halving is not None and self.halving < 1:
            raise LoraTrainingError(f"halving: must be at least 1, not {self.halving}")
        if not 0 <= self.average < 1:
            raise LoraTrainingError(f"average: must lie in [0, 1), not {self.average}")
        if not self.judges:
            raise LoraTrainingError("judges: names none; without a reward there is nothing to learn")
        if self.algorithm.climbs_gradient and any(judge.explain for judge in self.judges):
            raise LoraTrainingError(
                f"judges: {self.algorithm.name} climbs the gradient of verdicts, and none passes through a chain of "
                "thought; leave out explain, or take nft, grpo or ddpo"
            )
        if not self.algorithm.climbs_gradient and self.group_size < 2:
            raise LoraTrainingError(f"group_size: {self.algorithm.name} compares pictures of one prompt; at least 2")
        if self.group_size < 1 or self.evaluation_size < 2:
            raise LoraTrainingError("group_size and evaluation_size: must be at least 1 and 2")
        if self.group_size % self.algorithm.updates:
            raise LoraTrainingError(
                f"group_size: {self.group_size} pictures cannot be shared among {self.algorithm.updates} updates evenly"
            )
        pictures = self.groups * self.group_size
        if self.warm_start and pictures % self.warm_start.updates:
            raise LoraTrainingError(
                f"warm_start: {self.groups} groups of {self.group_size} pictures cannot be shared among its "
                f"{self.warm_start.updates} updates evenly; change groups, group_size, or updates of the warm start"
            )

    @property
    def all_judges(self) -> tuple[JudgeConfig, ...]:
        """Those whose reward is to rise, and the second one."""
        return self.judges if self.second_judge is None else (*self.judges, self.second_judge)

    @property
    def guides(self) -> bool:
        """Whether anything is painted with classifier-free guidance, which takes the empty prompt."""
        explores = isinstance(self.algorithm, DiffusionNFT) and self.algorithm.guidance != 1
        return explores or self.warm_start is not None or self.evaluation_guidance != 1


UNBOUND: Final = frozenset(
    {
        "out", "iterations", "micro_batch_size", "decode_batch_size", "save_every", "trackers", "alarms",
        "evaluate_every", "checkpointing",
    }
)  # fmt: skip
"""What may change from a run to its resumption: all but these has a say in what is learned, or in how it is measured
against what the base was found to be.
"""


def read_config(path: str | Path, **changes: Any) -> LoraTraining:
    """Read a YAML file, or a shipped configuration by its name; `changes` (where not None) replace what it says.

    Raises:
        LoraTrainingError: the file cannot be read, has an unknown key, or a value that makes no sense.
    """
    source = Path(path)
    if not source.exists() and (SHIPPED / f"{path}.yaml").is_file():
        source = SHIPPED / f"{path}.yaml"
    if not source.exists():
        there = ", ".join(sorted(item.stem for item in SHIPPED.glob("*.yaml")))
        raise LoraTrainingError(f"{path}: there is no such file. Shipped configurations: {there}")
    content = read_yaml(source, LoraTrainingError)
    content |= {name: value for name, value in changes.items() if value is not None}
    return read(LoraTraining, content, str(path), LoraTrainingError)


def with_sources(config: LoraTraining, locate: Callable[[str], str]) -> LoraTraining:
    """The configuration with the names of all its models, pipeline and judges, as `locate` puts them.

    A run in a process or a folder of its own needs whole paths in place of those that hold where it was written.
    """

    def moved(judge: JudgeConfig) -> JudgeConfig:
        return replace(judge, model=judge.model and locate(judge.model))

    return replace(
        config,
        pipeline=config.pipeline and locate(config.pipeline),
        judges=tuple(map(moved, config.judges)),
        second_judge=config.second_judge and moved(config.second_judge),
    )
