"""Pictures that the nano generator made, judged by the oracle: what the reward model will meet in use."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy import ndimage

from ..hushing import hushed
from ..rewards.errors import RewardDanceError
from ..sampling.painting import Painter
from .evaluation import as_array, sample_sheet, stderr
from .oracle import detect
from .preferences import GROUP, Group, Picture, spec_about
from .scenes import HELD_OUT, IMAGE_SIZE, PROMPT_KINDS, PromptKind, SeenObject, parse_prompt, sample_prompt

if TYPE_CHECKING:
    from ..rewards.model import RewardModel

ATTEMPTS: Final = 3
"""How often six pictures of a prompt are painted at most, for want of six that show nothing held out."""
Objects = tuple[SeenObject, ...]
CONTENDED: Final = (0.02, 0.08, 0.22, 0.08, 0.3, 0.3)
"""Shares of the kinds of prompt, in the order of :data:`~diffusers_ext.nano.scenes.PROMPT_KINDS`: those that the
generator paints right least often, and the judge is fooled by most, come most often."""


@dataclass(frozen=True)
class Pool:
    """Groups of generated pictures, with what the oracle sees in place of a truth that nobody knows.

    Attributes:
        prompts: the text of each group's prompt.
        pixels: uint8 [groups, 6, 64, 64, 3].
        objects: of each group, of each picture.
    """

    prompts: tuple[str, ...]
    pixels: np.ndarray
    objects: tuple[tuple[Objects, ...], ...]
    _kinds: dict[PromptKind, list[int]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, prompts: Sequence[str], pixels: np.ndarray) -> Pool:
        """Look at pictures and keep what is seen."""
        return cls(tuple(prompts), pixels, tuple(tuple(detect(picture) for picture in group) for group in pixels))

    def save(self, path: Path) -> None:
        """Write an .npz of plain arrays; what is seen as JSON."""
        seen = [json.dumps([[astuple(item) for item in picture] for picture in group]) for group in self.objects]
        with path.open("wb") as file:  # given a path, numpy would add .npz to it
            np.savez_compressed(file, prompts=np.array(self.prompts), pixels=self.pixels, objects=np.array(seen))

    @classmethod
    def load(cls, *paths: Path) -> Pool:
        """Read one pool, or several as one."""
        prompts: list[str] = []
        pixels: list[np.ndarray] = []
        objects: list[tuple[Objects, ...]] = []
        for path in paths:
            with np.load(path, allow_pickle=False) as arrays:
                prompts += map(str, arrays["prompts"])
                pixels.append(arrays["pixels"])
                objects += (_objects(json.loads(text)) for text in arrays["objects"])
        return cls(tuple(prompts), np.concatenate(pixels), tuple(objects))

    def draw(self, rng: np.random.Generator, kind: PromptKind) -> Group:
        """A group whose prompt is of a kind; of any kind where there is none."""
        if not self._kinds:
            self._kinds.update({name: [] for name in PROMPT_KINDS})
            for index, text in enumerate(self.prompts):
                self._kinds[parse_prompt(text).kind].append(index)
        places = self._kinds[kind] or range(len(self.prompts))
        return self.group(places[int(rng.integers(len(places)))])

    def group(self, index: int) -> Group:
        """A group, to be judged by alignment alone: how good its pictures look is not known."""
        pictures = zip(self.pixels[index], self.objects[index], strict=True)
        return Group(parse_prompt(self.prompts[index]), tuple(Picture(*seen) for seen in pictures), generated=True)


def varied(rng: np.random.Generator, group: Group) -> Group:
    """A generated group as it was never seen: mirrored, moved, turned and resized a little, and looked at anew.

    Half of the groups are asked about by another prompt, one that a picture of theirs meets or nearly does. Without
    this a judge knows a pool of a few thousand pictures by heart before it has learned to see them.
    """
    pixels = [_moved(rng, picture.pixels) for picture in group.pictures]
    pictures = tuple(Picture(array, detect(array)) for array in pixels)
    shown = [picture for picture in pictures if picture.objects]
    spec = group.spec
    if shown and rng.random() < 0.5:
        spec = spec_about(rng, shown[int(rng.integers(len(shown)))])
    return Group(spec, pictures, generated=True)


def _moved(rng: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    turn, scale = np.deg2rad(rng.uniform(-5, 5)), rng.uniform(0.88, 1.12)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) / scale
    middle = np.full(2, (IMAGE_SIZE - 1) / 2)
    offset = middle - matrix @ (middle + rng.uniform(-4, 4, 2))
    channels = [
        ndimage.affine_transform(channel.astype(np.float32), matrix, offset, order=1, mode="nearest")
        for channel in np.moveaxis(pixels, -1, 0)
    ]
    return np.clip(np.rint(np.stack(channels, -1)), 0, 255).astype(np.uint8)


def _objects(group: list[list[list[Any]]]) -> tuple[Objects, ...]:
    return tuple(tuple(SeenObject(*item) for item in picture) for picture in group)


def draw_pool(
    pipeline: Any, groups: int, seed: int = 0, progress: bool = False, batch: int = 64, **options: Any
) -> Pool:
    """Have the generator paint in-domain prompts six times each, in batches of `batch` pictures.

    Pictures that show a held-out combination are painted again, since the generator has seen those and judges must
    not; of `groups` prompts those are left out that such pictures were painted for three times over.

    Raises:
        RewardDanceError: no prompt is left.
    """
    rng = np.random.default_rng((seed, 77))
    prompts = [sample_prompt(rng) for _ in range(groups)]
    kept: list[list[np.ndarray]] = [[] for _ in prompts]
    for attempt in range(ATTEMPTS):
        lacking = [place for place, pictures in enumerate(kept) if len(pictures) < GROUP]
        if not lacking:
            break
        first = 1_000_000 * (seed + 1) + attempt * groups * GROUP
        sheets = sample_sheet(pipeline, GROUP, [prompts[place] for place in lacking], first, progress, batch, **options)
        for place, pictures in zip(lacking, as_array(sheets), strict=True):
            kept[place] += [picture for picture in pictures if not shows_held_out(picture)]
    full = [place for place, pictures in enumerate(kept) if len(pictures) >= GROUP]
    return _pool_of([prompts[place].text for place in full], [np.stack(kept[place][:GROUP]) for place in full])


def shows_held_out(pixels: np.ndarray) -> bool:
    """Whether the oracle sees a combination in a picture that judges must not have seen."""
    return any((item.colour, item.shape) in HELD_OUT for item in detect(pixels))


def draw_contenders(
    pipeline: Any,
    reward_model: RewardModel,
    groups: int,
    seed: int = 0,
    drafts: int = 24,
    draft_steps: int = 5,
    progress: bool = False,
    **options: Any,
) -> Pool:
    """What a judge has to tell apart in a search: of many drafts of a prompt the three it likes best, and what becomes
    of them when they are painted in full from the same noise.

    Wrong pictures that it takes for right ones are rare among random ones, and most of what it meets here. Groups in
    which something is seen that is held out are left out, so there may be fewer than `groups`.

    Raises:
        RewardDanceError: no prompt is left.
    """
    from rich.progress import track

    rng = np.random.default_rng((seed, 78))
    pipeline.set_progress_bar_config(disable=True)
    prompts: list[str] = []
    pixels: list[np.ndarray] = []
    for group in track(range(groups), "generating", disable=not progress, console=stderr()):
        text = sample_prompt(rng, PROMPT_KINDS[int(rng.choice(len(PROMPT_KINDS), p=CONTENDED))]).text
        painter = Painter(pipeline, text, options, batch_size=drafts)
        first = 50_000_000 * (seed + 1) + group * drafts  # noises that nothing is measured on
        seeds = list(range(first, first + drafts))
        with hushed():
            drafted = painter.paint(seeds, steps=draft_steps).images
        judgements = reward_model.score(list(drafted), text, instruction="alignment")
        best = np.argsort([-judgement.log_odds for judgement in judgements])[: GROUP // 2]
        with hushed():
            finished = painter.paint([seeds[place] for place in best]).images
        pictures = [np.asarray(image) for image in (*(drafted[place] for place in best), *finished)]
        if not any(map(shows_held_out, pictures)):
            prompts.append(text)
            pixels.append(np.stack(pictures))
    return _pool_of(prompts, pixels)


def _pool_of(prompts: list[str], pixels: list[np.ndarray]) -> Pool:
    if not prompts:
        raise RewardDanceError("for every prompt something was painted that is held out; draw more, or another seed")
    return Pool.of(prompts, np.stack(pixels))
