"""Scenes to pixels, and the ways in which a picture can be bad."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .scenes import IMAGE_SIZE, Scene, SceneObject

SUPERSAMPLING: Final = 4


@dataclass(frozen=True)
class Degradation:
    """How bad a picture is, each flaw from 0 (none) to 1 (severe).

    Attributes:
        blur: Gaussian blur, up to a standard deviation of 1.5 px.
        noise: additive Gaussian noise, up to a standard deviation of 0.12 of full scale.
        washout: contrast and saturation lost, up to 70% of the way to a flat grey.
        breakage: up to 4 bites and one gap out of every object.
    """

    blur: float = 0.0
    noise: float = 0.0
    washout: float = 0.0
    breakage: float = 0.0

    @property
    def aesthetics(self) -> float:
        """How good the picture looks, in [0, 1]."""
        return (1 - 0.9 * self.blur) * (1 - 0.9 * self.noise) * (1 - 0.9 * self.washout)

    @property
    def structure(self) -> float:
        """How whole the objects are, in [0, 1]."""
        return 1 - 0.9 * self.breakage

    @property
    def quality(self) -> float:
        """Aesthetics times structure, in [0, 1]."""
        return self.aesthetics * self.structure


CLEAN: Final = Degradation()


def sample_degradation(rng: np.random.Generator, flaws: int | None = None) -> Degradation:
    """A picture with `flaws` of the four flaws (one to three at random when None), each of severity 0.4 to 1."""
    count = int(rng.integers(1, 4)) if flaws is None else flaws
    severities = np.zeros(4)
    severities[rng.choice(4, count, replace=False)] = rng.uniform(0.4, 1.0, count)
    return Degradation(*(float(value) for value in severities))


def outline(shape: str, radius: float, rotation: float) -> np.ndarray:
    """The polygon of a shape about the origin, float64 [points, 2], a tenth past the circle of `radius` at most."""
    match shape:
        case "circle":
            angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
            points = 0.92 * np.stack([np.cos(angles), np.sin(angles)], 1)
        case "square":
            points = 0.78 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
        case "triangle":
            angles = np.deg2rad([-90, 30, 150])
            points = np.stack([np.cos(angles), np.sin(angles) + 0.12], 1)
        case "star":
            angles = np.deg2rad(-90 + 36 * np.arange(10))
            lengths = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)[:, None]
            points = lengths * np.stack([np.cos(angles), np.sin(angles)], 1)
        case "cross":
            a = 0.30
            points = 0.95 * np.array(
                [
                    (-a, -1),
                    (a, -1),
                    (a, -a),
                    (1, -a),
                    (1, a),
                    (a, a),
                    (a, 1),
                    (-a, 1),
                    (-a, a),
                    (-1, a),
                    (-1, -a),
                    (-a, -a),
                ]
            )
        case _:
            raise ValueError(f"unknown shape {shape!r}")
    turn = np.deg2rad(rotation)
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return radius * points @ matrix


def _break(
    draw: ImageDraw.ImageDraw, item: SceneObject, background: tuple[int, int, int], severity: float, rng
) -> None:
    """Take bites out of the rim and cut a gap through the middle, in the colour of the background."""
    for _ in range(round(1 + 3 * severity)):
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.45, 0.85) * item.radius
        x, y = item.x + reach * np.cos(angle), item.y + reach * np.sin(angle)
        bite = item.radius * rng.uniform(0.16, 0.18 + 0.10 * severity)
        draw.ellipse([SUPERSAMPLING * v for v in (x - bite, y - bite, x + bite, y + bite)], fill=background)
    for _ in range(round(severity)):
        angle, offset = rng.uniform(0, np.pi), rng.uniform(-0.4, 0.4) * item.radius
        along = 1.2 * item.radius * np.array([np.cos(angle), np.sin(angle)])
        middle = np.array([item.x, item.y]) + offset * np.array([-np.sin(angle), np.cos(angle)])
        ends = np.concatenate([middle - along, middle + along]) * SUPERSAMPLING
        draw.line([float(v) for v in ends], fill=background, width=round(SUPERSAMPLING * (1.0 + severity)))


def render(scene: Scene, degradation: Degradation = CLEAN, rng: np.random.Generator | None = None) -> np.ndarray:
    """Draw a scene, anti-aliased.

    Args:
        scene: what to draw.
        degradation: the flaws to give the picture.
        rng: source of the bites and of the noise; needed only if there are any.

    Returns:
        uint8 [64, 64, 3] RGB.
    """
    if rng is None:
        if degradation.breakage or degradation.noise:
            raise ValueError("breakage and noise are random: pass rng=numpy.random.default_rng(seed)")
        rng = np.random.default_rng(0)
    size = IMAGE_SIZE * SUPERSAMPLING
    canvas = Image.new("RGB", (size, size), scene.background)
    draw = ImageDraw.Draw(canvas)
    for item in scene.objects:
        points = (outline(item.shape, item.radius, item.rotation) + np.array([item.x, item.y])) * SUPERSAMPLING
        draw.polygon([(float(x), float(y)) for x, y in points], fill=item.rgb)
        if degradation.breakage:
            _break(draw, item, scene.background, degradation.breakage, rng)
    picture = canvas.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)
    if degradation == CLEAN:
        return np.asarray(picture)
    return _spoil(picture, degradation, rng)


def _spoil(picture: Image.Image, degradation: Degradation, rng: np.random.Generator) -> np.ndarray:
    blur, noise, washout, _ = astuple(degradation)
    if blur:
        picture = picture.filter(ImageFilter.GaussianBlur(1.5 * blur))
    pixels = np.asarray(picture).astype(np.float64)
    if washout:
        pixels = pixels + 0.7 * washout * (96.0 - pixels)
    if noise:
        pixels = pixels + rng.normal(0, 255 * 0.12 * noise, pixels.shape)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
