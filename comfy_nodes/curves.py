"""A run's figures as a picture: reward, its spread and the loss over iterations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

Point = tuple[float, float]

_WIDTH: Final = 480
_HEAD: Final = 34
_PANEL: Final = 150
_PAPER, _INK, _FAINT, _DOT = (24, 24, 27), (230, 230, 230), (82, 82, 91), (255, 255, 255)
_COLOURS: Final = ((86, 190, 110), (240, 176, 80), (86, 156, 214))


def draw_curves(entries: Sequence[dict[str, Any]], total: int, title: str) -> Image.Image:
    """Three panels, one below the other, 480 pixels wide.

    Args:
        entries: a run's metrics; evaluations are the large dots, over the curve of what was trained on.
        total: iterations that the run will have.
        title: what stands above.
    """
    from PIL import Image, ImageDraw, ImageFont

    steps = [item for item in entries if "evaluation" not in item]
    seen = [item["evaluation"] for item in entries if "evaluation" in item]
    panels: tuple[tuple[str, list[Point], list[Point]], ...] = (
        ("reward, mean", _points(steps, "reward"), _points(seen, "reward")),
        _spread(steps, seen),
        ("loss", _points(steps, "loss"), []),
    )
    sheet = Image.new("RGB", (_WIDTH, _HEAD + len(panels) * _PANEL), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((12, 10), title, _INK, ImageFont.load_default(size=15))
    for number, ((name, line, dots), colour) in enumerate(zip(panels, _COLOURS, strict=True)):
        _draw_panel(pen, _HEAD + number * _PANEL, name, line, dots, total, colour)
    return sheet


def _points(records: Sequence[dict[str, Any]], name: str) -> list[Point]:
    return [(item["iteration"], item[name]) for item in records if item.get(name) is not None]


def _spread(steps: Sequence[dict[str, Any]], seen: Sequence[dict[str, Any]]) -> tuple[str, list[Point], list[Point]]:
    """Within prompts, or over all pictures where they do not come in groups."""
    within = _points(steps, "group_deviation")
    if within or not steps:
        return "reward, standard deviation within a prompt", within, _points(seen, "group_deviation")
    return "reward, standard deviation", _points(steps, "reward_deviation"), _points(seen, "reward_deviation")


def _draw_panel(
    pen: ImageDraw.ImageDraw,
    top: int,
    name: str,
    line: Sequence[Point],
    dots: Sequence[Point],
    total: int,
    colour: tuple[int, int, int],
) -> None:
    from PIL import ImageFont

    small = ImageFont.load_default(size=12)
    left, right, high, low = 64, _WIDTH - 14, top + 22, top + _PANEL - 24
    pen.text((left, top + 4), name, _INK, small)
    pen.rectangle((left, high, right, low), outline=_FAINT)
    pen.text((right, low + 3), str(total), _INK, small, anchor="ra")
    values = [value for _, value in (*line, *dots)]
    if not values:
        pen.text(((left + right) / 2, (high + low) / 2), "not measured yet", _FAINT, small, anchor="mm")
        return
    least, most = min(values), max(values)
    if most - least < 1e-9:
        least, most = least - 0.5, most + 0.5
    pen.text((left - 6, high), f"{most:.3g}", _INK, small, anchor="ra")
    pen.text((left - 6, low), f"{least:.3g}", _INK, small, anchor="rd")

    def place(point: Point) -> Point:
        share = (point[1] - least) / (most - least)
        return left + point[0] / max(total, 1) * (right - left), low - 3 - share * (low - high - 6)

    if len(line) > 1:
        pen.line([place(point) for point in line], fill=colour, width=2)
    for x, y in map(place, line if len(line) < 40 else line[-1:]):
        pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
    for x, y in map(place, dots):
        pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour, outline=_DOT)
