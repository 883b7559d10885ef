"""The figures of a video judge, measured against the truth on data that training never saw."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from ...rewards.judgement import Judgement
from ..evaluation import SEED, Figure, calibration_error
from .preferences import (
    VIDEO_INSTRUCTIONS,
    Video,
    VideoPair,
    good,
    marks,
    needs_first_frame,
    sample_conflicts,
    sample_first_frame_pairs,
    sample_flaw_pairs,
    sample_group,
    sample_motion_pairs,
    sample_pairs,
)

if TYPE_CHECKING:
    from ...rewards.model import RewardModel

OFFSET: Final = 1000
"""What moving data begin at after those of pictures."""


def video_figures(reward_model: RewardModel, size: int, progress: bool = False) -> dict[str, Figure]:
    """Accuracy by kind of pair and by instruction, and calibration.

    Args:
        reward_model: the judge.
        size: cases per figure.
        progress: show progress on stderr.
    """

    def measured(offset: int, stream: Callable[..., Iterator[VideoPair]], low: float | None, held_out: bool) -> Figure:
        rng = np.random.default_rng(SEED + OFFSET + offset)
        pairs = list(itertools.islice(stream(rng, held_out=True) if held_out else stream(rng), size))
        return Figure(accuracy(judge_pairs(reward_model, pairs, progress=progress), pairs), size, low=low)

    in_domain = list(itertools.islice(sample_pairs(np.random.default_rng(SEED + OFFSET)), size))
    judgements = judge_pairs(reward_model, in_domain, progress=progress)
    figures = {"pairwise accuracy": Figure(accuracy(judgements, in_domain), size, low=0.90)}
    for instruction in VIDEO_INSTRUCTIONS:
        chosen = [index for index, pair in enumerate(in_domain) if pair.instruction == instruction]
        value = accuracy([judgements[index] for index in chosen], [in_domain[index] for index in chosen])
        figures[f"pairwise accuracy, {instruction}"] = Figure(value, len(chosen))
    error = calibration_error([j.reward for j in judgements], [pair.better for pair in in_domain])
    alone, good_ones = pointwise(reward_model, np.random.default_rng(SEED + OFFSET + 7), size, progress)
    right = [judgement.verdict == label for judgement, label in zip(alone, good_ones, strict=True)]
    return figures | {
        "pairwise accuracy, held-out combinations": measured(1, sample_pairs, 0.90, True),
        "pairs that differ in motion alone": measured(2, sample_motion_pairs, 0.90, False),
        "pairs that differ in motion alone, held-out combinations": measured(3, sample_motion_pairs, None, True),
        "pairs that differ in one flaw of motion": measured(4, sample_flaw_pairs, 0.90, False),
        "pairs of which one starts from the given frame": measured(5, sample_first_frame_pairs, 0.90, False),
        "obeys the instruction": measured(6, sample_conflicts, 0.90, False),
        "expected calibration error": Figure(error, size, high=0.05),
        "pointwise accuracy": Figure(float(np.mean(right)), len(right)),
    }


def accuracy(judgements: Sequence[Judgement], pairs: Sequence[VideoPair]) -> float:
    """Share of verdicts that agree with the truth; not a number where there are none."""
    right = [judgement.verdict == pair.better for judgement, pair in zip(judgements, pairs, strict=True)]
    return float(np.mean(right)) if right else float("nan")


def frames_of(video: Video) -> list[Image.Image]:
    """A video as a reward model takes it."""
    return [Image.fromarray(frame) for frame in video.frames]


def judge_pairs(
    reward_model: RewardModel,
    pairs: Sequence[VideoPair],
    debias: bool = True,
    progress: bool = False,
) -> list[Judgement]:
    """One judgement per pair, in order; pairs that share an instruction are judged together."""
    judgements: dict[int, Judgement] = {}
    for instruction in dict.fromkeys(pair.instruction for pair in pairs):
        chosen = [index for index, pair in enumerate(pairs) if pair.instruction == instruction]
        given = [Image.fromarray(pairs[index].first_frame.pixels) for index in chosen]
        found = reward_model.compare_videos(
            [frames_of(pairs[index].candidate) for index in chosen],
            [frames_of(pairs[index].reference) for index in chosen],
            [pairs[index].spec.text for index in chosen],
            instruction,
            first_frame=given if needs_first_frame(instruction) else None,
            debias=debias,
            progress=progress,
        )
        judgements |= dict(zip(chosen, found, strict=True))
    return [judgements[index] for index in range(len(pairs))]


def pointwise(
    reward_model: RewardModel, rng: np.random.Generator, size: int, progress: bool = False
) -> tuple[list[Judgement], list[bool]]:
    """Judgements of about `size` videos with no reference, under all instructions in turn, and whether each is good."""
    judgements: list[Judgement] = []
    labels: list[bool] = []
    for instruction in VIDEO_INSTRUCTIONS:
        groups = [sample_group(rng) for _ in range(max(1, size // 30))]
        cases = [(group, video) for group in groups for video in group.videos]
        judgements += reward_model.score_video(
            [frames_of(video) for _, video in cases],
            [group.spec.text for group, _ in cases],
            instruction,
            first_frame=[Image.fromarray(group.first_frame.pixels) for group, _ in cases]
            if needs_first_frame(instruction)
            else None,
            progress=progress,
        )
        labels += [good(instruction, marks(video, group.spec, group.first_frame)) for group, video in cases]
    return judgements, labels
