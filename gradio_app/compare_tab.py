"""The tab Compare: which of two pictures or videos is better, by whom, by what, and why."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gradio as gr

from diffusers_ext.rewards.errors import RewardDanceError
from diffusers_ext.rewards.instructions import Task

from . import pictures, videos
from .comparing import CRITERIA, VIDEO_CRITERIA, Comparison, Shown, compare, instructions_for
from .examples import write_pairs, write_video_pairs
from .models import Models
from .sharing import packed, unpacked
from .telling import say, told
from .turns import Turns
from .verdicts import as_html

_QUERY: Final = "result"
_ADDRESS: Final = "(query) => [query ? window.location.origin + window.location.pathname + query : '']"


@dataclass(frozen=True)
class _Kind:
    """What is compared.

    Attributes:
        name: of one.
        task: of its instructions.
        criteria: presets.
        place: where one is given.
        opened: from its path and its name, what judges take, and what is to be said about it.
        examples: files of A and B and a prompt each, written into a folder.
        endpoint: its API.
        elem_id: what its elements' ids begin with.
    """

    name: str
    task: Task
    criteria: tuple[str, ...]
    place: Callable[[str, str], Any]
    opened: Callable[[str | None, str], tuple[Shown, list[str]]]
    examples: Callable[[Path], list[list[str]]]
    endpoint: str
    elem_id: str


_PICTURES: Final = _Kind(
    "picture", "t2i", CRITERIA, pictures.upload, pictures.opened, write_pairs, "compare", "compare"
)
_VIDEOS: Final = _Kind(
    "video",
    "t2v",
    VIDEO_CRITERIA,
    videos.upload,
    videos.opened,
    write_video_pairs,
    "compare_videos",
    "compare-videos",
)


@dataclass(frozen=True)
class _Form:
    """What a shared result fills in."""

    prompt: gr.Textbox
    criteria: gr.CheckboxGroup
    judges: gr.CheckboxGroup
    own: gr.Textbox
    result: gr.HTML
    as_json: gr.JSON

    @property
    def all(self) -> list[Any]:
        return [self.prompt, self.criteria, self.judges, self.own, self.result, self.as_json]


def tab(models: Models, turns: Turns, page: gr.Blocks) -> None:
    """Lay the tab out."""
    with gr.Tabs() as kinds:
        with gr.Tab("Pictures", id=_PICTURES.name):
            forms = [_form(_PICTURES, models, models.judges[0], turns)]
        with gr.Tab("Videos", id=_VIDEOS.name):
            if videos.readable():
                forms.append(_form(_VIDEOS, models, models.video_judge, turns))
            else:
                gr.HTML(say("Videos need PyAV: pip install 'rewarddance[video]'"))

    def restore(request: gr.Request) -> tuple[Any, ...]:
        nothing = (gr.skip(),) * (1 + 6 * len(forms))
        query = dict(request.query_params).get(_QUERY)
        if not query:
            return nothing
        try:
            known = unpacked(query)
        except RewardDanceError as error:
            return gr.skip(), *(gr.skip(),) * 4, say(str(error)), *nothing[6:]
        moving = len(forms) > 1 and bool(set(known.criteria) & set(_VIDEOS.criteria))
        kind = _VIDEOS if moving else _PICTURES
        filled, blank = _filled(known, kind, models), (gr.skip(),) * 6
        found = [filled if number == int(moving) else blank for number in range(len(forms))]
        return gr.Tabs(selected=kind.name), *(value for values in found for value in values)

    outputs = [kinds, *(item for form in forms for item in form.all)]
    page.load(restore, None, outputs, api_visibility="private", show_progress="hidden")


def _filled(known: Comparison, kind: _Kind, models: Models) -> tuple[Any, ...]:
    note = f"From a link, so not computed here, and without its {kind.name}s."
    return (
        known.prompt,
        [name for name in kind.criteria if name in known.criteria],
        [name for name in models.judges if name in known.judges] or gr.skip(),
        known.own,
        say(note) + as_html(known),
        known.as_dict(),
    )


def _form(kind: _Kind, models: Models, judge: str, turns: Turns) -> _Form:
    @told
    def run(
        a: str | None,
        b: str | None,
        prompt: str | None,
        judges: list[str],
        criteria: list[str],
        own: str | None,
        explain: bool,
        request: gr.Request,
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        by = instructions_for(criteria, own or "", kind.task)
        with turns.taken(request):
            (first, said), (second, also) = kind.opened(a, "A"), kind.opened(b, "B")
            notes: Sequence[str] = [*said, *also]
            for known in compare(models.judge, judges, first, second, prompt or "", by, explain, notes, own or ""):
                yield as_html(known), known.as_dict()

    @told
    def overlaid(a: str | None, b: str | None) -> Any:
        if not a or not b:
            return gr.ImageSlider(visible=False)
        first, second = (pictures.enlarged(pictures.opened(path, name)[0]) for path, name in ((a, "A"), (b, "B")))
        return gr.ImageSlider((first, second), visible=True)

    @told
    def link(result: Any) -> str:
        return f"?{_QUERY}={packed(result)}"

    with gr.Row():
        with gr.Column(min_width=320):
            with gr.Row():
                a, b = kind.place("A", f"{kind.elem_id}-a"), kind.place("B", f"{kind.elem_id}-b")
            if kind is _PICTURES:
                slider = gr.ImageSlider(
                    label="A | B",
                    visible=False,
                    interactive=False,
                    format="png",
                    elem_classes="rd-pixels",
                    max_height=420,
                )
                for place in (a, b):
                    place.change(overlaid, [a, b], slider, api_visibility="private", show_progress="hidden")
        with gr.Column(min_width=320):
            prompt = gr.Textbox(label="Prompt", placeholder="what both were to show", max_length=2000)
            criteria = gr.CheckboxGroup(list(kind.criteria), value=list(kind.criteria), label="Criteria")
            judges = gr.CheckboxGroup(models.judges, value=[judge], label="Judges")
            with gr.Accordion("Criteria of your own", open=False):
                own = gr.Textbox(
                    label="One a line",
                    placeholder=f"mood: Judge how gloomy the {kind.name} is. Ignore the prompt.",
                    lines=3,
                    info="A name, a colon, and what to judge by. The nano judges know the presets only.",
                )
            explain = gr.Checkbox(label="Explain the first criterion", value=False)
            with gr.Row():
                go = gr.Button("Compare", variant="primary", elem_id=f"{kind.elem_id}-go")
                stop = gr.Button("Stop", elem_id=f"{kind.elem_id}-stop")
    waiting = say(f"Choose two {kind.name}s, or one of the examples, and compare.")
    result = gr.HTML(waiting, elem_id=f"{kind.elem_id}-result")
    with gr.Accordion("Share", open=False):
        share = gr.Button("Link to this result", elem_id=f"{kind.elem_id}-share")
        address = gr.Textbox(
            label="Link",
            interactive=False,
            buttons=["copy"],
            info=f"It holds prompt, criteria and verdicts, and not the {kind.name}s.",
            elem_id=f"{kind.elem_id}-link",
        )
        as_json = gr.JSON(label="Result", buttons=["copy"])
    folder = Path(tempfile.mkdtemp(prefix="rewarddance-examples-"))
    gr.Examples(kind.examples(folder), [a, b, prompt], label="Examples of the nano world", cache_examples=False)

    given = [a, b, prompt, judges, criteria, own, explain]
    queued: dict[str, Any] = {"concurrency_limit": 8, "concurrency_id": "judging"}
    started = go.click(run, given, [result, as_json], api_name=kind.endpoint, **queued)
    also = prompt.submit(run, given, [result, as_json], api_visibility="private", **queued)
    stop.click(None, cancels=[started, also])
    quietly: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    share.click(link, as_json, address, **quietly).success(None, address, address, js=_ADDRESS)
    return _Form(prompt, criteria, judges, own, result, as_json)
