"""`score`, `compare` and `rank`: judge pictures that are there already."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..rewards.instructions import DEFAULT_INSTRUCTION
from . import options
from .loading import load_instruction, load_judge, on_terminal, read_images
from .reporting import finish, print_comparison, print_json, print_scores, print_table


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
    debias: options.Debias = True,
    json: options.AsJson = False,
) -> None:
    """Order pictures of one prompt, best first."""
    from ..ranking import rank as rank_images
    from ..rewards.images import load_image

    by = load_instruction(instruction, instructions_file)
    good, errors = read_images(images)
    against = load_image(reference) if reference else None
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
    )
    if json:
        files = {
            "candidates": [str(path) for path, _ in good],
            "images": [str(good[index][0]) for index in ranking.order],
        }
        print_json({"prompt": prompt, "model": judge.name, **files, **ranking.as_dict(), "errors": errors})
    else:
        rows = [
            (place, good[index][0], f"{ranking.rewards[index]:+.2f}")
            for place, index in enumerate(ranking.order, start=1)
        ]
        title = f"{prompt} ({by.name}, {ranking.method}, {ranking.judgement_count} judgements)"
        print_table(title, ("place", "image", "value"), rows)
    finish(errors)
