"""The process of one training run: `python -m gradio_app.trainee` in the run's folder.

It trains until it is done, or until its standard input ends: when the page asks it to stop, and when there is no page
any more. Either way the run is saved, and goes on exactly.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

CONFIG: Final = "run.yaml"
ENDED: Final = "ended.json"
"""How the run ended; not there while it goes on."""
BEGUN: Final = "begun"
"""What it says on its standard output once it is the only one that trains."""
_LOCK: Final = ".training.lock"
_CURRENT: Final = ".training"
_PATIENCE: Final = 2.0
"""Seconds in which a page that only looks lets go of the lock."""


def busy(runs: Path) -> str | None:
    """The run that some process is training under this folder, or None."""
    if not (runs / _LOCK).exists():
        return None
    try:
        with FileLock(runs / _LOCK, timeout=0):
            return None
    except Timeout:
        current = runs / _CURRENT
        return current.read_text(encoding="utf-8") if current.exists() else "of another page"


def main() -> int:
    """Train what this folder holds."""
    folder = Path.cwd()
    lock = FileLock(folder.parent / _LOCK, timeout=_PATIENCE)
    try:
        lock.acquire()
    except Timeout:
        print("another page that has the same folder is training a run; there is room for one at a time", flush=True)
        return 1
    (folder.parent / _CURRENT).write_text(folder.name, encoding="utf-8")
    (folder / ENDED).unlink(missing_ok=True)
    print(BEGUN, flush=True)
    os.dup2(2, 1)  # whatever libraries print goes to the log
    told = _train(folder)
    partial = folder / f"{ENDED}.partial"
    partial.write_text(json.dumps(told) + "\n", encoding="utf-8")
    partial.replace(folder / ENDED)
    lock.release()
    return 0


def _train(folder: Path) -> dict[str, Any]:
    stopped = threading.Event()
    threading.Thread(target=_wait_for_end, args=(stopped,), daemon=True).start()
    try:
        from diffusers_ext.cli.loading import quiet
        from diffusers_ext.rewards.errors import RewardDanceError
        from diffusers_ext.training import read_config, train_lora

        quiet()
        try:
            result = train_lora(read_config(folder / CONFIG), cancel=stopped.is_set)
        except RewardDanceError as error:
            return {"error": str(error)}
    except Exception as error:  # the page has to be told of whatever a library raises
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}
    return {"iterations": result.iterations, "finished": result.finished, "reason": result.reason}


def _wait_for_end(stopped: threading.Event) -> None:
    while os.read(0, 1):
        pass
    stopped.set()


if __name__ == "__main__":
    sys.exit(main())
