"""Results on stdout: a table for people, or one JSON object for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import typer


def print_json(result: dict[str, Any]) -> None:
    """One JSON object on stdout."""
    typer.echo(json.dumps(result, ensure_ascii=False))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, title=Text(title), title_justify="left")
    for row in rows:
        # Text, not str: a prompt or an explanation may hold what rich would take for markup.
        table.add_row(*(Text(str(cell)) for cell in row))
    Console().print(table)


def finish(errors: dict[str, str]) -> None:
    """Exit status 2 if some of the input could not be used."""
    if errors:
        raise typer.Exit(2)
