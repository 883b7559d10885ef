"""The tab Training: teach a pipeline what the judge finds good, and see whether it gets better or only its reward."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import gradio as gr
import pandas as pd
from PIL import Image

from diffusers_ext.rewards.errors import RewardDanceError
from diffusers_ext.training import LoraTraining

from .comparing import CRITERIA
from .loras import any_choice
from .models import Models
from .recipes import AS_GIVEN, changed, read_recipe, recipes
from .runs import LORA, LORA_FOR_COMFYUI, Run, RunError, Runs
from .settings import Settings
from .telling import facts, line_colours, say, text, told, with_every_line

_REFRESH: Final = 2.0
"""Seconds between looks at the run that is shown."""
_COLUMNS: Final = ("iteration", "value", "of")
_PLOTS: Final = {
    "Reward": ("evaluation", "learned from"),
    "Standard deviation of rewards": ("over all pictures", "within a prompt"),
    "Second judge": ("all prompts", "combinations never trained on", "and nothing else shown"),
    "Diversity (base: 1)": ("pixels", "features"),
}
"""Titles, and what is drawn under each."""
_LONGEST: Final = 100_000
_MOST_POINTS: Final = 300


def tab(models: Models, runs: Runs, settings: Settings, page: gr.Blocks) -> None:
    """Lay the tab out."""
    known = recipes(settings.recipes, models)
    first = next(iter(known), None)
    judged_by = list(dict.fromkeys([*CRITERIA, *(read_recipe(known, name).judges[0].instruction for name in known)]))

    @told
    def start(
        name: str | None,
        recipe: str | None,
        judge: str,
        criterion: str,
        second: str,
        iterations: float,
        seed: float,
        learning_rate: float,
        evaluate_every: float,
        prompts: str | None,
    ) -> tuple[Any, str]:
        if len(prompts or "") > _LONGEST:
            raise RunError(f"prompts of your own take at most {_LONGEST} letters in all")
        given = (iterations, seed, learning_rate, evaluate_every)
        if any(number is None for number in given):
            raise RunError("a number is missing; fill in iterations, seed, learning rate, and how often to evaluate")
        numbers = int(iterations), int(seed), float(learning_rate), int(evaluate_every)
        config = changed(read_recipe(known, recipe or ""), models, judge, criterion, second, *numbers)
        runs.start(
            (name or "").strip(), config, [line.strip() for line in (prompts or "").splitlines() if line.strip()]
        )
        return _choices(runs, (name or "").strip()), _suggested(runs, recipe or "run")

    @told
    def stop(name: str | None) -> None:
        runs.stop(name or "")

    @told
    def resume(name: str | None, iterations: float | None) -> None:
        runs.resume(name or "", None if iterations is None else int(iterations))

    @told
    def hand_out(name: str | None) -> Iterator[list[str]]:
        kept = runs.get(name or "").folder
        if not (kept / LORA).is_file():
            raise RunError("this run has not saved a LoRA yet")
        with tempfile.TemporaryDirectory(prefix="rewarddance-") as folder:
            files = {LORA: f"{kept.name}.safetensors", LORA_FOR_COMFYUI: f"{kept.name}-comfyui.safetensors"}
            yield [str(shutil.copyfile(kept / source, Path(folder) / target)) for source, target in files.items()]

    def watch(name: str | None, seen: Any) -> tuple[Any, ...]:
        try:
            now = runs.signature(name or "")
            if now == seen:
                return (gr.skip(),) * 9
            run = runs.get(name or "")
        except RewardDanceError as error:
            return (None, say(str(error) if name else "No run is chosen."), *(None,) * 7)
        told_of = {key: value for key, value in run.as_dict().items() if key != "steps"}  # which are drawn
        plots = (None if rows is None else with_every_line(rows, _PLOTS[title]) for title, rows in curves(run).items())
        return now, as_html(run), *plots, _picture(run, 0), _picture(run, -1), told_of

    def listed(seen: list[str] | None) -> tuple[Any, ...]:
        names = runs.names
        return (gr.skip(), gr.skip()) if names == seen else (names, gr.Dropdown(choices=names))

    def begin() -> tuple[Any, ...]:
        return _choices(runs, None), _suggested(runs, first or "run")

    def fill(recipe: str) -> tuple[Any, ...]:
        try:
            config = read_recipe(known, recipe)
        except RewardDanceError:
            return (gr.skip(),) * 6
        every = min(config.evaluate_every, config.iterations)
        return (
            _suggested(runs, recipe),
            config.judges[0].instruction,
            config.iterations,
            config.seed,
            config.learning_rate,
            every,
        )

    def total(name: str | None) -> Any:
        try:
            return runs.get(name or "").config.get("iterations")
        except RewardDanceError:
            return gr.skip()

    base = read_recipe(known, first) if first else LoraTraining("")
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            name = gr.Textbox(
                label="Name", max_length=40, info="Small letters, digits, - and _.", elem_id="training-name"
            )
            recipe = gr.Dropdown(list(known), value=first, label="Recipe")
            criterion = gr.Dropdown(
                list(dict.fromkeys([*CRITERIA, *judged_by])), value=base.judges[0].instruction, label="Criterion"
            )
            with gr.Row():
                iterations = gr.Number(label="Iterations", value=base.iterations, precision=0, minimum=1, min_width=100)
                every = gr.Number(
                    label="Evaluate every", value=base.evaluate_every, precision=0, minimum=1, min_width=100
                )
            with gr.Accordion("More settings", open=False):
                judge = gr.Dropdown([AS_GIVEN, *models.judges], value=AS_GIVEN, label="Judge")
                second = gr.Dropdown(
                    [AS_GIVEN, *models.judges],
                    value=AS_GIVEN,
                    label="Second judge",
                    info="Is never trained against. In the nano world it is the oracle, which knows the truth.",
                )
                with gr.Row():
                    seed = gr.Number(label="Seed", value=base.seed, precision=0, minimum=0, min_width=100)
                    learning_rate = gr.Number(label="Learning rate", value=base.learning_rate, minimum=0, min_width=100)
                prompts = gr.Textbox(label="Prompts of your own, one a line", lines=3, info="None: as the recipe says.")
            go = gr.Button("Start training", variant="primary", elem_id="training-go")
            gr.HTML(say("One run at a time. It goes on when you close this page, and can be stopped and gone on with."))
        with gr.Column(scale=2, min_width=320):
            shown = any_choice(gr.Dropdown(runs.names, value=_latest(runs), label="Run", elem_id="training-run"))
            with gr.Row(elem_id="training-ways"):
                halt = gr.Button("Stop", elem_id="training-stop", min_width=90)
                until = gr.Number(label="Iterations in all", precision=0, minimum=1, min_width=110)
                on = gr.Button("Go on", elem_id="training-on", min_width=90)
            status = gr.HTML(say("No run is chosen."), elem_id="training-status")
            with gr.Row(elem_id="training-curves"):
                plots = [
                    gr.LinePlot(
                        x=_COLUMNS[0],
                        y=_COLUMNS[1],
                        y_title=" ",
                        color=_COLUMNS[2],
                        color_map=line_colours(names),
                        title=title,
                        height=220,
                        min_width=280,
                    )
                    for title, names in _PLOTS.items()
                ]
            with gr.Row(elem_id="training-grids"):
                before, now = (_grid(title) for title in ("Before training", "At the last evaluation"))
            give = gr.Button("Get the LoRA, for diffusers and for ComfyUI", elem_id="training-give")
            files = gr.File(file_count="multiple", interactive=False, show_label=False, elem_id="training-files")
            with gr.Accordion("As JSON", open=False):
                as_json = gr.JSON(label="Run", buttons=["copy"])

    seen = gr.State(None)
    view = [seen, status, *plots, before, now, as_json]
    quietly: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    given = [name, recipe, judge, criterion, second, iterations, seed, learning_rate, every, prompts]
    # With progress shown, the word "Error" would cover what was written.
    started = go.click(start, given, [shown, name], api_name="start_training", show_progress="hidden")
    stopped = halt.click(stop, [shown], None, api_name="stop_training", show_progress="hidden")
    resumed = on.click(resume, [shown, until], None, api_name="resume_training", show_progress="hidden")
    for event in (started, stopped, resumed):
        event.success(watch, [shown, seen], view, **quietly)
    give.click(hand_out, [shown], files, api_name="lora_of_training")
    recipe.change(fill, [recipe], [name, criterion, iterations, seed, learning_rate, every], **quietly)
    shown.change(total, [shown], [until], **quietly).then(watch, [shown, seen], view, **quietly)
    page.load(begin, None, [shown, name], **quietly).then(total, [shown], [until], **quietly)
    timer, names = gr.Timer(_REFRESH), gr.State(None)
    timer.tick(watch, [shown, seen], view, queue=False, **quietly)
    timer.tick(listed, [names], [names, shown], queue=False, **quietly)  # others begin runs, too

    def training(name: str) -> dict[str, Any]:
        """How a run is getting on."""
        return runs.get(name).as_dict()

    gr.api(told(training), api_name="training")


def _latest(runs: Runs) -> str | None:
    return runs.training or next(iter(runs.names), None)


def _choices(runs: Runs, chosen: str | None) -> Any:
    return gr.Dropdown(choices=runs.names, value=chosen or _latest(runs))


def _suggested(runs: Runs, recipe: str) -> str:
    taken, number = set(runs.names), 1
    while (name := f"{recipe.lower()[:30]}-{number}") in taken:
        number += 1
    return name


def _grid(title: str) -> gr.Image:
    with gr.Column(min_width=280):
        gr.HTML(say(title))  # a label would lie on the first prompt
        return gr.Image(
            format="png",
            interactive=False,
            show_label=False,
            elem_classes="rd-pixels",
            buttons=["download", "fullscreen"],
        )


def _picture(run: Run, number: int) -> Image.Image | None:
    file = run.sample(number)
    if file is None:
        return None
    with Image.open(file) as image:
        return image.convert("RGB")


def as_html(run: Run) -> str:
    """How far a run is, what it has come to, and what is wrong with it."""
    found = {"state": run.state, "iteration": f"{run.iterations} of {run.config.get('iterations')}"}
    if run.evaluations:
        base, last = run.evaluations[0], run.evaluations[-1]
        found["reward"] = _from_to(base["reward"], last["reward"], "+.2f")
        found["standard deviation"] = _from_to(base["reward_deviation"], last["reward_deviation"], ".2f")
        if last.get("second") is not None:
            found["second judge"] = _from_to(base["second"], last["second"], ".2f")
    wrong = "".join(f'<p class="rd-failure">{text(said)}</p>' for said in run.alarms.values())
    reason = ""
    if run.reason is not None:
        reason = say(run.reason) if run.state != "failed" else f'<p class="rd-failure">{text(run.reason)}</p>'
    waiting = (
        say("Models are being loaded, and the base is evaluated ...") if run.going_on and not run.evaluations else ""
    )
    return f'<div class="rd-result">{facts(found)}{waiting}{reason}{wrong}</div>'


def _from_to(base: float, last: float, form: str) -> str:
    return f"{base:{form}} → {last:{form}}"


def curves(run: Run) -> dict[str, pd.DataFrame | None]:
    """What is drawn of a run, by the titles of the plots: rows of iteration, value, and what it is the value of.

    None where there is nothing yet: of an empty table Gradio takes the numbers to come for words.
    """
    looks = run.evaluations
    lines = (
        (_series(looks, "reward"), _thinned(_series(run.steps, "reward"))),
        (_series(looks, "reward_deviation"), _series(looks, "group_deviation")),
        (_series(looks, "second"), _series(looks, "held_out"), _series(looks, "exact")),
        (_shares(_series(looks, "pixel_diversity")), _shares(_series(looks, "feature_diversity"))),
    )
    found: dict[str, pd.DataFrame | None] = {}
    for (title, names), series in zip(_PLOTS.items(), lines, strict=True):
        rows = [(*point, name) for name, points in zip(names, series, strict=True) for point in points]
        found[title] = pd.DataFrame(rows, columns=list(_COLUMNS)) if rows else None
    return found


def _series(entries: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    return [(item["iteration"], item[key]) for item in entries if item.get(key) is not None]


def _thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """No more points than can be told apart, each the mean of its neighbours."""
    size = -(-len(points) // _MOST_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size or 1)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def _shares(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    base = points[0][1] if points else 0.0
    return [(iteration, value / base) for iteration, value in points] if base else []
