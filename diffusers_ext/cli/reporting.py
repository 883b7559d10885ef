"""Results on stdout: a table for people, or one JSON object for programs."""

from __future__ import annotations

import json as json_module
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

if TYPE_CHECKING:
    from ..rewards.judgement import Judgement

T = TypeVar("T")


def print_json(result: dict[str, Any]) -> None:
    """One JSON object on stdout."""
    typer.echo(json_module.dumps(result, ensure_ascii=False))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, title=Text(title), title_justify="left")
    for row in rows:
        # Text, not str: a prompt or an explanation may hold what rich would take for markup.
        table.add_row(*(Text(str(cell)) for cell in row))
    Console().print(table)


def print_scores(
    medium: str,
    judge: str,
    prompt: str,
    by: str,
    judged: Sequence[tuple[Path, Judgement]],
    errors: dict[str, str],
    json: bool,
) -> None:
    """What `score` and `score-video` found; `medium` is what they call a file."""
    if json:
        found = [{medium: str(path), **item.as_dict()} for path, item in judged]
        print_json({"prompt": prompt, "model": judge, "judgements": found, "errors": errors})
        return
    _print_judgements(f"{prompt} ({by})", (medium, "reward"), judged)


def print_comparison(
    medium: str, judge: str, prompt: str, by: str, candidate: Path, reference: Path, judgement: Judgement, json: bool
) -> None:
    """What `compare` and `compare-videos` found."""
    better = candidate if judgement.verdict else reference
    if json:
        files = {f"candidate_{medium}": str(candidate), f"reference_{medium}": str(reference)}
        # Indices among one candidate and one reference tell nothing.
        told = {key: value for key, value in judgement.as_dict().items() if key not in ("candidate", "reference")}
        print_json({"prompt": prompt, "model": judge, **files, "better": str(better), **told})
        return
    names = ("verdict", "P(candidate is better)")
    _print_judgements(f"{prompt} ({by})", names, [(f"{better} is better", judgement)])


def _print_judgements(title: str, names: tuple[str, str], judged: Sequence[tuple[object, Judgement]]) -> None:
    """What was judged and its reward, under their names, log-odds, and explanations if there are any."""
    columns = [*names, "log-odds"]
    if any(item.explanation is not None for _, item in judged):
        columns.append("explanation")
    rows = [(what, f"{item.reward:.3f}", f"{item.log_odds:+.2f}", item.explanation or "") for what, item in judged]
    print_table(title, columns, [row[: len(columns)] for row in rows])


def with_progress(items: Iterable[T], total: int, json: bool) -> Iterator[T]:
    """The same items, and a progress bar on stderr where somebody looks on."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(items, total=total, console=console, transient=True, disable=json or not console.is_terminal)


def finish(errors: dict[str, str]) -> None:
    """Exit status 2 if some of the input could not be used."""
    if errors:
        raise typer.Exit(2)
