"""Where a LoRA that was trained here is chosen in the tabs that paint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import gradio as gr

from .models import Models
from .runs import Runs

_REFRESH: Final = 3.0
"""Seconds between looks for new ones."""


def lora_control(runs: Runs, models: Models) -> gr.Dropdown:
    """Where a LoRA that was trained here is chosen for a pipeline; see :func:`offer_loras`."""
    choices = _loras(runs, models)
    return any_choice(
        gr.Dropdown(
            choices, value="", label="LoRA", info="From the tab Training. It wants little guidance: 1, as in training."
        )
    )


def offer_loras(runs: Runs, models: Models, controls: Sequence[gr.Dropdown], page: gr.Blocks) -> None:
    """Keep the choices of LoRAs up to date."""

    def look(seen: Any) -> tuple[Any, ...]:
        found = _loras(runs, models)
        if found == seen:
            return (gr.skip(),) * (1 + len(controls))
        return found, *(gr.Dropdown(choices=found) for _ in controls)

    seen = gr.State(None)
    for event in (page.load, gr.Timer(_REFRESH).tick):
        event(look, [seen], [seen, *controls], queue=False, api_visibility="private", show_progress="hidden")


def _loras(runs: Runs, models: Models) -> list[tuple[str, str]]:
    names = {name: None for base in models.pipelines for name in runs.loras(models.pipeline_source(base))}
    return [("none", ""), *((name, name) for name in names)]


def any_choice(place: gr.Dropdown) -> gr.Dropdown:
    """Choices come and go while the page is open, so a handler checks the choice and Gradio does not."""
    place.preprocess = lambda payload: payload  # type: ignore[method-assign]
    return place


def worn(runs: Runs, models: Models, pipeline: str, lora: str | None) -> Path | None:
    """The folder of the LoRA that was chosen for a pipeline, or None where none was.

    Raises:
        RunError: see :meth:`~gradio_app.runs.Runs.lora`.
    """
    return runs.lora(lora, models.pipeline_source(pipeline)) if lora else None
