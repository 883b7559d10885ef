"""What visitors are told, always as text: nothing that they or a model wrote becomes part of the page."""

from __future__ import annotations

import functools
import html
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import gradio as gr
import pandas as pd

from diffusers_ext.rewards.errors import RewardDanceError

_LINES: Final = ("#4f6bed", "#e07b39", "#2f9e79", "#9b5de5")
"""Colours of lines in plots, in their order."""


def text(value: object) -> str:
    """Anything as HTML that shows it as it is."""
    return html.escape(str(value), quote=True)


def told(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Have what the visitor can mend shown on the page, and told to API clients, in place of a traceback."""
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def steps(*values: Any) -> Any:
            try:
                yield from handler(*values)
            except RewardDanceError as error:
                raise _as_shown(error) from error

        return steps

    @functools.wraps(handler)
    def whole(*values: Any) -> Any:
        try:
            return handler(*values)
        except RewardDanceError as error:
            raise _as_shown(error) from error

    return whole


def _as_shown(error: RewardDanceError) -> gr.Error:
    # Gradio renders the message of an error as HTML.
    return gr.Error(text(error), print_exception=False)


def line_colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each line of a plot."""
    return dict(zip(names, _LINES, strict=False))


def with_every_line(rows: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Rows of a plot (where, value, and the line it belongs to) that has the lines `names` from the first.

    Gradio never draws a line that its plot did not have at first, so each begins with a point that is nowhere.
    """
    first = rows.iloc[0, 0] if len(rows) else 0
    nowhere = pd.DataFrame([(first, float("nan"), name) for name in names], columns=rows.columns)
    return pd.concat([nowhere, rows], ignore_index=True) if len(rows) else nowhere


def facts(named: Mapping[str, object]) -> str:
    """Names and figures in a row."""
    items = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in named.items())
    return f'<dl class="rd-facts">{items}</dl>'


def say(message: str) -> str:
    """A line of HTML that says something."""
    return f'<p class="rd-note">{text(message)}</p>'
