"""How the nano judges learn, by steps or by the clock; a run that was stopped goes on from where it was."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ..progress import counted
from ..states import read_state
from .training import Schedule, mixed_precision, save_state


@dataclass(frozen=True)
class Course:
    """What all courses of training have in common."""

    steps: int = 6000
    minutes: float | None = None
    """How long to train at most: the learning rate falls with the end that is nearer, that of steps or of minutes."""
    learning_rate: float = 1e-3
    warmup: int = 200
    """Steps over which the learning rate rises, at the start and where something new begins to be learned."""
    weight_decay: float = 0.02
    decay: float = 0.4
    """Share of the run, at its end, over which the learning rate falls."""
    parts: int = 3
    """Batches that a step's questions are cut into, each of questions alike in length."""
    device: str = "cpu"
    workers: int = 0
    """Processes that prepare lessons ahead; with none, each is prepared when its step begins."""
    save_every: int = 100
    seed: int = 0


Lessons = Callable[[int], Any]
"""The lesson of every step: the same for the same step, however often and wherever it is prepared."""


class Learner(nn.Module, ABC):
    """What learns: called with a lesson, it gives the cost (a scalar) and figures of how well it went."""

    @abstractmethod
    def save(self, out: Path) -> None:
        """Write what is to be kept after training."""


class _Prepared(Dataset):
    def __init__(self, lessons: Lessons) -> None:
        self.lessons = lessons

    def __getitem__(self, step: int) -> Any:
        return self.lessons(step)


def prepared(lessons: Lessons, steps: range, workers: int) -> Iterator[Any]:
    """The lessons of some steps in order, prepared ahead by other processes if there are any."""
    if workers == 0:
        return map(lessons, steps)
    # By default every tensor of a lesson that waits holds a file open, and there are only so many.
    torch.multiprocessing.set_sharing_strategy("file_system")
    return iter(
        DataLoader(
            _Prepared(lessons),
            batch_size=None,
            sampler=steps,
            num_workers=workers,
            prefetch_factor=4,
            worker_init_fn=_give_way,
        )
    )


def _give_way(worker: int) -> None:
    """Let the process that trains come first: what is prepared ahead can wait."""
    os.nice(10)


def on_device(value: Any, device: torch.device) -> Any:
    """The tensors in (dataclasses and tuples of) tensors, moved."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, tuple):
        return tuple(on_device(item, device) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        moved = {field.name: on_device(getattr(value, field.name), device) for field in fields(value)}
        return replace(value, **moved)
    return value


def optimizer_of(module: nn.Module, course: Course) -> torch.optim.AdamW:
    """Weight decay is for matrices; it would only hinder biases and norms."""
    parameters = list(module.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": course.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=course.learning_rate, betas=(0.9, 0.98))


def train(
    course: Course, learner: Learner, lessons: Lessons, out: Path, title: str, starts: tuple[int, ...] = (0,)
) -> None:
    """Train, or go on training: the state is kept in `out/training.pt`.

    Args:
        course: how long, how fast, and where.
        learner: what learns.
        lessons: what it learns from.
        out: an existing folder.
        title: what progress is shown of.
        starts: steps at which something new begins to be learned, so that the learning rate warms up again.
    """
    device = torch.device(course.device)
    learner.to(device)
    optimizer = optimizer_of(learner, course)
    state = read_state(out / "training.pt")
    if state is not None:
        learner.load_state_dict(state["learner"])
        optimizer.load_state_dict(state["optimizer"])
    start = state["step"] if state is not None else 0
    schedule = Schedule(course.steps, course.warmup, course.decay, starts=starts, minutes=course.minutes)
    steps = range(start, course.steps)
    begun = time.monotonic()
    with counted(title, course.steps, start, True) as progress:
        for step, lesson in zip(steps, prepared(lessons, steps, course.workers), strict=True):
            passed = (time.monotonic() - begun) / 60
            schedule.apply(optimizer, step, passed)
            with mixed_precision(device):
                cost, figures = learner(on_device(lesson, device))
            optimizer.zero_grad()
            cost.backward()
            norm = torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
            optimizer.step()
            progress.advance(loss=cost.detach(), **figures, grad=norm)
            over = course.minutes is not None and passed >= course.minutes
            if (step + 1) % course.save_every == 0 or step + 1 == course.steps or over:
                learner.save(out)
                parts = {"learner": learner.state_dict(), "optimizer": optimizer.state_dict()}
                save_state(out / "training.pt", {**parts, "step": step + 1, "recipe": asdict(course)})
            if over:
                return
