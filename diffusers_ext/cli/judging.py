"""`score`, `compare` and `rank`: judge pictures that are there already."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..rewards.instructions import DEFAULT_INSTRUCTION
from . import options
from .loading import load_instruction, load_judge, on_terminal, read_images
from .reporting import finish, print_comparison, print_json, print_scores, print_table

if TYPE_CHECKING:
    from ..ranking import Ranking
    from ..rewards.judgement import Judgement


def score(
    images: options.Images,
    prompt: options.Prompt,
    model: options.Model = None,
    quantization: options.Quantization = None,
    device: options.Device = None,
    instruction: options.InstructionName = DEFAULT_INSTRUCTION,
    instructions_file: options.InstructionsFile = None,
    explain: options.Explain = False,
    json: options.AsJson = False,
) -> None:
    """Judge each picture on its own."""
    by = load_instruction(instruction, instructions_file)
    good, errors = read_images(images)
    judge = load_judge(model, prompt, quantization, device)
    judged = judge.score(
        [image for _, image in good], prompt, instruction=by, explain=explain, progress=on_terminal() and not json
    )
    paired = [(path, item) for (path, _), item in zip(good, judged, strict=True)]
    print_scores("image", judge.name, prompt, by.name, paired, errors, json)
    finish(errors)


def compare(
    candidate: Annotated[Path, typer.Argument(help="The picture to judge.")],
    reference: Annotated[Path, typer.Argument(help="The picture to hold it against.")],
    prompt: options.Prompt,
    model: options.Model = None,
    quantization: options.Quantization = None,
    device: options.Device = None,
    instruction: options.InstructionName = DEFAULT_INSTRUCTION,
    instructions_file: options.InstructionsFile = None,
    explain: options.Explain = False,
    debias: options.Debias = True,
    json: options.AsJson = False,
) -> None:
    """Is the candidate better than the reference?"""
    from ..rewards.images import load_image

    by = load_instruction(instruction, instructions_file)
    pictures = [load_image(path) for path in (candidate, reference)]
    judge = load_judge(model, prompt, quantization, device)
    (judgement,) = judge.compare(pictures[0], pictures[1], prompt, instruction=by, debias=debias, explain=explain)
    print_comparison("image", judge.name, prompt, by.name, candidate, reference, judgement, json)


def rank(
    images: options.Images,
    prompt: options.Prompt,
    method: options.Method = "pointwise",
    reference: Annotated[Path | None, typer.Option(help="Reference picture, for the method anchored.")] = None,
    model: options.Model = None,
    quantization: options.Quantization = None,
    device: options.Device = None,
    instruction: options.InstructionName = DEFAULT_INSTRUCTION,
    instructions_file: options.InstructionsFile = None,
    explain: options.Explain = False,
    debias: options.Debias = True,
    json: options.AsJson = False,
) -> None:
    """Order pictures of one prompt, best first."""
    from ..ranking import rank as rank_images
    from ..ranking.methods import check
    from ..rewards.images import load_image

    by = load_instruction(instruction, instructions_file)
    good, errors = read_images(images)
    against = load_image(reference) if reference else None
    check(len(good), method, against)  # before a judge is loaded
    judge = load_judge(model, prompt, quantization, device)
    ranking = rank_images(
        [image for _, image in good],
        prompt,
        judge,
        method=method,
        instruction=by,
        reference=against,
        debias=debias,
        progress=on_terminal() and not json,
        explain=explain,
    )
    files = [path for path, _ in good]
    if json:
        print_json({"prompt": prompt, "model": judge.name, **_told(ranking, files, reference), "errors": errors})
    else:
        title = f"{prompt} ({by.name}, {ranking.method}, {ranking.judgement_count} judgements)"
        columns = ("place", "image", "value", *(["explanation"] if explain else []))
        print_table(title, columns, _rows(ranking, files, reference, explain))
    finish(errors)


def _told(ranking: Ranking, files: list[Path], reference: Path | None) -> dict[str, Any]:
    """The ranking as plain values, with the names of files beside indices."""
    told = ranking.as_dict()
    for item, judgement in zip(told["judgements"], ranking.judgements, strict=True):
        item["candidate_image"] = str(files[judgement.candidate])
        item["reference_image"] = None if judgement.reference is None else str(_against(judgement, files, reference))
    images = [str(files[index]) for index in ranking.order]
    return {"candidates": [str(path) for path in files], "images": images, **told}


def _against(judgement: Judgement, files: list[Path], reference: Path | None) -> Path | None:
    return files[judgement.reference] if isinstance(judgement.reference, int) else reference


def _rows(ranking: Ranking, files: list[Path], reference: Path | None, explain: bool) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for place, index in enumerate(ranking.order, start=1):
        row = (place, files[index], f"{ranking.rewards[index]:+.2f}")
        rows.append((*row, _reasons(ranking.telling(index), index, files, reference)) if explain else row)
    return rows


def _reasons(judgement: Judgement | None, index: int, files: list[Path], reference: Path | None) -> str:
    """What the judge thought about a picture, and which is which of the candidate and the reference in it."""
    if judgement is None:
        return "(what the others were held against)"
    if judgement.reference is None:
        return judgement.explanation or ""
    if judgement.candidate == index:
        return f"(candidate; the reference is {_against(judgement, files, reference)}) {judgement.explanation}"
    return f"(reference; the candidate is {files[judgement.candidate]}) {judgement.explanation}"
