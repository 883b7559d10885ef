"""Training runs under one folder: begun, watched, stopped and gone on with, each in a process of its own.

All that is known of a run lies in its folder, so that neither a reload of the page nor its restart forgets any. A run
that exhausts the memory, or crashes, takes its own process down and no other.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from diffusers_ext.configuring import plain, read_yaml
from diffusers_ext.metrics import FILE as METRICS
from diffusers_ext.metrics import Entry, read_entries
from diffusers_ext.rewards.errors import RewardDanceError

from .trainee import BEGUN, CONFIG, ENDED, busy

if TYPE_CHECKING:
    from diffusers_ext.training import LoraTraining

State: TypeAlias = Literal["training", "ending", "finished", "stopped", "failed", "interrupted"]

LORA: Final = "pytorch_lora_weights.safetensors"
LORA_FOR_COMFYUI: Final = "comfyui_lora.safetensors"
_PROMPTS: Final = "prompts.txt"
_LOG: Final = "training.log"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_MOST_RUNS: Final = 100
_MOST_ITERATIONS: Final = 10_000
_MOST_PROMPTS: Final = 1000
_ROOT: Final = Path(__file__).resolve().parents[1]


class RunError(RewardDanceError):
    """A run that cannot be begun, gone on with or found."""


@dataclass(frozen=True)
class Run:
    """A run as its folder tells of it.

    Attributes:
        name: of it and of its folder.
        folder: where it keeps everything.
        config: its configuration, as plain values.
        state: ``training``; ``ending`` after the iteration it is in; ``finished`` with all iterations; ``stopped``
            before; ``failed`` with an error; ``interrupted`` when its process was killed.
        reason: why it stopped or failed, or None.
        steps: figures of every iteration.
        evaluations: figures of every evaluation, the first of them of the base.
        alarms: what is wrong by the last of them, by name.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    state: State
    reason: str | None
    steps: tuple[Mapping[str, Any], ...]
    evaluations: tuple[Mapping[str, Any], ...]
    alarms: Mapping[str, str]

    @property
    def going_on(self) -> bool:
        return self.state in ("training", "ending")

    @property
    def iterations(self) -> int:
        """How many have been done."""
        return int(self.steps[-1]["iteration"]) + 1 if self.steps else 0

    def sample(self, number: int) -> Path | None:
        """The grid of pictures of an evaluation, by its place among them; None where there is none."""
        if not self.evaluations:
            return None
        file = self.folder / "samples" / f"{self.evaluations[number]['iteration']:06d}.png"
        return file if file.is_file() else None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "name": self.name,
            "state": self.state,
            "reason": self.reason,
            "iterations": self.iterations,
            "of": self.config.get("iterations"),
            "alarms": dict(self.alarms),
            "evaluations": [dict(item) for item in self.evaluations],
            "steps": [dict(item) for item in self.steps],
            "config": dict(self.config),
        }


class Runs:
    """The runs under a folder. Threads may share it; other pages may have the same folder."""

    def __init__(self, folder: Path, device: str | None = None) -> None:
        self.folder = folder
        self._device = device
        self._process: subprocess.Popen[bytes] | None = None
        self._training: str | None = None
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """All runs, the latest first."""
        with suppress(OSError):
            found = [item for item in self.folder.iterdir() if _NAME.fullmatch(item.name) and _config(item).is_file()]
            return [item.name for item in sorted(found, key=lambda item: -_config(item).stat().st_mtime)]
        return []

    @property
    def training(self) -> str | None:
        """The run that this page is training now, if any."""
        alive = self._process is not None and self._process.poll() is None
        return self._training if alive else None

    def get(self, name: str) -> Run:
        """A run by its name.

        Raises:
            RunError: there is none.
        """
        folder = self._folder(name)
        entries = _entries(folder / METRICS)
        evaluations = [entry for entry in entries if "evaluation" in entry]
        state, reason = self._state(name, folder)
        return Run(
            name,
            folder,
            _plain_config(folder),
            state,
            reason,
            tuple(entry for entry in entries if "evaluation" not in entry),
            tuple(entry["evaluation"] for entry in evaluations),
            evaluations[-1].get("alarms", {}) if evaluations else {},
        )

    def signature(self, name: str) -> tuple[Any, ...]:
        """What differs as soon as there is something new to be seen of a run."""
        folder = self._folder(name)
        return name, *self._state(name, folder), _changed(folder / METRICS), _changed(folder / LORA)

    def loras(self, base: str | None) -> list[str]:
        """Runs that have a LoRA for a pipeline: its source, or None for the nano generator."""
        return [name for name in self.names if self._fits(self.folder / name, base)]

    def lora(self, name: str, base: str | None) -> Path:
        """The folder of a run's LoRA, for the pipeline `base`.

        Raises:
            RunError: there is no such run, it has saved none yet, or it is another pipeline's.
        """
        folder = self._folder(name)
        if not (folder / LORA).is_file():
            raise RunError(f"the run {name!r} has not saved a LoRA yet; wait for it, or choose another")
        if not self._fits(folder, base):
            other = _plain_config(folder).get("pipeline") or "the nano generator"
            raise RunError(f"the LoRA of {name!r} was trained for {other}, not for the pipeline that is chosen")
        return folder

    def start(self, name: str, config: LoraTraining, prompts: Sequence[str] = ()) -> None:
        """Begin a run.

        Args:
            name: small letters, digits, ``-`` and ``_``.
            config: its `out` is replaced by the run's own folder.
            prompts: to train on and to evaluate by, in place of those that the configuration names.

        Raises:
            RunError: the name is taken or none, another run is going on, or the folder cannot be written.
        """
        if not _NAME.fullmatch(name):
            raise RunError(
                f"the name {name!r} will not do; take at most 40 of a-z, 0-9, - and _, and begin with one of the first"
            )
        if config.iterations > _MOST_ITERATIONS or len(prompts) > _MOST_PROMPTS:
            raise RunError(f"a run takes at most {_MOST_ITERATIONS} iterations and {_MOST_PROMPTS} prompts of your own")
        with self._lock:
            self._make_sure()
            if len(self.names) >= _MOST_RUNS:
                raise RunError(f"there are {_MOST_RUNS} runs already; whoever keeps this page has to remove some")
            folder = self.folder / name
            if folder.exists():
                raise RunError(f"there is a run {name!r} already; choose another name, or go on with that one")
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                folder.mkdir()  # which only one page can do
                config = _kept_at_home(config)
                if prompts:
                    (folder / _PROMPTS).write_text("\n".join(prompts) + "\n", encoding="utf-8")
                    config = replace(config, prompts=_PROMPTS, evaluation_prompts=_PROMPTS)
                _write_config(folder, plain(config))
            except OSError as error:
                raise RunError(f"the run cannot be kept ({error.strerror})") from error
            try:
                self._spawn(name)
            except RunError:
                shutil.rmtree(folder, ignore_errors=True)  # nothing has begun in it
                raise

    def resume(self, name: str, iterations: int | None = None) -> None:
        """Go on with a run from its last saved state, exactly as if it had never been stopped.

        Args:
            name: of the run.
            iterations: how many it is to have in all, which may have changed; None for as many as before.

        Raises:
            RunError: there is no such run, one is going on, or nothing is left to do.
        """
        with self._lock:
            run = self.get(name)
            self._make_sure()
            total = iterations or int(run.config.get("iterations", 0))
            if not 1 <= total <= _MOST_ITERATIONS:
                raise RunError(f"a run takes at least 1 and at most {_MOST_ITERATIONS} iterations")
            if run.iterations >= total and run.state in ("finished", "stopped"):
                raise RunError(
                    f"the run {name!r} has done {run.iterations} iterations, so that nothing is left of {total}; "
                    "give it more to go on"
                )
            try:
                _write_config(run.folder, {**run.config, "iterations": total})
            except OSError as error:
                raise RunError(f"the run cannot be kept ({error.strerror})") from error
            self._spawn(name)

    def stop(self, name: str) -> None:
        """Have a run end after the iteration it is in, with everything saved. It ends, too, when this page does.

        Raises:
            RunError: it is not being trained by this page.
        """
        with self._lock:
            if self.training != name or self._process is None or self._process.stdin is None:
                raise RunError(f"the run {name!r} is not being trained by this page, so there is nothing to stop")
            self._process.stdin.close()

    def _folder(self, name: str) -> Path:
        if not isinstance(name, str) or not _NAME.fullmatch(name) or not _config(self.folder / name).is_file():
            raise RunError(f"there is no run {name!r} here")
        return self.folder / name

    def _fits(self, folder: Path, base: str | None) -> bool:
        try:
            return (folder / LORA).is_file() and _plain_config(folder).get("pipeline") == base
        except RunError:
            return False

    def _state(self, name: str, folder: Path) -> tuple[State, str | None]:
        if self.training == name and self._process is not None:
            ending = self._process.stdin is None or self._process.stdin.closed
            return ("ending" if ending else "training"), None
        told = next(iter(_entries(folder / ENDED)), None)
        if told is None:
            if busy(self.folder) == name:
                return "training", "by another page that has the same folder"
            return "interrupted", (
                "its process ended without a word: it was killed, often for want of memory; "
                "what it learned up to its last saved state is kept"
            )
        if "error" in told:
            return "failed", str(told["error"])
        reason = told.get("reason")
        done = bool(told.get("finished"))
        return ("finished" if done else "stopped"), None if reason is None else str(reason)

    def _make_sure(self) -> None:
        if find_spec("peft") is None:
            raise RunError("training needs peft: pip install 'rewarddance[train]'")
        if (going_on := self.training or busy(self.folder)) is not None:
            raise RunError(f"the run {going_on!r} is going on, and there is room for one at a time; wait, or stop it")

    def _spawn(self, name: str) -> None:
        folder = self.folder / name
        surroundings = dict(os.environ)
        surroundings["PYTHONPATH"] = os.pathsep.join(
            [
                str(_ROOT),
                *(str(Path(item).resolve()) for item in os.environ.get("PYTHONPATH", "").split(os.pathsep) if item),
            ]
        )
        if self._device is not None:
            surroundings["ACCELERATE_TORCH_DEVICE"] = self._device
            surroundings["ACCELERATE_USE_CPU"] = str(self._device == "cpu").lower()
        with (folder / _LOG).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "gradio_app.trainee"],
                cwd=folder,
                env=surroundings,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # so that Ctrl-C at the page does not stop it twice
            )
        assert process.stdout is not None
        with process.stdout as answer:
            said = answer.readline().decode("utf-8", "replace").strip()
        if said != BEGUN:
            process.wait()
            last = (folder / _LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise RunError(said or f"the training could not be started ({' '.join(last)})")
        self._process, self._training = process, name


def _config(folder: Path) -> Path:
    return folder / CONFIG


def _plain_config(folder: Path) -> dict[str, Any]:
    return dict(_parsed(_config(folder), _changed(_config(folder))))


@lru_cache(maxsize=2 * _MOST_RUNS)
def _parsed(path: Path, changed: int) -> dict[str, Any]:
    """Every open page asks for it every few seconds, and it hardly ever changes."""
    return read_yaml(path, RunError)


def _write_config(folder: Path, content: Mapping[str, Any]) -> None:
    import yaml

    partial = _config(folder).with_suffix(".partial")
    partial.write_text(yaml.safe_dump(dict(content), sort_keys=False), encoding="utf-8")
    partial.replace(_config(folder))


def _kept_at_home(config: LoraTraining) -> LoraTraining:
    """Paths that hold wherever the process runs: the run's own folder is where it is, all others are absolute."""
    from diffusers_ext.training.config import with_sources

    placed = with_sources(config, _placed)
    return replace(
        placed, out=".", prompts=_placed(config.prompts), evaluation_prompts=_placed(config.evaluation_prompts)
    )


def _placed(source: str) -> str:
    return str(Path(source).resolve()) if source and Path(source).exists() else source


def _entries(path: Path) -> list[Entry]:
    """None, too, where the file cannot be read: a page shows what there is."""
    try:
        return read_entries(path)
    except OSError:
        return []


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
