"""The nano world's judge of last resort: classical vision on a finished picture, knowing nothing of how it was made.

A picture is cut into blobs by their distance from the background colour; each blob is matched against the five shapes
by intersection over union and named after the nearest hue. What counts as a shape is taken generously, as people do: a
star with a bent arm is a star, if not a well made one, which the quality says. A blob that looks like no shape may be
several that touch; if it is not, it is no object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.draw import polygon2mask
from skimage.morphology import h_maxima
from skimage.segmentation import watershed

from .render import Degradation, outline
from .scenes import COLOURS, IMAGE_SIZE, SHAPES, Grade, PromptSpec, SeenObject, grade, parse_prompt

GRID: Final = 24
SPAN: Final = 1.35
"""Templates cover +-SPAN times the square root of the blob's area."""
ACCEPTED: Final = 0.62
"""A blob whose best intersection over union with a shape, bent and blurred as it may be, is below this is no object."""
JOINED: Final = 0.74
"""Fragments are joined only if together they overlap a shape by this much."""
DEPTHS: Final = (1.0, 0.5)
"""How much narrower than on either side, in pixels of half width, a blob must be to be cut there; tried in turn."""
TURNS: Final = (-10, -5, 0, 5, 10)
"""Degrees by which shapes as they are drawn may be turned."""
FURTHER_TURNS: Final = (-20, -15, *TURNS, 15, 20)
STRETCHES: Final = (0.8, 0.9, 1.0, 1.11, 1.25)
"""Ratios of width to height, a shape's own being one."""
RAYS: Final = 60
BLURS: Final = (0.0, 0.1, 0.2)
"""Blur of a bent shape, in units of the square root of its area."""
SMALLEST: Final = 14
"""Blobs of fewer pixels are specks."""
GREY: Final = 96.0
"""The grey that washed-out pictures fade to (see render)."""


@dataclass(frozen=True)
class OracleVerdict:
    """What the oracle makes of a picture.

    Attributes:
        objects: what it shows.
        grade: how far that meets the prompt.
        quality: the flaws it measures, each in [0, 1].
        malformed: how many blobs are no object.
    """

    objects: tuple[SeenObject, ...]
    grade: Grade
    quality: Degradation
    malformed: int

    @property
    def correct(self) -> bool:
        """Whether every requirement of the prompt is met (GenEval's notion)."""
        return self.grade.correct

    @property
    def score(self) -> float:
        """Share of the requirements that are met, in [0, 1]."""
        return self.grade.score


@dataclass(frozen=True)
class _Blob:
    seen: SeenObject
    likeness: float
    """Overlap with the shape it is taken for, bent and blurred as it may be."""
    fit: float
    """Overlap with a shape as it is drawn."""
    colour: np.ndarray
    edge: float


@dataclass(frozen=True)
class _Template:
    shape: str
    area: float
    """Area of the shape in units of its radius squared."""
    centre: tuple[float, float]
    """Its centroid relative to its centre, in radii."""


@dataclass(frozen=True)
class _Bent:
    """All shapes as they may turn out: turned further, stretched and blurred.

    Attributes:
        templates: one for each, n in all.
        masks: by shape, float [its share of n, GRID * GRID].
        signatures: float [n, RAYS].
    """

    templates: list[_Template]
    masks: dict[str, np.ndarray]
    signatures: np.ndarray


def judge(image: np.ndarray | Image.Image, prompt: str | PromptSpec) -> OracleVerdict:
    """Judge a picture against a prompt of the nano world.

    Args:
        image: uint8 [64, 64, 3] RGB, or a PIL image of any size.
        prompt: its text or its symbols.

    Raises:
        PromptError: the text is not a prompt of the nano world.
    """
    spec = parse_prompt(prompt) if isinstance(prompt, str) else prompt
    pixels = _pixels(image)
    blobs, malformed, noise, background = _look(pixels)
    objects = tuple(blob.seen for blob in blobs)
    return OracleVerdict(objects, grade(spec, objects), _quality(blobs, malformed, noise, background), malformed)


def judge_all(images: Sequence[np.ndarray | Image.Image], prompts: Sequence[str | PromptSpec]) -> list[OracleVerdict]:
    """One verdict per picture and prompt, in order."""
    return [judge(image, prompt) for image, prompt in zip(images, prompts, strict=True)]


def detect(image: np.ndarray | Image.Image) -> tuple[SeenObject, ...]:
    """The objects in a picture, as :func:`judge` sees them."""
    return tuple(blob.seen for blob in _look(_pixels(image))[0])


def _pixels(image: np.ndarray | Image.Image) -> np.ndarray:
    if isinstance(image, Image.Image):
        small = image.convert("RGB")
        if small.size != (IMAGE_SIZE, IMAGE_SIZE):
            small = small.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)
        image = np.asarray(small)
    if image.shape != (IMAGE_SIZE, IMAGE_SIZE, 3):
        raise ValueError(f"expected uint8 [{IMAGE_SIZE}, {IMAGE_SIZE}, 3], got an array of shape {image.shape}")
    return image.astype(np.float64)


_SECOND_DIFFERENCE: Final = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], dtype=np.float64)


def _noise(pixels: np.ndarray) -> float:
    """Standard deviation of white noise (Immerkaer 1996), by the median so that edges do not count."""
    grey = pixels.mean(2)
    response = ndimage.convolve(grey, _SECOND_DIFFERENCE)
    # Averaging three channels of independent noise divides its deviation by the square root of three.
    return float(np.median(np.abs(response)) / 0.6745 / 6.0 * np.sqrt(3.0))


def _look(pixels: np.ndarray) -> tuple[list[_Blob], int, float, np.ndarray]:
    noise = _noise(pixels)
    background = np.median(pixels.reshape(-1, 3), axis=0)
    smoothing = min(1.0, noise / 16.0)
    smooth = ndimage.gaussian_filter(pixels, (smoothing, smoothing, 0)) if smoothing > 0.2 else pixels
    distance = np.sqrt(((smooth - background) ** 2).sum(2))
    floor = 12.0 + 0.8 * noise
    threshold = max(floor, 0.22 * float(np.percentile(distance, 99.5)))
    labels, count = ndimage.label(distance > threshold, structure=np.ones((3, 3)))
    masks = [labels == number for number in range(1, count + 1)]
    masks = [mask for mask in masks if mask.sum() >= 4]
    blobs = [_fit(mask, distance, pixels, background) for mask in masks]
    blobs, masks = _joined(blobs, masks, distance, pixels, background)
    blobs, masks = _parted(blobs, masks, distance, pixels, background)
    whole = [
        blob
        for blob, mask in zip(blobs, masks, strict=True)
        if blob is not None and mask.sum() >= SMALLEST and blob.likeness >= ACCEPTED
    ]
    specks = [mask for mask in masks if mask.sum() >= SMALLEST]
    return whole, len(specks) - len(whole), noise, background


def _joined(
    blobs: list[_Blob | None], masks: list[np.ndarray], distance: np.ndarray, pixels: np.ndarray, background: np.ndarray
) -> tuple[list[_Blob | None], list[np.ndarray]]:
    """Join fragments that lie within 3 px of each other wherever together they look more like a shape than apart."""
    blobs, masks = list(blobs), list(masks)
    joined = True
    while joined and len(masks) > 1:
        joined = False
        reach = [ndimage.binary_dilation(mask, iterations=3) for mask in masks]
        for a in range(len(masks)):
            for b in range(a + 1, len(masks)):
                if not (reach[a] & masks[b]).any():
                    continue
                union = masks[a] | masks[b]
                both = _fit(union, distance, pixels, background)
                sizes = masks[a].sum(), masks[b].sum()
                apart = max(
                    (blob.likeness if blob else 0.0, size)
                    for blob, size in zip((blobs[a], blobs[b]), sizes, strict=True)
                )
                if both is not None and both.likeness > max(JOINED, apart[0] + 0.02):
                    blobs[a], masks[a] = both, union
                    del blobs[b], masks[b]
                    joined = True
                    break
            if joined:
                break
    return blobs, masks


def _parted(
    blobs: list[_Blob | None], masks: list[np.ndarray], distance: np.ndarray, pixels: np.ndarray, background: np.ndarray
) -> tuple[list[_Blob | None], list[np.ndarray]]:
    """Cut a blob that looks like no shape at its waists, wherever all parts then look like one."""
    found: list[tuple[_Blob | None, np.ndarray]] = []
    for blob, mask in zip(blobs, masks, strict=True):
        whole = [(blob, mask)]
        if mask.sum() >= 2 * SMALLEST and (blob is None or blob.likeness < ACCEPTED):
            for depth in DEPTHS:
                parts = _cut(mask, depth)
                fits = [_fit(part, np.where(mask & ~part, 0.0, distance), pixels, background) for part in parts]
                if len(parts) > 1 and all(fit is not None and fit.likeness >= ACCEPTED for fit in fits):
                    whole = list(zip(fits, parts, strict=True))
                    break
        found += whole
    return [blob for blob, _ in found], [mask for _, mask in found]


def _cut(mask: np.ndarray, depth: float) -> list[np.ndarray]:
    """The parts of a mask around the places deepest inside it, specks left out; `depth` px make a waist."""
    inside = ndimage.distance_transform_edt(mask)
    places, _ = ndimage.label(h_maxima(inside, depth), structure=np.ones((3, 3)))
    parts = watershed(-inside, places, mask=mask)
    cut = [parts == number for number in range(1, int(parts.max()) + 1)]
    return [part for part in cut if part.sum() >= SMALLEST]


def _fit(mask: np.ndarray, distance: np.ndarray, pixels: np.ndarray, background: np.ndarray) -> _Blob | None:
    """Match a blob against the shapes at half of its own contrast."""
    contrast = float(np.percentile(distance[mask], 80))
    near = ndimage.binary_dilation(mask, iterations=2)
    soft = np.where(near, np.clip(distance / contrast, 0.0, 1.0), 0.0)
    soft = np.clip((soft - 0.08) / 0.84, 0.0, 1.0)
    area = float(soft.sum())
    if area < 6:
        return None
    rows, columns = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE]
    y, x = float((soft * rows).sum() / area), float((soft * columns).sum() / area)
    bent = _bent()
    grid = np.linspace(-SPAN, SPAN, GRID) * np.sqrt(area)
    sampled = ndimage.map_coordinates(soft, np.meshgrid(y + grid, x + grid, indexing="ij"), order=1).reshape(GRID, GRID)
    apart = np.abs(bent.signatures - _signature(sampled)).mean(1)
    template = bent.templates[int(apart.argmin())]
    likeness = float(_overlap(bent.masks[template.shape], sampled.ravel()).max())
    fit = float(_overlap(_drawn(), sampled.ravel()).max())
    radius = float(np.sqrt(area / template.area))
    inner = soft > min(0.9, float(soft[mask].max()))
    colour = np.median(pixels[inner if inner.sum() >= 4 else mask], axis=0)
    # Pixel centres lie at halves, scene coordinates count from the picture's corner.
    seen = SeenObject(
        template.shape,
        _colour_name(colour, background),
        x + 0.5 - radius * template.centre[0],
        y + 0.5 - radius * template.centre[1],
        radius,
    )
    border = float(((soft > 0.15) & (soft < 0.85)).sum())
    return _Blob(seen, likeness, fit, colour, border / (_perimeter(template.shape) * radius))


@lru_cache(maxsize=1)
def _drawn() -> np.ndarray:
    """Masks of all shapes as they are drawn, turned about their centroid and scaled to area one, [n, GRID * GRID]."""
    turned = [(shape, turn) for shape in SHAPES for turn in (TURNS if shape != "circle" else (0,))]
    return np.stack([_template(shape, turn, 1.0)[1].ravel() for shape, turn in turned])


@lru_cache(maxsize=1)
def _bent() -> _Bent:
    templates: list[_Template] = []
    masks: dict[str, list[np.ndarray]] = {shape: [] for shape in SHAPES}
    signatures: list[np.ndarray] = []
    for shape in SHAPES:
        for turn in FURTHER_TURNS if shape != "circle" else (0,):
            for stretch in STRETCHES:
                template, mask = _template(shape, turn, stretch)
                for blur in BLURS:
                    templates.append(template)
                    blurred = ndimage.gaussian_filter(mask, blur * (GRID - 1) / (2 * SPAN))
                    masks[shape].append(blurred.ravel())
                    signatures.append(_signature(blurred))
    return _Bent(templates, {shape: np.stack(found) for shape, found in masks.items()}, np.stack(signatures))


def _overlap(templates: np.ndarray, sampled: np.ndarray) -> np.ndarray:
    """Intersection over union of soft masks, [n]."""
    return np.minimum(templates, sampled).sum(1) / np.maximum(templates, sampled).sum(1)


def _signature(mask: np.ndarray) -> np.ndarray:
    """How far a soft mask reaches from its middle in each direction, [RAYS]: tips weigh as much as what is within."""
    angles = np.arange(RAYS) * (2 * np.pi / RAYS)
    reach = np.arange(0.0, GRID / 2 * 1.3, 0.5)[:, None]
    middle = (GRID - 1) / 2
    return ndimage.map_coordinates(
        mask, (middle + reach * np.sin(angles), middle + reach * np.cos(angles)), order=1
    ).sum(0)


def _template(shape: str, turn: float, stretch: float) -> tuple[_Template, np.ndarray]:
    """A shape scaled to area one about its centroid, and its mask, [GRID, GRID]."""
    fine = 8
    points = outline(shape, 1.0, turn) * (np.sqrt(stretch), 1 / np.sqrt(stretch))
    area, centre = _area_and_centroid(points)
    step = 2 * SPAN / (GRID - 1)
    places = (((points - centre) / np.sqrt(area) + SPAN) / step + 0.5) * fine
    drawn = polygon2mask((GRID * fine, GRID * fine), places[:, ::-1])
    mask = drawn.reshape(GRID, fine, GRID, fine).mean((1, 3))
    return _Template(shape, area, (float(centre[0]), float(centre[1]))), mask


def _area_and_centroid(points: np.ndarray) -> tuple[float, np.ndarray]:
    following = np.roll(points, -1, axis=0)
    cross = points[:, 0] * following[:, 1] - following[:, 0] * points[:, 1]
    area = 0.5 * cross.sum()
    centroid = ((points + following) * cross[:, None]).sum(0) / (6 * area)
    return abs(float(area)), centroid


@lru_cache(maxsize=8)
def _perimeter(shape: str) -> float:
    points = outline(shape, 1.0, 0.0)
    return float(np.linalg.norm(points - np.roll(points, -1, axis=0), axis=1).sum())


def _hue(colour: np.ndarray) -> complex:
    """Direction of a colour around the grey axis; its size is the chroma. Fading to any grey keeps the direction."""
    red, green, blue = (float(value) for value in colour)
    return complex(red - 0.5 * (green + blue), np.sqrt(0.75) * (green - blue))


_HUES: Final = {name: _hue(np.array(rgb, dtype=float)) for name, rgb in COLOURS.items() if name != "white"}


def _colour_name(colour: np.ndarray, background: np.ndarray) -> str:
    hue = _hue(colour)
    if abs(hue) <= 0.22 * np.linalg.norm(colour - background):
        return "white"
    return max(_HUES, key=lambda name: (hue / abs(hue) * np.conj(_HUES[name] / abs(_HUES[name]))).real)


def _quality(blobs: list[_Blob], malformed: int, noise: float, background: np.ndarray) -> Degradation:
    """Severities in the terms of :class:`~diffusers_ext.nano.render.Degradation`; a picture of nothing is broken."""
    if not blobs:
        return Degradation(noise=min(1.0, noise / (255 * 0.12)), breakage=1.0)
    edge = float(np.median([blob.edge for blob in blobs]))
    faded = float(np.median([_faded(blob) for blob in blobs]))
    misfit = float(np.mean([blob.fit for blob in blobs] + [0.5] * malformed))
    return Degradation(
        blur=_unit((edge - 1.15) / 1.9),
        noise=_unit(noise / (255 * 0.12)),
        washout=_unit(faded / 0.7),
        breakage=_unit((0.90 - misfit) / 0.16),
    )


def _faded(blob: _Blob) -> float:
    """How far a blob's colour has gone from its name's colour towards grey."""
    pure = np.array(COLOURS[blob.seen.colour], dtype=float)
    towards = GREY - pure
    return float(((blob.colour - pure) * towards).sum() / (towards**2).sum())


def _unit(value: float) -> float:
    """Severity in [0, 1]; what is within measurement error of nothing is nothing."""
    return 0.0 if value < 0.12 else float(min(1.0, value))
