"""`app`: the page in the browser.

The page imports this package and never the reverse, so it is started by its name, as `python -m gradio_app` would.
"""

from __future__ import annotations

import runpy
import sys
from importlib.util import find_spec
from typing import Any, Final

import typer

from ..rewards.errors import RewardDanceError

SETTINGS: Final[dict[str, Any]] = {
    "add_help_option": False,
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True},
}
"""How the command is to be registered: every option, `--help` too, is the page's own."""


class AppError(RewardDanceError):
    """The page cannot be started."""


def start(context: typer.Context) -> None:
    """Open the page in the browser: compare, search, steer, vote (--help for its options)."""
    if find_spec("gradio_app") is None:
        raise AppError("the page is no part of this installation; install the whole project with its extra 'gradio'")
    sys.argv = ["rewarddance app", *context.args]
    runpy.run_module("gradio_app", run_name="__main__")
