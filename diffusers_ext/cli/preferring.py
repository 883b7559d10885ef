"""The part of `evaluate` that holds judges against people's preferences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..rewards.errors import RewardDanceError
from .loading import load_judge_or_clip, on_terminal, quiet
from .reporting import finish, print_json, print_table

if TYPE_CHECKING:
    from ..evaluation import Estimate, PreferenceReport
    from ..evaluation.agreement import Agreement


@dataclass(frozen=True)
class Measured:
    """What is to be measured, and how; see `rewarddance evaluate`."""

    data: Path
    models: tuple[str, ...]
    instruction: str
    instructions_file: Path | None
    pointwise: bool
    quantization: str | None
    device: str | None


def measure_on_preferences(measured: Measured, plot: Path | None, json: bool) -> None:
    """Judge every record by every judge; records that cannot be used are named, and the rest is measured."""
    from ..data import locate
    from ..rewards.instructions import load_instructions

    if plot is not None:
        from ..evaluation.plots import check_path, plot_reliability

        check_path(plot)
    items, problems = locate([measured.data])
    own = load_instructions(measured.instructions_file) if measured.instructions_file else {}
    quiet()
    from ..evaluation import agreement, judge_preferences, lacking_first_frame, preference_report

    lacking = lacking_first_frame(items, measured.instruction, own)
    found = [
        *map(str, problems),
        *(f"{item.place}: names no first_frame, which its instruction is about" for item in lacking),
    ]
    errors = {str(number): message for number, message in enumerate(found)}
    for message in found:
        typer.echo(f"error: {message}", err=True)
    unfit = {item.place for item in lacking}
    items = [item for item in items if item.place not in unfit]
    if not items:
        raise RewardDanceError(f"{measured.data}: holds no record that can be measured on")

    judged = {}
    for name in dict.fromkeys(measured.models or (None,)):
        judge = load_judge_or_clip(name, measured.quantization, measured.device)
        # Folders elsewhere may have the same name.
        judged[judge.name if judge.name not in judged else str(name)] = judge_preferences(
            judge, items, measured.instruction, own, measured.pointwise, progress=on_terminal() and not json
        )
    reports = {name: preference_report(found) for name, found in judged.items()}
    shared = agreement(judged)
    if plot is not None:
        plot_reliability(reports, plot)
    if json:
        print_json(_as_dict(measured, reports, shared, list(errors.values())))
    else:
        _print(measured, len(items), reports, shared)
    finish(errors)


def _as_dict(
    measured: Measured,
    reports: Mapping[str, PreferenceReport],
    shared: Mapping[tuple[str, str], Agreement],
    errors: list[str],
) -> dict[str, Any]:
    return {
        "data": str(measured.data),
        "judges": {name: report.as_dict() for name, report in reports.items()},
        "agreement": [{"judges": list(pair), **asdict(found)} for pair, found in shared.items()],
        "errors": errors,
    }


def _print(
    measured: Measured,
    records: int,
    reports: Mapping[str, PreferenceReport],
    shared: Mapping[tuple[str, str], Agreement],
) -> None:
    names = dict.fromkeys(name for report in reports.values() for name in report.figures)
    rows = [(name, *(_cell(report.figures[name]) for report in reports.values())) for name in names]
    title = f"{measured.data}: {records:,} records (value, and its 95% interval)"
    print_table(title, ("figure", *reports), rows)
    if shared:
        rows = [
            (" and ".join(pair), f"{a.share:.3f}", f"{a.kappa:.3f}", f"{a.correlation:.3f}")
            for pair, a in shared.items()
        ]
        print_table("Agreement of judges", ("judges", "same winner", "kappa", "correlation"), rows)


def _cell(figure: Estimate) -> str:
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"
