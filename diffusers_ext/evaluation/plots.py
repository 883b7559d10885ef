"""Figures as pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..rewards.errors import RewardDanceError
from .figures import BINS, PreferenceReport


def check_path(path: Path) -> None:
    """See that a plot can be drawn there, before there is anything to draw.

    Raises:
        RewardDanceError: matplotlib is not installed, or writes no such kind of file.
    """
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError as error:
        raise RewardDanceError("plots need matplotlib: pip install 'rewarddance[plots]'") from error
    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise RewardDanceError(f"{path}: ends in {path.suffix or 'nothing'}; a plot can end in .{', .'.join(known)}")


def plot_reliability(reports: Mapping[str, PreferenceReport], path: Path) -> None:
    """A reliability diagram (Guo et al. 2017, arXiv 1706.04599) of some judges, as PNG, SVG or PDF.

    Below the diagonal a judge is surer than it is right; the size of a point says how many judgements it stands for.

    Raises:
        RewardDanceError: see :func:`check_path`; or the file cannot be written.
    """
    check_path(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0.5, 1.0], [0.5, 1.0], color="0.6", linewidth=1)
    for name, report in reports.items():
        total = sum(item.n for item in report.reliability) or 1
        xs, ys = [item.confidence for item in report.reliability], [item.accuracy for item in report.reliability]
        (line,) = axes.plot(xs, ys, linewidth=1, label=name)
        sizes = [20 + 400 * item.n / total for item in report.reliability]
        axes.scatter(xs, ys, s=sizes, color=line.get_color(), alpha=0.6)
    axes.set_xlabel("confidence of the judge in its winner")
    axes.set_ylabel("share that people agree with")
    axes.set_xlim(0.48, 1.02)
    axes.set_xticks([0.5 + 0.1 * number for number in range(BINS // 2 + 1)])
    axes.grid(alpha=0.3)
    axes.legend()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise RewardDanceError(f"{path}: the plot cannot be written ({error})") from error
