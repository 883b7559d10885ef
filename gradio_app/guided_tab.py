"""The tab Guided: what a judge that looks on while a pipeline paints makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import gradio as gr
import pandas as pd

from .guiding import METHODS, Pair, guide, method_of
from .loras import worn
from .models import Models
from .runs import Runs
from .search_tab import painting_controls
from .settings import Settings
from .stopping import stoppable
from .telling import facts, line_colours, say, told, with_every_line
from .turns import Turns

_COLUMNS: Final = ("step", "log-odds", "of")
_LINES: Final = tuple(f"{run}, {which}" for run in ("base", "guided") for which in ("best", "mean"))


def tab(models: Models, runs: Runs, turns: Turns, settings: Settings) -> gr.Dropdown:
    """Lay the tab out; gives where a LoRA is chosen."""
    most = min(32, settings.most_samples)

    @told
    def run(
        prompt: str | None,
        method: str,
        particles: float,
        looks: float,
        width: float,
        strength: float,
        pipeline: str,
        judge: str,
        criterion: str,
        seed: float,
        steps: float | None,
        guidance: float | None,
        lora: str | None,
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        begun = partial(
            guide,
            partial(models.painting, pipeline, worn(runs, models, pipeline, lora)),
            models.judge(judge),
            prompt or "",
            method_of(method, min(int(particles), most), int(looks), int(width), strength),
            criterion,
            int(seed),
            models.options(steps, guidance),
        )
        with turns.taken(request):
            for found in stoppable(begun):
                if found is None:
                    yield (gr.skip(),) * 6
                    continue
                guided = found.guided.best if found.guided else None
                yield found.base.images[0], found.base.best, guided, counters(found), curves(found), found.as_dict()

    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            prompt, painted = painting_controls(models, runs)
            method = gr.Dropdown(list(METHODS), value=METHODS[0], label="Method")
            particles = gr.Slider(2, most, value=min(8, most), step=1, label="Particles")
            looks = gr.Slider(1, 10, value=4, step=1, label="Looks on the way")
            width = gr.Slider(1, most, value=2, step=1, label="Width (beam search)")
            strength = gr.Slider(0, 10, value=2, step=0.1, label="Strength (Feynman-Kac)")
            with gr.Row():
                go = gr.Button("Paint", variant="primary", elem_id="guided-go")
                stop = gr.Button("Stop", elem_id="guided-stop")
        with gr.Column(scale=2, min_width=320):
            with gr.Row():
                plain, best, guided = (
                    gr.Image(
                        label=name,
                        format="png",
                        height=260,
                        interactive=False,
                        min_width=140,
                        elem_classes="rd-pixels",
                        buttons=["download", "fullscreen"],
                    )
                    for name in ("Plain", "Best of N", "Guided")
                )
            counts = gr.HTML(
                say("The same noise with guidance and without, and what the judge made of either on the way."),
                elem_id="guided-counts",
            )
            plot = gr.LinePlot(
                x=_COLUMNS[0],
                y=_COLUMNS[1],
                color=_COLUMNS[2],
                color_map=line_colours(_LINES),
                title="Reward by step",
                height=260,
                elem_id="guided-plot",
            )
            with gr.Accordion("As JSON", open=False):
                as_json = gr.JSON(label="Result", buttons=["copy"])

    given = [prompt, method, particles, looks, width, strength, *painted]
    shown = [plain, best, guided, counts, plot, as_json]
    started = go.click(run, given, shown, api_name="guided", concurrency_limit=2, concurrency_id="painting")
    stop.click(None, cancels=[started])
    return painted[-1]


def curves(found: Pair) -> pd.DataFrame:
    """Reward by step as rows to be drawn."""
    return with_every_line(pd.DataFrame(found.curve(), columns=list(_COLUMNS)), _LINES)


def counters(found: Pair) -> str:
    """What either has come to and cost, as HTML."""
    lines: list[str] = []
    for name, run in (("Without guidance", found.base), ("Guided", found.guided)):
        if run is not None:
            rewards = run.ranking.rewards
            figures = {
                "best": f"{max(rewards):+.2f}",
                "mean": f"{sum(rewards) / len(rewards):+.2f}",
                "network evaluations (NFE)": run.evaluations,
                "judgements": run.judgements,
            }
            lines.append(say(name) + facts(figures))
    return "".join(lines)
