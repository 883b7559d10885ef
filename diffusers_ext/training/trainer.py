"""A run from its beginning to its end: iterate, look, save, and stop when it is time."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from ..configuring import plain
from ..progress import Progress, counted
from ..states import claimed
from .config import LoraTraining
from .errors import JudgeGoneError, LoraTrainingError
from .evaluating import Exam
from .inputs import read_inputs
from .journal import Journal
from .learner import Learner
from .monitors import alarms_of, gap, lasting, summary
from .pictures import save_grid, save_plot
from .prompts import texts
from .saving import save_lora
from .setup import Setup, prepare
from .state import FILE, load_state, save_state
from .studio import Studio

STOPPED: Final = "stopped as asked"
"""Why a run ended whose caller or user wanted it to."""


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        out: the folder; `pipeline.load_lora_weights` takes it.
        iterations: that have been done.
        finished: whether that is all of them.
        reason: why it ended before, e.g. the alarm that stopped it; None if it did not.
        alarms: what the last evaluation warns of, by the names of :class:`~diffusers_ext.training.monitors.Alarms`.
    """

    out: Path
    iterations: int
    finished: bool
    reason: str | None = None
    alarms: dict[str, str] = field(default_factory=dict)


def train_lora(config: LoraTraining, progress: bool = False, cancel: Callable[[], bool] | None = None) -> Result:
    """Fine-tune a pipeline's denoiser against judges, or go on with a run that was stopped.

    `config.out` gets the LoRA in diffusers' and ComfyUI's form, `metrics.jsonl`, `samples/` with a grid of pictures of
    each evaluation, `monitors.png`, and `state.pt`, from which the same call goes on exactly.

    Args:
        config: the run.
        progress: show progress, evaluations and alarms on stderr.
        cancel: asked before every iteration; once it returns true, the run is saved and ends. So do SIGINT and SIGTERM.

    Raises:
        LoraTrainingError: what is no configuration or cannot be trained, a folder that another process is training in,
            a configuration that differs from the run's that is gone on with, a reward or a loss that is no number, a
            full disk, a judge that is gone, too little memory.
        InstructionError: an instruction that nobody has written.
        ModelError: the pipeline or a judge cannot be loaded.
    """
    if not isinstance(config, LoraTraining):
        raise LoraTrainingError(f"expected a LoraTraining, which read_config makes of a file, not {config!r}")
    inputs = read_inputs(config)
    with claimed(Path(config.out), LoraTrainingError):
        setup = prepare(config, inputs)
        with _stopping(cancel, progress and setup.studio.accelerator.is_main_process) as asked:
            try:
                return _run(config, setup, progress, asked)
            except torch.cuda.OutOfMemoryError as error:
                raise LoraTrainingError(
                    f"there is not enough memory on {setup.studio.device}. Lower micro_batch_size and "
                    f"decode_batch_size (now {config.micro_batch_size} and {config.decode_batch_size}), set "
                    "`checkpointing: true`, or hold the denoiser in `quantization: nf4`. The first three may change "
                    "when the run goes on"
                ) from error


def _run(config: LoraTraining, setup: Setup, progress: bool, asked: Callable[[], bool]) -> Result:
    studio, out, main = setup.studio, Path(config.out), setup.studio.accelerator.is_main_process
    policy, optimizer, digests = studio.policy, setup.optimizer, setup.inputs.digests()
    state = load_state(out, config, digests)
    start, seconds, learner = 0, 0.0, Learner(config, setup)
    if state is not None:
        learner.load(state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        start, seconds = state["iteration"], state["seconds"]
    for store in studio.stores.values():
        store.forget_after(start)
    journal = Journal(out, start) if main else None

    def save(iteration: int) -> None:
        if main:
            optimizer_state = optimizer.state_dict()
            save_state(out, iteration, seconds, learner.weights(), optimizer_state, config, digests)
            told = {"iterations": iteration, "config": plain(config), "pipeline": config.pipeline or "nano"}
            family, part = type(studio.generator.pipeline).__name__, studio.generator.calling.denoiser
            with policy.acting_as(learner.average):
                save_lora(out, studio.generator.denoiser, part, family, setup.lora, told)

    reason: str | None = None
    iteration = saved = start
    with counted("training", config.iterations, start, progress and main) as shown:
        if config.warm_start and start < config.warm_start.iterations:
            shown.say(f"iterations 1 to {config.warm_start.iterations} are the warm start, in which no judge has a say")
        while True:
            try:
                if iteration % config.evaluate_every == 0 or iteration == config.iterations:
                    if _any(studio, journal is not None and not journal.has_evaluation(iteration)):
                        if iteration == 0:
                            count = len(setup.inputs.asked) * config.evaluation_size
                            shown.say(f"painting {count} pictures as the base does")
                        with policy.acting_as(learner.average):
                            _evaluate(studio, setup.exam, journal, out, iteration, seconds, shown)
                    studio.accelerator.wait_for_everyone()
                    reason = _alarm(config, journal, studio)
                if reason is None and _any(studio, asked()):
                    reason = STOPPED
                if reason is not None or iteration >= config.iterations:
                    break
                began = time.monotonic()
                figures = learner.iterate(iteration)
            except JudgeGoneError:
                save(iteration)  # judges are asked before anything is learned, so this is between two iterations
                raise
            seconds += time.monotonic() - began
            iteration += 1
            if journal is not None:
                journal.add_step(iteration - 1, {**figures, "seconds": round(seconds, 2)})
            studio.accelerator.log({f"train/{name}": value for name, value in figures.items()}, step=iteration)
            # A warm start has no reward.
            shown.advance(**{name: figures[name] for name in ("reward", "loss") if name in figures})
            if iteration % config.save_every == 0:
                save(iteration)
                saved = iteration
    if iteration > saved or not (out / FILE).exists():
        save(iteration)
    if config.trackers:
        studio.accelerator.end_training()
    alarms = alarms_of(journal.evaluations, config.alarms) if journal is not None and journal.evaluations else {}
    return Result(out, iteration, iteration >= config.iterations, reason, alarms)


def _evaluate(
    studio: Studio,
    exam: Exam,
    journal: Journal | None,
    out: Path,
    iteration: int,
    seconds: float,
    shown: Progress,
) -> None:
    """To be called by all processes; the first has the journal."""
    seen = exam.sit(studio, iteration, iteration * studio.config.groups * studio.config.group_size, seconds)
    if seen is None or journal is None:
        return
    found, images, rewards = seen
    history = [*journal.evaluations, found]
    alarms = alarms_of(history, studio.config.alarms)
    save_grid(out / "samples" / f"{iteration:06d}.png", images, texts(exam.prompts), rewards)
    journal.add_evaluation(found, alarms)
    save_plot(out / "monitors.png", journal.evaluations, journal.steps, studio.config.alarms)
    figures = {f"evaluation/{name}": value for name, value in found.as_dict().items() if value is not None}
    if (distance := gap(history)) is not None:
        figures["evaluation/gap"] = distance
    studio.accelerator.log(figures, step=iteration)
    shown.say(summary(history))
    for name, text in alarms.items():
        shown.say(f"alarm, {name}: {text}")


def _alarm(config: LoraTraining, journal: Journal | None, studio: Studio) -> str | None:
    """Why the run is to stop, the same in all processes."""
    raised = lasting(journal.evaluations, config.alarms) if journal is not None and config.alarms.stop else {}
    if not _any(studio, bool(raised)):
        return None
    return "; ".join(f"{name}: {text}" for name, text in raised.items()) or "an alarm"


def _any(studio: Studio, here: bool) -> bool:
    """Whether it is so in any process."""
    if studio.accelerator.num_processes == 1:
        return here
    flag = torch.tensor(float(here), device=studio.device)
    return bool(studio.accelerator.reduce(flag, "sum") > 0)


@contextmanager
def _stopping(cancel: Callable[[], bool] | None, told: bool) -> Iterator[Callable[[], bool]]:
    """Whether somebody wants to stop: the caller, Ctrl-C or SIGTERM. A second Ctrl-C stops at once.

    `told` is whether stderr gets an answer to the first.
    """
    received: list[int] = []
    before: dict[int, Any] = {}

    def receive(number: int, frame: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        if told:
            # Whatever writes to stderr may be interrupted here, and does not let itself be entered again.
            os.write(2, b"\nends after this iteration and saves it; once more to end now, without what is not saved\n")

    if threading.current_thread() is threading.main_thread():
        for kind in (signal.SIGINT, signal.SIGTERM):
            before[kind] = signal.signal(kind, receive)
    try:
        yield lambda: bool(received) or (cancel is not None and cancel())
    finally:
        for number, handler in before.items():
            with contextlib.suppress(TypeError, ValueError):
                signal.signal(number, handler)
