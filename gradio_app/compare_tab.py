"""The tab Compare: which of two pictures is better, by whom, by what, and why."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from .comparing import CRITERIA, compare, instructions_for
from .examples import write_pairs
from .models import Models
from .pictures import enlarged, opened, upload
from .telling import say, told
from .verdicts import as_html


def tab(models: Models) -> None:
    """Lay the tab out."""

    @told
    def run(
        a: str | None,
        b: str | None,
        prompt: str | None,
        judges: list[str],
        criteria: list[str],
        own: str | None,
        explain: bool,
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        by = instructions_for(criteria, own or "")
        (first, said), (second, also) = opened(a, "A"), opened(b, "B")
        steps = compare(models.judge, judges, first, second, prompt or "", by, explain, [*said, *also])
        for known in steps:
            waiting = explain and len(known.reasoned) + len(known.failures) < len(judges)
            yield as_html(known, waiting), known.as_dict()

    @told
    def overlaid(a: str | None, b: str | None) -> Any:
        if not a or not b:
            return gr.ImageSlider(visible=False)
        return gr.ImageSlider((enlarged(opened(a, "A")[0]), enlarged(opened(b, "B")[0])), visible=True)

    with gr.Row():
        with gr.Column(min_width=320):
            with gr.Row():
                a, b = upload("A", "compare-a"), upload("B", "compare-b")
            slider = gr.ImageSlider(
                label="A | B", visible=False, interactive=False, format="png", elem_classes="rd-pixels", max_height=420
            )
        with gr.Column(min_width=320):
            prompt = gr.Textbox(label="Prompt", placeholder="what both were to show", max_length=2000)
            criteria = gr.CheckboxGroup(list(CRITERIA), value=list(CRITERIA), label="Criteria")
            judges = gr.CheckboxGroup(models.judges, value=models.judges[:1], label="Judges")
            with gr.Accordion("Criteria of your own", open=False):
                own = gr.Textbox(
                    label="One a line",
                    placeholder="mood: Judge how gloomy the picture is. Ignore the prompt.",
                    lines=3,
                    info="A name, a colon, and what to judge by. The nano judges know the presets only.",
                )
            explain = gr.Checkbox(label="Explain the first criterion", value=False)
            with gr.Row():
                go = gr.Button("Compare", variant="primary", elem_id="compare-go")
                stop = gr.Button("Stop", elem_id="compare-stop")
    result = gr.HTML(say("Choose two pictures, or one of the examples, and compare."), elem_id="compare-result")
    with gr.Accordion("As JSON", open=False):
        as_json = gr.JSON(label="Result", buttons=["copy"])
    folder = Path(tempfile.mkdtemp(prefix="rewarddance-examples-"))
    gr.Examples(write_pairs(folder), [a, b, prompt], label="Examples of the nano world", cache_examples=False)

    for picture in (a, b):
        picture.change(overlaid, [a, b], slider, api_visibility="private", show_progress="hidden")
    given = [a, b, prompt, judges, criteria, own, explain]
    started = go.click(run, given, [result, as_json], api_name="compare", concurrency_limit=8, concurrency_id="judging")
    also = prompt.submit(
        run, given, [result, as_json], api_visibility="private", concurrency_limit=8, concurrency_id="judging"
    )
    stop.click(None, cancels=[started, also])
