"""`train-reward`: a judge from preferences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options
from .loading import quiet
from .reporting import print_json


def train_reward(
    config: Annotated[Path, typer.Argument(help="A YAML file; docs/reward-training.md lists its keys.")],
    out: Annotated[Path | None, typer.Option(help="In place of the file's `out`.")] = None,
    steps: Annotated[int | None, typer.Option(help="In place of the file's `steps`.", min=1)] = None,
    json: options.AsJson = False,
) -> None:
    """Train a reward model on preferences. The same command goes on with a run that was stopped."""
    quiet()
    from ..reward_training import train_reward_model
    from ..reward_training.config import read_config

    run = read_config(config, out=None if out is None else str(out), steps=steps)

    folder = train_reward_model(run, progress=not json)
    if json:
        print_json({"out": str(folder), "steps": run.steps})
    else:
        typer.echo(f"{folder}: trained; judge with --model {folder}. What was measured is in {folder / 'README.md'}")
