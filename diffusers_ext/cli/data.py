"""`rewarddance data ...`: convert published preference data, look them over, split them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..data.formats import FORMATS
from ..rewards.instructions import DEFAULT_INSTRUCTION
from . import options
from .reporting import finish, print_json, print_table, with_progress

if TYPE_CHECKING:
    from ..data import Problem

app = typer.Typer(no_args_is_help=True, help="Convert, check and split data of human preferences.")

File = Annotated[Path, typer.Argument(help="A file of preferences (.jsonl or .parquet).", show_default=False)]
_SHOWN = 20


@app.command()
def convert(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="Folder that the data set is in, or a file of it.", show_default=False)
    ],
    out: Annotated[Path, typer.Argument(help="What to write: .jsonl or .parquet.", show_default=False)],
    format: Annotated[str, typer.Option(help=f"One of {', '.join(FORMATS)}.", show_default=False)],
    media: Annotated[bool, typer.Option(help="Leave out records whose pictures are not on the disk.")] = True,
    merge: Annotated[
        bool, typer.Option("--merge", help="One record for each question, with the verdict of all.")
    ] = False,
    embed: Annotated[bool, typer.Option("--embed", help="Put the pictures into the (parquet) file.")] = False,
    json: options.AsJson = False,
) -> None:
    """Convert a published data set to a file of preferences."""
    from ..data import convert as convert_data

    done = convert_data(source, out, format, need_media=media, merge_votes=merge, embed_media=embed)
    if json:
        print_json({"source": str(source), "out": str(out), "records": done.records, "errors": _errors(done.problems)})
    else:
        typer.echo(f"{out}: {done.records:,} records")
    _finish(done.problems)


@app.command()
def check(
    file: File,
    media: Annotated[bool, typer.Option(help="See that the pictures are there.")] = True,
    json: options.AsJson = False,
) -> None:
    """Say what is in a file of preferences, and name what is wrong with it."""
    from ..data import check as check_data

    report = check_data(file, need_media=media)
    if json:
        found = report.as_dict()
        del found["problems"]
        print_json({"file": str(file), **found, "errors": _errors(report.problems)})
    else:
        rows: list[tuple[str, object]] = [
            ("records", f"{report.records:,}"),
            ("better: a, b, tie", ", ".join(f"{count:,}" for count in report.choices.values())),
            ("prompts", f"{report.prompts:,}"),
            ("pictures or videos", f"{report.media:,}"),
            ("questions", f"{report.questions:,}"),
            ("with votes that disagree", f"{report.conflicts:,}"),
            *((f"about {name}", f"{count:,}") for name, count in report.criteria.items()),
            *((f"from {name}", f"{count:,}") for name, count in report.datasets.items()),
        ]
        print_table(str(file), ("what", "how many"), rows)
        for notice in report.notices:
            typer.echo(f"note: {notice}")
    _finish(report.problems)


@app.command()
def split(
    file: File,
    out: Annotated[Path, typer.Option(help="Folder for train, validation and test; new or empty.", show_default=False)],
    validation: Annotated[float, typer.Option(help="Share for validation.", min=0.0, max=1.0)] = 0.1,
    test: Annotated[float, typer.Option(help="Share for test.", min=0.0, max=1.0)] = 0.1,
    seed: Annotated[int, typer.Option(help="Another seed gives other splits.")] = 0,
    json: options.AsJson = False,
) -> None:
    """Split a file of preferences; no prompt and no picture gets into two of the parts."""
    from ..data import split_file

    done = split_file(file, out, validation, test, seed)
    shares = {"validation": validation, "test": test, "train": 1 - validation - test}
    notices = [
        f"{name} is empty: {done.plan.groups} groups of prompts are too few for its share of {share:g}"
        for name, share in shares.items()
        if share > 0 and not done.counts[name]
    ]
    if done.plan.groups > 1 and done.plan.largest > done.plan.records / 2:
        share = done.plan.largest / done.plan.records
        notices.append(
            f"{share:.0%} of the records share prompts or pictures, directly or in a chain, and stay together"
        )
    if json:
        print_json(
            {
                "file": str(file),
                "out": str(out),
                "records": done.counts,
                "groups": done.plan.groups,
                "notices": notices,
                "errors": _errors(done.problems),
            }
        )
    else:
        rows = [(f"{name}{file.suffix}", f"{count:,}") for name, count in done.counts.items()]
        print_table(str(out), ("file", "records"), rows)
        for notice in notices:
            typer.echo(f"note: {notice}")
    _finish(done.problems)


@app.command()
def reason(
    file: File,
    out: Annotated[Path, typer.Argument(help="What to write: .jsonl or .parquet.", show_default=False)],
    samples: Annotated[int, typer.Option(help="Rationales to write for each record.", min=1)] = 4,
    temperature: Annotated[float, typer.Option(help="Of the words; 0 for the likeliest alone.", min=0.0)] = 1.0,
    seed: Annotated[int, typer.Option(help="Another seed gives other rationales.")] = 0,
    instruction: options.InstructionName = DEFAULT_INSTRUCTION,
    instructions_file: options.InstructionsFile = None,
    model: options.Model = None,
    quantization: options.Quantization = None,
    device: options.Device = None,
    json: options.AsJson = False,
) -> None:
    """Have a judge give reasons for people's choices, and keep those that led it to the same choice."""
    from ..data import locate, write
    from ..data.media import relocate
    from ..reward_training.rationales import sample_rationales
    from ..rewards.instructions import load_instructions
    from .loading import load_reward_model

    items, problems = locate([file])
    own = load_instructions(instructions_file) if instructions_file else {}
    judge = load_reward_model(model, quantization, device)
    asked = with_progress(
        sample_rationales(judge, items, instruction, own, samples, temperature, seed), len(items), json
    )
    found = list(asked)
    folders = file.parent.resolve(), out.parent.resolve()
    write(out, [relocate(item.record, *folders) for item in found])
    counts = {
        "records": len(found),
        "with_rationale": sum(item.record.rationale is not None for item in found),
        "right": sum(item.right for item in found),
        "written": sum(item.written for item in found),
    }
    if json:
        print_json({"file": str(file), "out": str(out), **counts, "errors": _errors(problems)})
    else:
        typer.echo(
            f"{out}: {counts['with_rationale']:,} of {counts['records']:,} records have a rationale; the verdict was "
            f"right after {counts['right']:,} of {counts['written']:,} that were written"
        )
    _finish(problems)


def _errors(problems: Iterable[Problem]) -> list[dict[str, object]]:
    return [problem.as_dict() for problem in problems]


def _finish(problems: Sequence[Problem]) -> None:
    """Name bad rows on stderr, and end with status 2 if there are any."""
    for problem in problems[:_SHOWN]:
        typer.echo(f"error: {problem}", err=True)
    if len(problems) > _SHOWN:
        typer.echo(f"error: and {len(problems) - _SHOWN:,} more; --json names them all", err=True)
    finish({str(problem): problem.message for problem in problems})
