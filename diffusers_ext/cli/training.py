"""`train-lora`: a generator against judges."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options
from .loading import quiet
from .reporting import print_json


def train_lora(
    config: Annotated[
        str,
        typer.Argument(help="A YAML file, or the name of a shipped one, e.g. nano-nft. Keys: docs/training-keys.md."),
    ],
    out: Annotated[Path | None, typer.Option(help="In place of the file's `out`.")] = None,
    iterations: Annotated[int | None, typer.Option(help="In place of the file's `iterations`.", min=1)] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Print the configuration as YAML, with all defaults, and train nothing.")
    ] = False,
    json: options.AsJson = False,
) -> None:
    """Fine-tune a diffusers pipeline against judges. The same command goes on with a run that was stopped."""
    quiet()
    import yaml

    from ..configuring import plain
    from ..training import read_config
    from ..training import train_lora as train

    run = read_config(config, out=None if out is None else str(out), iterations=iterations)
    if show:
        typer.echo(yaml.safe_dump(plain(run), sort_keys=False, allow_unicode=True), nl=False)
        return
    result = train(run, progress=not json)
    if json:
        told = {"out": str(result.out), "iterations": result.iterations, "finished": result.finished}
        print_json({**told, "reason": result.reason, "alarms": result.alarms})
        return
    typer.echo(f"{result.out}: {result.iterations} of {run.iterations} iterations; load_lora_weights takes the folder")
    if run.warm_start is not None and 0 < result.iterations <= run.warm_start.iterations:
        typer.echo("so far all of it was warm start: no judge has had a say; go on with more --iterations", err=True)
    for name, text in result.alarms.items():
        typer.echo(f"alarm, {name}: {text}", err=True)
    if result.reason is not None:
        typer.echo(f"ended early: {result.reason}", err=True)
