"""`evaluate` and `demo`: see for yourself how good the judge is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..rewards.instructions import DEFAULT_INSTRUCTION
from . import options
from .loading import load_pipeline, load_reward_model, load_video_reward_model, on_terminal
from .preferring import Measured, measure_on_preferences
from .reporting import print_json, print_table

SECTIONS = ("reward", "rationales", "videos", "generator", "best-of-n")


def evaluate(
    data: Annotated[
        Path | None, typer.Option(help="A file of preferences to measure on; see docs/evaluation.md.")
    ] = None,
    section: Annotated[
        list[str] | None,
        typer.Option(help=f"With no --data, what to measure: {', '.join(SECTIONS)}; may be repeated. Default: all."),
    ] = None,
    size: Annotated[
        int, typer.Option(help="With no --data, cases per figure; the costly sections take a fraction of it.", min=40)
    ] = 1000,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A judge, as elsewhere, or a CLIP. With --data several may be given, to be set side by side."
        ),
    ] = None,
    pipeline: options.Pipeline = None,
    instruction: options.InstructionName = DEFAULT_INSTRUCTION,
    instructions_file: options.InstructionsFile = None,
    pointwise: Annotated[bool, typer.Option("--pointwise", help="With --data: score each picture alone.")] = False,
    plot: Annotated[Path | None, typer.Option(help="With --data: where to put a reliability diagram.")] = None,
    quantization: options.Quantization = None,
    device: options.Device = None,
    json: options.AsJson = False,
) -> None:
    """Measure judges on people's preferences (--data), or every figure of the nano models' cards."""
    if data is not None:
        measured = Measured(data, tuple(model or ()), instruction, instructions_file, pointwise, quantization, device)
        measure_on_preferences(measured, plot, json)
        return
    if model is not None and len(model) > 1:
        raise typer.BadParameter("several judges are set side by side on --data only", param_hint="--model")
    _measure_nano(section, size, model[0] if model else None, pipeline, quantization, device, json)


def _measure_nano(
    section: list[str] | None,
    size: int,
    model: str | None,
    pipeline: str | None,
    quantization: str | None,
    device: str | None,
    json: bool,
) -> None:
    from ..nano.evaluation import evaluate_all

    for name in section or ():
        if name not in SECTIONS:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(SECTIONS)}", param_hint="--section")
    sections = section or SECTIONS
    report = evaluate_all(
        load_reward_model(model, quantization, device),
        load_video_reward_model(model, quantization, device) if "videos" in sections else None,
        load_pipeline(pipeline, device),
        sections,
        size,
        progress=on_terminal() and not json,
    )
    if json:
        print_json({name: {key: figure.as_dict() for key, figure in found.items()} for name, found in report.items()})
        return
    for name, found in report.items():
        rows = [
            (key, f"{figure.value:.3f}", figure.n, _bar(figure.low, figure.high), "" if figure.passed else "missed")
            for key, figure in found.items()
        ]
        print_table(name, ("figure", "value", "n", "bar", ""), rows)


def _bar(low: float | None, high: float | None) -> str:
    return " and ".join(f"{sign} {bound:.3g}" for sign, bound in ((">=", low), ("<=", high)) if bound is not None)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the contact sheet.")] = Path("rewarddance-demo"),
    n: Annotated[int, typer.Option("--best-of", help="Pictures per prompt.", min=1)] = 16,
    seed: options.Seed = 0,
    model: options.Model = None,
    pipeline: options.Pipeline = None,
    quantization: options.Quantization = None,
    device: options.Device = None,
    json: options.AsJson = False,
) -> None:
    """Best-of-N on a handful of prompts, with the nano models: paint, judge, and check the choice against the truth."""
    from ..nano.demo import run

    report = run(
        out,
        load_reward_model(model, quantization, device),
        load_pipeline(pipeline, device),
        n=n,
        seed=seed,
        progress=on_terminal() and not json,
    )
    if json:
        print_json(report.as_dict())
        return
    mark = {True: "correct", False: "wrong"}
    rows: list[tuple[object, ...]] = [
        (row.prompt, mark[row.first], f"{row.random:.0%}", mark[row.chosen], mark[row.oracle], f"{row.rewards[0]:.2f}")
        for row in report.prompts
    ]
    rows.append(
        ("all prompts", *(f"{share:.0%}" for share in (report.first, report.random, report.chosen, report.oracle)), "")
    )
    columns = ("prompt", "first", "random", f"chosen of {n}", "oracle's best", "reward")
    print_table("Correct by the oracle, which the judge (instruction: alignment) knows nothing of", columns, rows)
    typer.echo(f"Contact sheet: {report.sheet}")
