"""What a run draws: a grid of samples, and one plot of all that its monitors see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..rewards.images import as_images
from .errors import LoraTrainingError
from .monitors import Alarms, Evaluation, alarms_of, diversity_share, gap

_PAPER, _INK, _FAINT, _RED = (24, 24, 27), (230, 230, 230), (82, 82, 91), (214, 84, 76)
_LINES: Final = ((86, 156, 214), (240, 176, 80), (86, 190, 110))
_TITLE: Final = 18
_ROWS: Final = 8


def save_grid(path: Path, images: Tensor, prompts: Sequence[str], rewards: Tensor) -> None:
    """A row for each of the first prompts: its pictures [prompts, size, 3, H, W], with the reward under each."""
    height = min(192, max(96, images.shape[-2]))
    width = height * images.shape[-1] // images.shape[-2]
    count, size = min(_ROWS, len(prompts)), min(8, images.shape[1])
    cell = height + 2 * _TITLE + 2
    sheet = Image.new("RGB", (max(320, size * (width + 4) + 4), count * cell + 4), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    # Prompts are spread over all, since neighbours may be of one kind.
    for row in range(count):
        index = row * len(prompts) // count
        draw.text((4, 4 + row * cell), prompts[index], fill=_INK, font=font)
        for column in range(size):
            picture = as_images(images[index, column].clamp(0, 1))[0].resize((width, height), Image.Resampling.NEAREST)
            left, top = 4 + column * (width + 4), 4 + row * cell + _TITLE
            sheet.paste(picture, (left, top))
            draw.text((left, top + height), f"{float(rewards[index, column]):+.2f}", fill=_INK, font=font)
    _save(sheet, path)


def save_plot(path: Path, history: Sequence[Evaluation], steps: Sequence[dict[str, Any]], limits: Alarms) -> None:
    """Six panels over iterations: rewards, the second judge, gap, spread, diversity, distance to the base."""
    first = history[0]
    at = [item.iteration for item in history]

    def evaluated(values: Sequence[float | None]) -> list[tuple[float, float]]:
        return [(x, y) for x, y in zip(at, values, strict=True) if y is not None]

    learned = [(item["iteration"], item["reward"]) for item in steps if "reward" in item]
    spread = max(first.group_deviation, 1e-9)
    panels: list[tuple[str, list[tuple[str, list[tuple[float, float]]]], float | None]] = [
        (
            "reward (judges trained against)",
            [("evaluation", evaluated([item.reward for item in history])), ("training", learned)],
            None,
        ),
        (
            "second judge (not trained against)",
            [
                ("all prompts", evaluated([item.second for item in history])),
                ("held-out combinations", evaluated([item.held_out for item in history])),
                ("and nothing else", evaluated([item.exact for item in history])),
            ],
            None,
        ),
        (
            "gap between the two (deviations)",
            [("gap", evaluated([gap(history[: number + 1]) for number in range(len(history))]))],
            limits.gap,
        ),
        (
            "spread of rewards within a prompt (share of base's)",
            [("spread", evaluated([item.group_deviation / spread for item in history]))],
            limits.spread,
        ),
        (
            "diversity (share of base's)",
            [
                ("the lower", evaluated([diversity_share(first, item) for item in history])),
                ("pixels", evaluated([item.pixel_diversity / max(first.pixel_diversity, 1e-9) for item in history])),
            ],
            limits.diversity,
        ),
        (
            "distance to the base (velocity, mean square)",
            [("distance", evaluated([item.base_distance for item in history]))],
            None,
        ),
    ]
    width, height = 440, 230
    sheet = Image.new("RGB", (2 * width, 3 * height + 26), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (title, lines, limit) in enumerate(panels):
        _panel(draw, (number % 2 * width, number // 2 * height, width, height), title, lines, limit)
    alarms = alarms_of(history, limits)
    text = "; ".join(f"{name}: {told}" for name, told in alarms.items()) or "no alarm"
    font = ImageFont.load_default(size=12)
    draw.text((10, 3 * height + 4), f"iteration {history[-1].iteration}: {text}", _RED if alarms else _INK, font)
    _save(sheet, path)


def _panel(
    draw: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    title: str,
    lines: Sequence[tuple[str, list[tuple[float, float]]]],
    limit: float | None,
) -> None:
    left, top, width, height = box
    small = ImageFont.load_default(size=11)
    draw.text((left + 10, top + 6), title, _INK, ImageFont.load_default(size=13))
    points = [point for _, line in lines for point in line]
    if not points:
        draw.text((left + 50, top + height // 2), "not measured", _FAINT, small)
        return
    values = [y for _, y in points] + ([limit] if limit is not None else [])
    low, high = min(values), max(values)
    low, high = (low - 0.5, high + 0.5) if math.isclose(low, high) else (low, high)
    end = max(1.0, max(x for x, _ in points))
    area = left + 56, top + 28, left + width - 14, top + height - 40

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x = area[0] + point[0] / end * (area[2] - area[0])
        return x, area[3] - (point[1] - low) / (high - low) * (area[3] - area[1])

    draw.rectangle(area, outline=_FAINT)
    draw.text((left + 8, area[1] - 6), f"{high:.3g}", _INK, small)
    draw.text((left + 8, area[3] - 8), f"{low:.3g}", _INK, small)
    draw.text((area[2] - 24, area[3] + 3), f"{end:.0f}", _INK, small)
    if limit is not None:
        y = place((0, limit))[1]
        for dash in range(int(area[0]), int(area[2]), 8):
            draw.line((dash, y, dash + 4, y), fill=_RED)
    # The first line is what counts, so it lies on top.
    for (_, line), colour in reversed(list(zip(lines, _LINES, strict=False))):
        if len(line) > 1:
            draw.line([place(point) for point in line], fill=colour, width=2)
        for x, y in [place(point) for point in line] if len(line) <= 60 else []:
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
    across = left + 56
    for (name, line), colour in zip(lines, _LINES, strict=False):
        if line:
            draw.line((across, top + height - 14, across + 14, top + height - 14), fill=colour, width=2)
            draw.text((across + 18, top + height - 21), name, _INK, small)
            across += 34 + int(draw.textlength(name, small))


def _save(sheet: Image.Image, path: Path) -> None:
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(partial, format="PNG")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise LoraTrainingError(f"{path}: could not be written ({error}); the state saved last is whole") from error
