"""Training runs, each in a process of its own: what they are given, what they tell, and how they end.

In a process of its own a run takes its memory along when it ends, and can be stopped within a moment whatever it is
doing, with no more lost than the iteration that it is in.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from diffusers_ext.configuring import plain
from diffusers_ext.metrics import FILE, Entry, read_entries
from diffusers_ext.rewards.images import as_png
from diffusers_ext.training import LoraTrainingError
from diffusers_ext.training.config import with_sources
from diffusers_ext.training.prompts import Prompt, read_prompts

if TYPE_CHECKING:
    from PIL import Image

    from diffusers_ext.training import LoraTraining, Result

_PROGRAM: Final = Path(__file__).with_name("trainee.py")
_CONFIG: Final = "run.yaml"
_RESULT: Final = "result.json"
_LOG: Final = "log.txt"
_NANO: Final = "nano"
_PAUSE: Final = 0.2
"""Seconds between two looks at a run."""


def placed(
    config: LoraTraining, out: Path, prompts: str, beside: Path, first_frames: Sequence[Image.Image] = ()
) -> LoraTraining:
    """A configuration that can be run in the run's folder, and gone on with wherever that is moved to.

    Its prompts, and the pictures that videos begin with, are put there, and named as they are from there, so that the
    LoRA's header, which holds the configuration, says nothing of the machine.

    Args:
        config: what is to be trained.
        out: the run's folder, which is made.
        prompts: one on every line, in place of the configuration's; empty for those.
        beside: the folder that the configuration's own files are named from.
        first_frames: what videos begin with, one for all of `prompts` or one each.

    Raises:
        LoraTrainingError: its prompts are in a file that cannot be read, the folder cannot be made, or there is another
            number of first frames.
    """
    lines = [line.strip() for line in prompts.splitlines() if line.strip()]
    if first_frames and (not lines or len(first_frames) not in (1, len(lines))):
        raise LoraTrainingError(
            f"first_frames: got {len(first_frames)} for {len(lines)} prompts; give one for all, or one for each"
        )
    wanted = [config.prompts, config.evaluation_prompts]
    found = [None if lines or name == _NANO else _read(beside / name) for name in wanted]
    try:
        out.mkdir(parents=True, exist_ok=True)
        begun = [_picture(as_png(picture), ".png", out) for picture in first_frames]
        firsts = cycle(begun) if begun else repeat(None)
        own = [Prompt(line, next(firsts)) for line in lines]
        learned, asked = (_kept(given, out) if (given := own or those) else _NANO for those in found)
    except OSError as error:
        raise LoraTrainingError(f"{out}: cannot be written ({error})") from error

    def located(name: str) -> str:
        return str(beside / name) if (beside / name).is_dir() else name

    placed = with_sources(config, located)
    return replace(placed, out=".", prompts=learned, evaluation_prompts=asked, save_every=1)


def _read(path: Path) -> list[Prompt]:
    try:
        return read_prompts(path, "prompts")
    except LoraTrainingError as error:
        raise LoraTrainingError(
            f"this configuration takes its prompts from {path.name}, which cannot be read ({error}); write prompts "
            "into the node, one on every line"
        ) from error


def _kept(prompts: Sequence[Prompt], out: Path) -> str:
    """The name of a file with the prompts, by its content: others are another configuration."""
    if all(prompt.first_frame is None for prompt in prompts):
        lines, ending = [prompt.text for prompt in prompts], "txt"
    else:
        files = {prompt.first_frame for prompt in prompts if prompt.first_frame is not None}
        names = {file: _picture(file.read_bytes(), file.suffix, out).name for file in files}
        records = [
            {"prompt": prompt.text} | ({"first_frame": names[prompt.first_frame]} if prompt.first_frame else {})
            for prompt in prompts
        ]
        lines, ending = [json.dumps(record, ensure_ascii=False) for record in records], "jsonl"
    text = "".join(f"{line}\n" for line in lines)
    name = f"prompts-{_digest(text.encode())}.{ending}"
    (out / name).write_text(text, encoding="utf-8")
    return name


def _picture(content: bytes, ending: str, out: Path) -> Path:
    """A picture's file in the run's folder, by its content."""
    file = out / f"first-frame-{_digest(content)}{ending}"
    file.write_bytes(content)
    return file


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]


def run(
    config: LoraTraining, out: Path, cpu: bool, show: Callable[[list[Entry]], object], check: Callable[[], object]
) -> Result:
    """Train, or go on with what a folder holds; returns when the run has ended.

    Args:
        config: as :func:`placed` gives it.
        out: the run's folder.
        cpu: whether it must not use a GPU.
        show: told all that the run has told so far, whenever there is more.
        check: called several times a second; what it raises ends the run at once, and comes through. The run's state
            after its last iteration stays.

    Raises:
        LoraTrainingError: as :func:`~diffusers_ext.training.train_lora`, and when the process ends without a word.
    """
    result = out / _RESULT
    result.unlink(missing_ok=True)
    (out / _CONFIG).write_text(json.dumps(plain(config), indent=1), encoding="utf-8")
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"} if cpu else dict(os.environ)
    command = [sys.executable, str(_PROGRAM)]
    with (out / _LOG).open("wb") as log:
        process = subprocess.Popen(
            command, cwd=out, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        told = -1
        while process.poll() is None:
            check()
            entries = entries_of(out)
            if len(entries) != told:
                told = len(entries)
                show(entries)
            time.sleep(_PAUSE)
    finally:
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()
    show(entries_of(out))
    return _ended(result, out / _LOG, process.returncode)


def entries_of(out: Path) -> list[Entry]:
    """All that a run has told so far."""
    return read_entries(out / FILE)


def steps_of(entries: list[Entry]) -> list[Entry]:
    """The figures of iterations alone."""
    return [entry for entry in entries if "evaluation" not in entry]


def _ended(result: Path, log: Path, code: int) -> Result:
    if not result.exists():
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        raise LoraTrainingError(f"the run ended with code {code}: {last} (all of it is in {log})")
    from diffusers_ext.training import Result

    told = json.loads(result.read_text(encoding="utf-8"))
    if "error" in told:
        raise LoraTrainingError(told["error"])
    return Result(result.parent, **told)
