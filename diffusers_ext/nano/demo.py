"""The main job on one page: paint each prompt N times, let the judge choose, and see by the oracle if it chose well."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..hushing import hushed
from ..ranking import best_of_n
from . import GENERATOR_OPTIONS
from .oracle import judge
from .scenes import parse_prompt

if TYPE_CHECKING:
    from ..rewards.model import RewardModel

PROMPTS: Final = (
    "a photo of a triangle",
    "a photo of a star and a circle",
    "a photo of three squares",
    "a photo of a green star",
    "a photo of a cross above a circle",
    "a photo of a red circle and a blue square",
    "a photo of a yellow star",
    "a photo of a white cross and a purple circle",
)
"""One or two of each kind; a yellow star is a combination that no model here was trained on."""

SCALE, MARGIN, BAR = 2, 4, 12
_CELL: Final = SCALE * 64 + MARGIN
_RIGHT, _WRONG, _INK, _PAPER = (86, 190, 110), (214, 84, 76), (230, 230, 230), (24, 24, 27)


@dataclass(frozen=True)
class PromptReport:
    """What came of one prompt: oracle correctness of each way to choose, the rewards best first, and the seeds."""

    prompt: str
    first: bool
    random: float
    chosen: bool
    oracle: bool
    rewards: tuple[float, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class DemoReport:
    """The demo's result. The shares are over prompts; `sheet` is the picture to look at."""

    prompts: tuple[PromptReport, ...]
    first: float
    random: float
    chosen: float
    oracle: float
    judgement_count: int
    sheet: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def run(
    out: Path,
    reward_model: RewardModel,
    pipeline: Any,
    prompts: Sequence[str] = PROMPTS,
    n: int = 16,
    seed: int = 0,
    progress: bool = False,
) -> DemoReport:
    """Best-of-`n` for each prompt, in descending order of reward on one contact sheet.

    Args:
        out: folder for `best-of-N.png` and `report.json`; made if it is not there.
        reward_model: the judge.
        pipeline: the nano generator.
        prompts: prompts of the nano world, since the oracle must understand them.
        n: candidates per prompt.
        seed: seed of the first candidate.
        progress: show progress on stderr.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, list[Image.Image], tuple[float, ...], list[bool]]] = []
    reports: list[PromptReport] = []
    count = 0
    for prompt in prompts:
        spec = parse_prompt(prompt)
        with hushed():
            result = best_of_n(
                pipeline,
                prompt,
                n,
                reward_model,
                instruction="alignment",
                seed=seed,
                progress=progress,
                **GENERATOR_OPTIONS,
            )
        order = result.ranking.order
        right = [judge(image, spec).correct for image in result.images]
        rewards = tuple(result.ranking.judgements[index].reward for index in order)
        reports.append(
            PromptReport(
                prompt,
                first=right[0],
                random=float(np.mean(right)),
                chosen=right[order[0]],
                oracle=any(right),
                rewards=rewards,
                seeds=tuple(result.seeds[index] for index in order),
            )
        )
        count += result.ranking.judgement_count
        rows.append((prompt, [result.images[index] for index in order], rewards, [right[index] for index in order]))
    sheet = out / f"best-of-{n}.png"
    contact_sheet(rows).save(sheet)
    shares = {
        name: float(np.mean([getattr(r, name) for r in reports])) for name in ("first", "random", "chosen", "oracle")
    }
    report = DemoReport(tuple(reports), **shares, judgement_count=count, sheet=str(sheet))
    (out / "report.json").write_text(json.dumps(report.as_dict(), indent=2) + "\n", encoding="utf-8")
    return report


def contact_sheet(rows: Sequence[tuple[str, list[Image.Image], tuple[float, ...], list[bool]]]) -> Image.Image:
    """Rows of pictures, each over a bar as long as its reward: green where the oracle finds it correct, else red."""
    title = 18
    columns = max(len(images) for _, images, _, _ in rows)
    height = title + _CELL + BAR
    sheet = Image.new("RGB", (columns * _CELL + MARGIN, len(rows) * height + MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=13)
    for row, (prompt, images, rewards, right) in enumerate(rows):
        top = MARGIN + row * height
        draw.text((MARGIN, top), prompt, fill=_INK, font=font)
        for column, (image, reward, correct) in enumerate(zip(images, rewards, right, strict=True)):
            left = MARGIN + column * _CELL
            sheet.paste(image.resize((SCALE * 64, SCALE * 64), Image.Resampling.NEAREST), (left, top + title))
            bar = top + title + SCALE * 64 + 2
            draw.rectangle((left, bar, left + SCALE * 64 - 1, bar + 5), fill=(60, 60, 66))
            draw.rectangle(
                (left, bar, left + int(reward * (SCALE * 64 - 1)), bar + 5), fill=_RIGHT if correct else _WRONG
            )
    return sheet
