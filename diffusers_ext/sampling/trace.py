"""What a search looked at, on what each of these grew, and what the judge made of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .levels import SamplingError

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

_MARGIN: Final = (70, 30, 20, 50)
"""Left, top, right and bottom of a plot, in pixels."""
_GREY, _BLUE, _RED = "#b8b8b8", "#1f77b4", "#d62728"


@dataclass(frozen=True)
class Node:
    """One thing that was judged.

    Attributes:
        number: its place in the trace.
        parent: the node that it grew on; None for a root.
        stage: where that was, such as "step 6", "round 2" or "picture".
        reward: log-odds; NaN where the judge gave none.
        evaluations: network evaluations that had been spent by then, in all.
        final: whether it is one of the finished pictures.
    """

    number: int
    parent: int | None
    stage: str
    reward: float
    evaluations: int
    final: bool = False


@dataclass(frozen=True)
class Trace:
    """The tree of a search: nodes in the order in which they were judged."""

    nodes: tuple[Node, ...]

    def path(self, number: int) -> list[Node]:
        """A node and all it grew on, from the root."""
        path = [self.nodes[number]]
        while path[0].parent is not None:
            path.insert(0, self.nodes[path[0].parent])
        return path

    @property
    def best(self) -> Node:
        """The finished picture that was rewarded most."""
        finals = [node for node in self.nodes if node.final]
        if not finals:
            raise SamplingError("the trace holds no finished picture")
        return max(finals, key=lambda node: (node.reward == node.reward, node.reward))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a reward that is no number is None."""
        rows = [asdict(node) for node in self.nodes]
        return {"nodes": [{**row, "reward": row["reward"] if row["reward"] == row["reward"] else None} for row in rows]}

    def save(self, path: str | Path) -> None:
        """Write JSON."""
        Path(path).write_text(json.dumps(self.as_dict(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read what :meth:`save` wrote.

        Raises:
            SamplingError: the file is no trace.
        """
        try:
            rows = json.loads(Path(path).read_text(encoding="utf-8"))["nodes"]
            nodes = tuple(Node(**{**row, "reward": _number(row["reward"])}) for row in rows)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SamplingError(f"{path}: not a trace of a search ({error})") from error
        return cls(nodes)

    def plot(self, path: str | Path | None = None, size: tuple[int, int] = (800, 480)) -> Image.Image:
        """Draw the tree: rewards over network evaluations, the way to the winner in red.

        Args:
            path: where to save it, e.g. a .png.
            size: width and height in pixels.
        """
        from PIL import Image, ImageDraw

        image = Image.new("RGB", size, "white")
        _draw(ImageDraw.Draw(image), self.nodes, {node.number for node in self.path(self.best.number)}, size)
        if path is not None:
            image.save(path)
        return image


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _draw(draw: ImageDraw.ImageDraw, nodes: Sequence[Node], winning: set[int], size: tuple[int, int]) -> None:
    left, top, right, bottom = _MARGIN
    rewards = [node.reward for node in nodes if node.reward == node.reward] or [0.0]
    low, high = min(rewards), max(max(rewards), min(rewards) + 1e-6)
    most = max(node.evaluations for node in nodes) or 1

    def place(node: Node) -> tuple[float, float]:
        shown = node.reward if node.reward == node.reward else low
        x = left + (size[0] - left - right) * node.evaluations / most
        return x, size[1] - bottom - (size[1] - top - bottom) * (shown - low) / (high - low)

    draw.rectangle((left, top, size[0] - right, size[1] - bottom), outline=_GREY)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = size[1] - bottom - (size[1] - top - bottom) * share
        draw.text((left - 8, y), f"{low + share * (high - low):.1f}", fill="black", anchor="rm")
        x = left + (size[0] - left - right) * share
        draw.text((x, size[1] - bottom + 8), f"{share * most:.0f}", fill="black", anchor="mt")
    draw.text((size[0] / 2, size[1] - 8), "network evaluations", fill="black", anchor="mb")
    draw.text((left, top - 8), "reward (log-odds)", fill="black", anchor="lb")
    for node in sorted(nodes, key=lambda item: item.number in winning):
        won = node.number in winning
        if node.parent is not None:
            draw.line((place(nodes[node.parent]), place(node)), fill=_RED if won else _GREY, width=3 if won else 1)
    for node in nodes:
        (x, y), radius = place(node), 5 if node.final else 3
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_RED if node.number in winning else _BLUE)
