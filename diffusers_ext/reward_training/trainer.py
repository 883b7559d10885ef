"""The loop: draw records, ask about them, step, measure, save."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ..data import Located
from ..evaluation import lacking_first_frame
from ..metrics import Metrics
from ..precision import autocast
from ..progress import counted
from ..rewards.instructions import Instruction, get_instruction, load_instructions
from ..states import claimed
from ..trackers import check_trackers
from .adapting import load_student_judge, open_weights, save_judge
from .card import card_of
from .config import Questions, RewardTraining, TrainingError
from .lessons import NAMED, Lesson, lessons_of, read_records
from .sharing import release, settle, shards, share, state_of, take_up_weights, whole
from .state import load_state, save_state
from .students import BradleyTerryStudent, GenerativeStudent, Student

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ..rewards.model import RewardModel


def train_reward_model(config: RewardTraining, progress: bool = False) -> Path:
    """Train a judge, or go on with a run that was stopped; the result is a folder for `RewardModel.from_pretrained`.

    With several processes (`accelerate launch`), each takes its share of every batch, and what is learned is what one
    process would have learned. A run that is stopped, or killed, goes on where it was last saved, and ends in the same
    weights as one that was never stopped.

    Args:
        config: the run.
        progress: show progress on stderr.

    Returns:
        The folder, `config.out`.

    Raises:
        TrainingError: nothing to learn from, a tracker that is not known or not installed, a folder that another
            process is training in, a configuration that differs from the run's that is gone on with, a loss that is not
            finite, a full disk.
        ModelError: the judge to go on from cannot be loaded.
    """
    check_trackers(config.trackers, TrainingError)
    items = read_records(config.data, config.ties > 0)
    held = read_records([config.validation], False)[: config.validation_records] if config.validation else []
    own = load_instructions(config.instructions) if config.instructions else {}
    bys = {item.record.instruction or config.instruction for item in [*items, *held]}
    known = {name: get_instruction(name, own) for name in bys}
    if lacking := lacking_first_frame([*items, *held], config.instruction, own):
        named = "\n".join(f"  {item.place}" for item in lacking[:NAMED])
        raise TrainingError(
            f"{len(lacking)} records name no first_frame, which their instruction is about; the first are\n{named}"
        )
    with claimed(Path(config.out), TrainingError):
        return _train(config, items, held, known, progress)


def _train(
    config: RewardTraining, items: list[Located], held: list[Located], known: dict[str, Instruction], progress: bool
) -> Path:
    from accelerate import Accelerator

    out = Path(config.out)
    accelerator = Accelerator(
        mixed_precision="no",  # what is set here is set for the whole life of the process, so each run sees to its own
        log_with=list(config.trackers) or None,
        project_dir=str(out),
    )
    settle(accelerator, config)
    if config.trackers:
        accelerator.init_trackers("rewarddance")
    # What is to be spread over GPUs need not fit on one of them first.
    learner = _learner(config, torch.device("cpu") if shards(accelerator) else accelerator.device)
    judge, student = learner.judge, learner.student
    state = load_state(out, config)
    wrapped, optimizer = share(accelerator, student, _optimizer(student, config), state)
    start = 0 if state is None else state.step
    main = accelerator.is_main_process
    metrics = Metrics(out, lambda entry: entry["step"] <= start, TrainingError) if main else None
    began = time.monotonic()
    with counted("training", config.steps, start, progress and main) as shown:
        for step in range(start, config.steps):
            _set_rate(optimizer, config, step)
            loss, norm = _step(accelerator, wrapped, optimizer, judge, _drawn(items, config, step), known, config, step)
            figures = {"loss": loss, "gradient_norm": norm, "learning_rate": optimizer.param_groups[0]["lr"]}
            done = step + 1
            if held and (done % config.validate_every == 0 or done == config.steps):
                figures["validation_accuracy"] = _validate(accelerator, wrapped, judge, held, known, config)
            if metrics is not None:
                metrics.add({"step": done, "seconds": round(time.monotonic() - began, 3), **figures})
            if done % config.save_every == 0 or done == config.steps:
                state = state_of(accelerator, done, student, optimizer)
                if main:
                    save_state(out, state, config)
            if config.trackers:
                accelerator.log(figures, step=done)
            shown.advance(loss=loss)
    accelerator.wait_for_everyone()
    if metrics is not None:
        if shards(accelerator) and state is not None:
            learner = _learner(config, torch.device("cpu"))
            take_up_weights(learner.student, state.learned)
        measured = [entry["validation_accuracy"] for entry in metrics.entries if "validation_accuracy" in entry]
        card = card_of(config, measured[-1] if measured else None, len(items), len(held))
        head = learner.student.head if isinstance(learner.student, BradleyTerryStudent) else None
        save_judge(learner.judge, learner.adapted, head, config, card)
    accelerator.end_training()
    return out


@dataclass(frozen=True)
class _Learner:
    """A judge, the student that it is, and peft's model of it where an adapter learns."""

    judge: RewardModel
    student: Student
    adapted: Any


def _learner(config: RewardTraining, device: torch.device) -> _Learner:
    judge = load_student_judge(config, device)
    adapted = open_weights(judge, config)
    if config.objective == "bradley-terry":
        return _Learner(judge, BradleyTerryStudent(judge.backbone, config.checkpointing).to(device), adapted)
    return _Learner(judge, GenerativeStudent(judge.backbone, config.checkpointing, config.rationales), adapted)


def _optimizer(student: Student, config: RewardTraining) -> torch.optim.AdamW:
    learned = [item for item in student.parameters() if item.requires_grad]
    groups = [
        {"params": [item for item in learned if item.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [item for item in learned if item.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=config.learning_rate)


def _set_rate(optimizer: Any, config: RewardTraining, step: int) -> None:
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    along = min(1.0, max(0.0, (step - config.warmup) / max(1, config.steps - config.warmup)))
    rate = config.learning_rate * warm * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * along)))
    for group in optimizer.param_groups:
        group["lr"] = rate


def _drawn(items: Sequence[Located], config: RewardTraining, step: int) -> list[Located]:
    """The records of a step: epoch after epoch, each in an order of its own; known from the step alone."""
    places = range(step * config.batch_size, (step + 1) * config.batch_size)
    count = len(items)
    return [items[int(_order(config.seed, place // count, count)[place % count])] for place in places]


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)


def _step(
    accelerator: Accelerator,
    student: Any,
    optimizer: Any,
    judge: RewardModel,
    drawn: Sequence[Located],
    known: dict[str, Instruction],
    config: RewardTraining,
    step: int,
) -> tuple[float, float]:
    """One optimizer step on this process's share of the records; the loss of all, and the gradient's norm."""
    mine = range(accelerator.process_index, len(drawn), accelerator.num_processes)
    parts = [mine[first : first + config.micro_batch_size] for first in range(0, len(mine), config.micro_batch_size)]
    total = torch.zeros((), device=accelerator.device)
    # Set before every step, so that a resumed run drops out the same as one that was never stopped.
    torch.manual_seed(hash((config.seed, step, accelerator.process_index)) % 2**63)
    for number, part in enumerate(parts):
        lessons: list[Lesson] = []
        for place in part:
            by = known[drawn[place].record.instruction or config.instruction]
            rng = np.random.default_rng((config.seed, step, place))
            lessons += lessons_of(judge, drawn[place], by, config, rng)
        last = accelerator.sync_gradients = number == len(parts) - 1
        with autocast(accelerator.device, config.precision), _syncing(accelerator, student, last):
            # Gradients are averaged over processes, and losses are means over all records of the step.
            cost = student(lessons)[0] * (accelerator.num_processes / (2 * config.batch_size))
            accelerator.backward(cost)
        total += cost.detach()
    loss = float(accelerator.reduce(total, "mean"))
    if not math.isfinite(loss):
        named = "\n".join(f"  {item.place}: {item.record.prompt!r}" for item in drawn[:NAMED])
        raise TrainingError(
            f"the loss of step {step} is {loss}. Its {len(drawn)} records began with\n{named}\nThe state saved last is "
            "untouched; lower learning_rate, or use float32, and start again"
        )
    norm = accelerator.clip_grad_norm_([item for item in student.parameters() if item.requires_grad], config.clip)
    optimizer.step()
    optimizer.zero_grad()
    return loss, float(whole(norm))


def _syncing(accelerator: Accelerator, student: Any, last: bool) -> AbstractContextManager[Any]:
    return nullcontext() if last else accelerator.no_sync(student)


def _validate(
    accelerator: Accelerator,
    student: Any,
    judge: RewardModel,
    held: Sequence[Located],
    known: dict[str, Instruction],
    config: RewardTraining,
) -> float:
    """Share of the held-out pairs that are judged as people did, each asked in both orders.

    Every process judges a part. All run the model equally often, since its weights may be spread over them, so a few
    may be judged twice; they count once.
    """
    questions: Questions = "pointwise" if config.objective == "bradley-terry" else "pairwise"
    asked, count = replace(config, questions=questions, rationales=0.0), accelerator.num_processes
    places = [accelerator.process_index + count * turn for turn in range(math.ceil(len(held) / count))]
    mine = [held[place % len(held)] for place in places]
    right: list[bool] = []
    with torch.no_grad(), _without_dropout(student), autocast(accelerator.device, config.precision):
        for first in range(0, len(mine), 2 * config.micro_batch_size):
            part = mine[first : first + 2 * config.micro_batch_size]
            lessons: list[Lesson] = []
            for item in part:
                by = known[item.record.instruction or config.instruction]
                lessons += lessons_of(judge, item, by, asked, np.random.default_rng(0))
            log_odds = student(lessons)[1]
            ahead = (log_odds[::2] > log_odds[1::2]).tolist()
            right += [better == (item.record.choice == "a") for better, item in zip(ahead, part, strict=True)]
    release(student)
    everyone = accelerator.gather(torch.tensor(right, device=accelerator.device)).reshape(count, -1)
    return float(everyone.T.flatten()[: len(held)].double().mean())


@contextmanager
def _without_dropout(student: Any) -> Iterator[None]:
    dropping = [module for module in student.modules() if isinstance(module, nn.Dropout) and module.training]
    for module in dropping:
        module.eval()
    try:
        yield
    finally:
        for module in dropping:
            module.train()
