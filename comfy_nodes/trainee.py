"""A training run in a process of its own, for the node Train Reward LoRA; started with the run's folder at hand.

It reads `run.yaml` there and leaves `result.json`. It ends at once when its standard input does, that is with whoever
started it, and so can be stopped at any time: a state is saved after every iteration, whole or not at all.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path


def main() -> None:
    sys.path[0] = str(Path(__file__).parents[1])  # the pack's root, in place of this folder
    threading.Thread(target=_end_with_input, daemon=True).start()
    from diffusers_ext.rewards.errors import RewardDanceError
    from diffusers_ext.training import read_config, train_lora

    try:
        found = train_lora(read_config("run.yaml"))
        told = {"iterations": found.iterations, "finished": found.finished, "reason": found.reason}
    except RewardDanceError as error:
        told = {"error": str(error)}
    partial = Path("result.partial")
    partial.write_text(json.dumps(told), encoding="utf-8")
    partial.replace("result.json")


def _end_with_input() -> None:
    while os.read(sys.stdin.fileno(), 1):  # past Python's own buffer, whose lock would be held when the run is over
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
