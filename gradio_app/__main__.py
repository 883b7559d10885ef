"""`python -m gradio_app`: start the page."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # nothing is sent anywhere

import typer

from diffusers_ext.cli.options import MODELS
from diffusers_ext.rewards.errors import RewardDanceError

from .settings import Settings

_DEFAULTS = Settings()


def start(
    model: Annotated[
        list[str] | None,
        typer.Option(help=f"Reward model: {MODELS}; or a server's URL; may be repeated. Default: nano."),
    ] = None,
    pipeline: Annotated[
        list[str] | None, typer.Option(help="Diffusers pipeline: a folder or a hub id; may be repeated. Default: nano.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps. Default: a GPU if there is one.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for all of this machine's.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Port to listen at. Default: the first free one from 7860.")] = None,
    auth: Annotated[
        list[str] | None,
        typer.Option(
            envvar="REWARDDANCE_APP_AUTH",
            help="USER:PASSWORD of who may log in; may be repeated. Default: everyone.",
        ),
    ] = None,
    share: Annotated[bool, typer.Option("--share", help="Open a public tunnel through Gradio's servers.")] = False,
    votes: Annotated[Path, typer.Option(help="SQLite file of the arena's votes.")] = _DEFAULTS.votes,
    runs: Annotated[Path, typer.Option(help="Folder of training runs.")] = _DEFAULTS.runs,
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            help="What may be trained: a YAML file of `train-lora`, or the name of a shipped one; may be repeated. "
            "Default: the shipped ones of the pipelines."
        ),
    ] = None,
    training: Annotated[bool, typer.Option(help="Whether visitors may train.")] = True,
    max_samples: Annotated[int, typer.Option(help="The largest N of a search.", min=1)] = _DEFAULTS.most_samples,
    max_queue: Annotated[int, typer.Option(help="How many requests may wait.", min=1)] = _DEFAULTS.most_waiting,
    max_upload: Annotated[int, typer.Option(help="The most MB of one picture.", min=1)] = _DEFAULTS.most_megabytes,
) -> None:
    """Start the page: compare pictures, search, steer, vote, and train."""
    try:
        from .page import serve
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise RewardDanceError("the page needs gradio: pip install 'rewarddance[gradio]'") from error
    settings = Settings(
        tuple(model or ()),
        tuple(pipeline or ()),
        device,
        votes,
        runs,
        tuple(recipe or ()),
        training,
        max_samples,
        max_queue,
        max_upload,
    )
    serve(settings, host, port, _logins(auth or []), share)


def _logins(given: list[str]) -> list[tuple[str, str]]:
    found = [item.partition(":") for item in given]
    if any(not user or not password for user, _, password in found):
        raise typer.BadParameter("expected USER:PASSWORD", param_hint="--auth")
    return [(user, password) for user, _, password in found]


def main() -> None:
    """Run the command. What users can mend ends with one line on stderr and exit status 2, never a traceback."""
    try:
        typer.run(start)
    except RewardDanceError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
