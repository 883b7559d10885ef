"""The command line: `rewarddance ...`."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .. import __version__
from ..nano.commands import app as nano
from . import data, generating, judging, learning, measuring, moving, quantizing, serving, starting, training
from .loading import DONE
from .reporting import print_json


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        """Run a command. With --json stdout holds an object even where nothing comes of it, and says why."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            if "--json" in sys.argv:
                print_json({"error": getattr(error, "format_message", error.__str__)() or repr(error)})
            raise


app = typer.Typer(
    cls=_Commands,
    name="rewarddance",
    help="Judge, rerank and explain pictures with a generative reward model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(nano, name="nano")
app.add_typer(data.app, name="data")
for command in (
    judging.score,
    judging.compare,
    judging.rank,
    moving.score_video,
    moving.compare_videos,
    generating.generate,
    measuring.evaluate,
    measuring.demo,
    learning.train_reward,
    training.train_lora,
    quantizing.quantize,
    serving.serve,
    serving.score_dataset,
):
    app.command()(command)
app.command("app", **starting.SETTINGS)(starting.start)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rewarddance {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line. What users can mend ends with one line on stderr and exit status 2, never a traceback."""
    from ..rewards.errors import RewardDanceError

    try:
        app()
    except RewardDanceError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)
        sys.exit(130)
    finally:
        DONE.close()
