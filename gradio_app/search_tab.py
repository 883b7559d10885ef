"""The tab Best of N: paint many, keep the best."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import gradio as gr
import pandas as pd

from diffusers_ext.nano import GENERATOR_OPTIONS
from diffusers_ext.ranking import METHODS

from .comparing import CRITERIA
from .examples import PROMPTS
from .loras import lora_control, worn
from .models import LORA_GUIDANCE, Models
from .pictures import png
from .runs import Runs
from .searching import Point, Search, search
from .settings import Settings
from .stopping import stoppable
from .telling import facts, line_colours, say, told
from .turns import Turns

_COLUMNS: Final = ("network evaluations", "log-odds", "of")
_LINES: Final = ("best", "mean")


def painting_controls(models: Models, runs: Runs) -> tuple[gr.Textbox, list[Any]]:
    """The prompt and what else a picture is painted by: pipeline, judge, criterion, seed, steps, guidance and LoRA."""
    nano = GENERATOR_OPTIONS if models.is_nano else {}
    prompt = gr.Textbox(label="Prompt", value=PROMPTS[2] if models.is_nano else "", max_length=2000)
    with gr.Accordion("Models and settings", open=False):
        pipeline = gr.Dropdown(models.pipelines, value=models.pipelines[0], label="Pipeline")
        judge = gr.Dropdown(models.judges, value=models.judges[0], label="Judge")
        criterion = gr.Dropdown(list(CRITERIA), value="alignment", label="Criterion")
        with gr.Row():
            seed = gr.Number(label="Seed", value=0, precision=0, minimum=0, min_width=90)
            steps = gr.Number(
                label="Steps", value=nano.get("num_inference_steps"), precision=0, minimum=1, maximum=200, min_width=90
            )
            guidance = gr.Number(label="Guidance", value=nano.get("guidance_scale"), minimum=0, min_width=90)
        lora = lora_control(runs, models)
    usual = nano.get("guidance_scale")
    lora.input(
        lambda chosen: LORA_GUIDANCE if chosen else usual,
        lora,
        guidance,
        api_visibility="private",
        show_progress="hidden",
    )
    return prompt, [pipeline, judge, criterion, seed, steps, guidance, lora]


def tab(models: Models, runs: Runs, turns: Turns, settings: Settings) -> gr.Dropdown:
    """Lay the tab out; gives where a LoRA is chosen."""

    @told
    def run(
        prompt: str | None,
        n: float,
        method: str,
        pipeline: str,
        judge: str,
        criterion: str,
        seed: float,
        steps: float | None,
        guidance: float | None,
        lora: str | None,
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        options = models.options(steps, guidance)
        begun = partial(
            search,
            partial(models.painting, pipeline, worn(runs, models, pipeline, lora)),
            models.judge(judge),
            prompt or "",
            min(int(n), settings.most_samples),
            method,
            criterion,
            int(seed),
            options,
        )
        painted = {"prompt": prompt, "pipeline": pipeline, "judge": judge, "instruction": criterion, **options}
        if lora:
            painted["lora"] = lora
        with turns.taken(request), tempfile.TemporaryDirectory(prefix="rewarddance-") as folder:
            files: list[Path] = []
            for found in stoppable(begun):
                if found is None:
                    yield (gr.skip(),) * 5
                    continue
                for number in range(len(files), len(found.images)):
                    files.append(Path(folder) / f"seed{found.seeds[number]}.png")
                    files[-1].write_bytes(_with_facts(found, number, painted))
                best = Path(folder) / f"best-seed{found.seeds[found.best]}.png"
                best.write_bytes(_with_facts(found, found.best, painted))
                yield _gallery(found, files), counters(found), trace(found.trace), found.as_dict(), str(best)

    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            prompt, painted = painting_controls(models, runs)
            n = gr.Slider(1, settings.most_samples, value=min(16, settings.most_samples), step=1, label="N")
            method = gr.Dropdown(
                list(METHODS), value="pointwise", label="Method", info="Until all are there, they are ranked pointwise."
            )
            with gr.Row():
                go = gr.Button("Search", variant="primary", elem_id="search-go")
                stop = gr.Button("Stop", elem_id="search-stop")
            if models.is_nano:
                gr.Examples([[text] for text in PROMPTS], [prompt], label="Prompts that the nano generator knows")
        with gr.Column(scale=2, min_width=320):
            counts = gr.HTML(say("Samples appear here as they are made, best first."), elem_id="search-counts")
            gallery = gr.Gallery(
                label="Samples, best first",
                show_label=False,
                height="auto",
                columns=4,
                object_fit="contain",
                format="png",
                interactive=False,
                elem_id="search-gallery",
                elem_classes="rd-pixels",
                buttons=["download", "download_all", "fullscreen"],
            )
            download = gr.DownloadButton("Download the best, with all that made it", elem_id="search-download")
            plot = gr.LinePlot(
                x=_COLUMNS[0],
                y=_COLUMNS[1],
                color=_COLUMNS[2],
                color_map=line_colours(_LINES),
                title="The way of the search",
                height=220,
            )
            with gr.Accordion("As JSON", open=False):
                as_json = gr.JSON(label="Result", buttons=["copy"])

    given, shown = [prompt, n, method, *painted], [gallery, counts, plot, as_json, download]
    started = go.click(run, given, shown, api_name="best_of_n", concurrency_limit=2, concurrency_id="painting")
    stop.click(None, cancels=[started])
    return painted[-1]


def _gallery(found: Search, files: Sequence[Path]) -> list[tuple[str, str]]:
    return [(str(files[index]), f"{found.rewards[index]:+.2f}") for index in found.order]


def _with_facts(found: Search, number: int, painted: dict[str, Any]) -> bytes:
    seed, reward = found.seeds[number], f"{found.rewards[number]:.6f}"
    return png(found.images[number], {**painted, "seed": seed, "reward": reward, "method": found.method})


def counters(found: Search) -> str:
    """What the search has cost, as HTML."""
    return facts(
        {
            "samples": len(found.images),
            "network evaluations (NFE)": found.evaluations,
            "judgements": found.judgements,
            "best": f"{found.rewards[found.best]:+.2f}",
        }
    )


def trace(points: Sequence[Point]) -> pd.DataFrame:
    """The way of a search as rows to be drawn."""
    rows = [(point.evaluations, getattr(point, name), name) for name in _LINES for point in points]
    return pd.DataFrame(rows, columns=list(_COLUMNS))
