"""Pairs of the nano worlds, still and moving, to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from PIL import Image

from diffusers_ext.nano.moving import scenes as moving
from diffusers_ext.nano.moving.render import SMOOTH, MotionFlaws, Video
from diffusers_ext.nano.render import CLEAN, Degradation, render
from diffusers_ext.nano.scenes import parse_prompt, sample_scene_for
from diffusers_ext.rewards.videos import RATE

from .videos import write_video

PROMPTS: Final = (
    "a photo of a red star",
    "a photo of a star and a circle",
    "a photo of three squares",
    "a photo of a circle left of a square",
    "a photo of a red circle and a blue square",
    "a photo of a white cross",
)
"""One of each kind that the nano judge knows."""

_Side: TypeAlias = tuple[str, Degradation]
_PAIRS: Final[tuple[tuple[str, _Side, _Side], ...]] = (
    ("a photo of a red star", ("a photo of a red star", CLEAN), ("a photo of a blue star", CLEAN)),
    ("a photo of three squares", ("a photo of two squares", CLEAN), ("a photo of three squares", CLEAN)),
    (
        "a photo of a circle left of a square",
        ("a photo of a circle left of a square", CLEAN),
        ("a photo of a circle right of a square", CLEAN),
    ),
    (
        "a photo of a white cross",
        ("a photo of a white cross", Degradation(noise=1.0)),
        ("a photo of a white cross", CLEAN),
    ),
    (
        "a photo of a green triangle",
        ("a photo of a green triangle", Degradation(breakage=1.0)),
        ("a photo of a red triangle", CLEAN),
    ),
)
"""Prompt, and of A and B what they show and how badly; in the last, criteria disagree."""

_MovingSide: TypeAlias = tuple[str, MotionFlaws]
_VIDEO_PAIRS: Final[tuple[tuple[str, _MovingSide, _MovingSide], ...]] = (
    (
        "a video of a green circle moving up",
        ("a video of a red circle moving up", SMOOTH),
        ("a video of a green circle moving up", SMOOTH),
    ),
    (
        "a video of a red star moving left",
        ("a video of a red star moving left", SMOOTH),
        ("a video of a red star moving right", SMOOTH),
    ),
    (
        "a video of a circle moving down fast",
        ("a video of a circle moving down slowly", SMOOTH),
        ("a video of a circle moving down fast", SMOOTH),
    ),
    (
        "a video of a blue square moving right",
        ("a video of a blue square moving right", MotionFlaws(jitter=1.0)),
        ("a video of a blue square moving right", SMOOTH),
    ),
)


def write_pairs(folder: Path) -> list[list[str]]:
    """Draw the pairs, always the same, into a folder.

    Returns:
        For each the files of A and B and the prompt.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows: list[list[str]] = []
    for number, (prompt, *sides) in enumerate(_PAIRS):
        files: list[str] = []
        for name, (shown, flaws) in zip("ab", sides, strict=True):
            scene = sample_scene_for(rng, parse_prompt(shown), extra=0.0)
            file = folder / f"pair{number}-{name}.png"
            Image.fromarray(render(scene, flaws, rng)).save(file)
            files.append(str(file))
        rows.append([*files, prompt])
    return rows


def write_video_pairs(folder: Path) -> list[list[str]]:
    """The same of videos."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows: list[list[str]] = []
    for number, (prompt, *sides) in enumerate(_VIDEO_PAIRS):
        files: list[str] = []
        for name, (shown, flaws) in zip("ab", sides, strict=True):
            scene = moving.sample_scene_for(rng, moving.parse_prompt(shown), extra=0.0)
            file = folder / f"pair{number}-{name}.mp4"
            write_video(file, list(Video.of(scene, rng, flaws).frames), int(RATE))
            files.append(str(file))
        rows.append([*files, prompt])
    return rows
