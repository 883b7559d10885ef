"""`generate`: paint many, keep them in order."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..nano import GENERATOR_OPTIONS
from ..rewards.instructions import DEFAULT_INSTRUCTION
from . import options
from .loading import load_instruction, load_judge, load_lora, load_pipeline, on_terminal
from .reporting import print_json, print_table

if TYPE_CHECKING:
    from ..ranking import BestOfN


def generate(
    prompt: options.Prompt,
    out: Annotated[Path, typer.Option(help="Folder for the pictures; made if it is not there.")],
    best_of: Annotated[int, typer.Option(help="How many to paint.", min=1)] = 16,
    method: options.Method = "pointwise",
    seed: options.Seed = 0,
    steps: Annotated[
        int | None,
        typer.Option(
            help=f"Denoising steps. Default: the pipeline's own (nano: {GENERATOR_OPTIONS['num_inference_steps']}).",
            min=1,
        ),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            help="Guidance scale, 1 for none. Default: the pipeline's own "
            f"(nano: {GENERATOR_OPTIONS['guidance_scale']:g})."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Pictures painted at a time.", min=1)] = 8,
    model: options.Model = None,
    pipeline: options.Pipeline = None,
    lora: Annotated[
        Path | None,
        typer.Option(
            help="LoRA to paint with: a file, or the folder that train-lora wrote, whose LoRAs want --guidance 1.",
            exists=True,
        ),
    ] = None,
    quantization: options.Quantization = None,
    device: options.Device = None,
    instruction: options.InstructionName = DEFAULT_INSTRUCTION,
    instructions_file: options.InstructionsFile = None,
    json: options.AsJson = False,
) -> None:
    """Paint a prompt many times and save the pictures, named by their rank."""
    from ..nano import GENERATOR_OPTIONS
    from ..ranking import RankingError, best_of_n
    from ..ranking.methods import check
    from ..rewards.arguments import prompts_for

    by = load_instruction(instruction, instructions_file)
    if out.exists() and not out.is_dir():
        raise RankingError(f"{out}: is a file; --out takes a folder")
    if (out / "ranking.json").exists():
        raise RankingError(f"{out}: holds an earlier ranking, which would be mixed up with this one; name a new folder")
    prompts_for(prompt, 1)
    check(max(2, best_of), method)  # one picture needs none, but a name that means nothing is refused all the same
    painter = load_pipeline(pipeline, device)
    if lora is not None:
        load_lora(painter, lora)
    judge = load_judge(model, prompt, quantization, device)
    settings: dict[str, Any] = {} if pipeline else dict(GENERATOR_OPTIONS)
    if steps is not None:
        settings["num_inference_steps"] = steps
    if guidance is not None:
        settings["guidance_scale"] = guidance
    result = best_of_n(
        painter,
        prompt,
        best_of,
        judge,
        method=method,
        instruction=by,
        seed=seed,
        batch_size=batch_size,
        progress=on_terminal() and not json,
        **settings,
    )
    saved = _save(result, prompt, out)
    if json:
        print_json({"prompt": prompt, "model": judge.name, "images": saved, **result.ranking.as_dict()})
        return
    rows = [(place, item["file"], item["seed"], f"{item['value']:+.2f}") for place, item in enumerate(saved, start=1)]
    title = f"{prompt} ({by.name}, {result.ranking.method}, {result.ranking.judgement_count} judgements)"
    print_table(title, ("place", "file", "seed", "value"), rows)


def _save(result: BestOfN, prompt: str, out: Path) -> list[dict[str, Any]]:
    """Write the pictures, best first, each with its prompt, seed and value in its PNG text, and `ranking.json`."""
    from PIL.PngImagePlugin import PngInfo

    out.mkdir(parents=True, exist_ok=True)
    saved: list[dict[str, Any]] = []
    for place, index in enumerate(result.ranking.order, start=1):
        value, seed = result.ranking.rewards[index], result.seeds[index]
        file = out / f"{place:03d}-seed{seed}.png"
        info = PngInfo()
        for key, text in (("prompt", prompt), ("seed", str(seed)), ("reward", f"{value:.6f}")):
            info.add_itxt(key, text)
        result.images[index].save(file, pnginfo=info)
        saved.append({"file": str(file), "seed": seed, "value": value})
    content = {"prompt": prompt, "images": saved, **result.ranking.as_dict()}
    (out / "ranking.json").write_text(json_module.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return saved
