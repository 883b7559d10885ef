"""Go on training a reward model of pictures until it judges videos too: to follow motion, speak of it, and judge it.

A video is shown as a few of its frames, each a picture like any other, so all that is new is what lies between frames.
Pictures go on being asked about beside videos, so that what is known of them is not lost.

Every step draws fresh videos, so nothing is ever seen twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, InternVLForConditionalGeneration

from ...rewards.videos import spread
from .. import DEFAULT_REWARD_MODEL
from .. import preferences as still
from ..course import Course, train
from ..detection import Targets, targets_of
from ..packing import Packed, Row, loss, watching
from ..preferences import Group
from ..reward_model import save_processor
from ..train_reward import RewardRecipe, SeeingLearner, accuracies, judgement_rows, pixels_of, scaled, speaking_rows
from .following import Follower, Trails, trails_of
from .preferences import (
    GROUP,
    VIDEO_INSTRUCTIONS,
    Video,
    VideoGroup,
    caption,
    good,
    marks,
    needs_first_frame,
    preferred,
    rationale,
    sample_group,
    statements,
)
from .questions import SHOWN
from .scenes import FRAMES
from .vocabulary import teach_words
from .writing import Asked, Frames, VideoWriter

LIKELIHOODS: Final = (0.3, 0.2, 0.2, 0.15, 0.15)
"""Of the instructions, in the order of :data:`~diffusers_ext.nano.moving.preferences.VIDEO_INSTRUCTIONS`."""
PICTURES: Final = RewardRecipe()
"""How pictures are asked about."""


@dataclass(frozen=True)
class VideoRecipe(Course):
    start_from: str = str(DEFAULT_REWARD_MODEL)
    """The trained reward model's folder to go on from."""
    steps: int = 4000
    speaking_steps: int = 1000
    """Steps at the start on captions and statements alone: verdicts teach little without words for motion."""
    groups: int = 2
    """Prompts per step, six videos each."""
    picture_groups: int = 1
    """Prompts per step for pictures, six each."""
    shown: int = SHOWN
    """Frames that are shown of a video."""
    picture_weight: float = 0.3
    """Weight of all that is asked about pictures beside videos."""
    detection_weight: float = 0.25
    """Weight of seeing beside the other lessons."""
    following_weight: float = 1.0
    """Weight of following objects from frame to frame."""
    following_depth: int = 2
    """After how many layers of the language model that is read off."""
    learning_rate: float = 5e-4
    caption_weight: float = 0.2
    rationale_weight: float = 0.3
    """Weights of a token of a caption and of a rationale against that of a verdict."""
    statements: int = 12
    statement_weight: float = 0.5
    """Statements per video, and the weight of the yes or no after each."""


@dataclass(frozen=True)
class Shown:
    """A group as the model is shown it: the first frame and every video, by their pictures' indices in the batch."""

    group: VideoGroup
    first_frame: int
    videos: tuple[Frames, ...]


def lay_out(groups: Sequence[VideoGroup], shown: int, start: int) -> tuple[list[Group], list[Shown]]:
    """All pictures of all groups in order, and where each is if they come after `start` others."""
    chosen = spread(FRAMES, shown)
    pictures: list[Group] = []
    places: list[Shown] = []
    for group in groups:
        frames = [video.picture(frame) for video in group.videos for frame in chosen]
        pictures.append(Group(group.spec.still, (group.first_frame, *frames)))
        numbers = np.arange(len(frames)).reshape(len(group.videos), -1) + start + 1
        places.append(Shown(group, start, tuple(tuple(int(index) for index in row) for row in numbers)))
        start += 1 + len(frames)
    return pictures, places


def speaking_video_rows(
    writer: VideoWriter,
    rng: np.random.Generator,
    shown: Sequence[Shown],
    captions: int,
    checked: int,
    recipe: VideoRecipe,
) -> list[Row]:
    """Of a few videos of every group captions, and of a few true or false statements."""
    rows: list[Row] = []
    for item in shown:
        videos = list(zip(item.videos, item.group.videos, strict=True))
        order = [int(index) for index in rng.permutation(GROUP)]
        described = [(videos[i][0], caption(videos[i][1])) for i in order[:captions]]
        rows.append(writer.caption_row(described, recipe.caption_weight))
        found = [(videos[i][0], statements(rng, videos[i][1], recipe.statements)) for i in order[-checked:]]
        rows.append(writer.statement_row(found, recipe.statement_weight))
    return rows


def judgement_video_rows(
    writer: VideoWriter, rng: np.random.Generator, shown: Sequence[Shown], recipe: VideoRecipe
) -> list[Row]:
    """For every group two questions with a reference, one without, and one answered with a rationale."""
    rows: list[Row] = []
    for item in shown:
        group = item.group
        marked = [marks(video, group.spec, group.first_frame) for video in group.videos]
        for reference in (int(index) for index in rng.choice(GROUP, 2, replace=False)):
            asked = _ask(rng, item, reference)
            labels = ((i, preferred(asked.instruction, marked[i], marked[reference])) for i in range(GROUP))
            verdicts = [(item.videos[i], label) for i, label in labels if label is not None]
            if verdicts:
                rows.append(writer.judgement_row(asked, verdicts))
        asked = _ask(rng, item, None)
        rows.append(
            writer.judgement_row(asked, [(item.videos[i], good(asked.instruction, marked[i])) for i in range(GROUP)])
        )
        rows += _rationale_rows(writer, rng, item, recipe.rationale_weight)
    return rows


def _rationale_rows(writer: VideoWriter, rng: np.random.Generator, item: Shown, weight: float) -> list[Row]:
    group = item.group
    candidate, reference = (int(index) for index in rng.choice(GROUP, 2, replace=False))
    first, second = group.videos[candidate], group.videos[reference]
    mine, theirs = (marks(video, group.spec, group.first_frame) for video in (first, second))
    other: Video | None = second
    if rng.random() < 0.25:
        asked, other = _ask(rng, item, None), None
        verdict: bool | None = good(asked.instruction, mine)
    else:
        asked = _ask(rng, item, reference)
        verdict = preferred(asked.instruction, mine, theirs)
    if verdict is None:
        return []
    text = rationale(asked.instruction, group.spec, group.first_frame, first, other)
    return [writer.rationale_row(asked, [(item.videos[candidate], text, verdict)], weight)]


def _ask(rng: np.random.Generator, item: Shown, reference: int | None) -> Asked:
    instruction = VIDEO_INSTRUCTIONS[int(rng.choice(len(VIDEO_INSTRUCTIONS), p=LIKELIHOODS))]
    return Asked(
        instruction,
        item.group.spec,
        item.first_frame if needs_first_frame(instruction) else None,
        None if reference is None else item.videos[reference],
    )


@dataclass(frozen=True)
class VideoLesson:
    """What a step teaches.

    Attributes:
        pixels: uint8 [pictures, 64, 64, 3], pictures and frames of videos.
        targets: what is to be seen in them.
        trails: where what is seen in frames came from.
        told: what is to be said of videos.
        still: what is to be said of pictures.
    """

    pixels: Tensor
    targets: Targets
    trails: Trails
    told: tuple[Packed, ...]
    still: tuple[Packed, ...]


class VideoLessons:
    """The lessons of a recipe, see :data:`~diffusers_ext.nano.course.Lessons`."""

    def __init__(self, recipe: VideoRecipe, writer: VideoWriter) -> None:
        self.recipe = recipe
        self.writer = writer

    def __call__(self, step: int) -> VideoLesson:
        # A generator of its own for each step makes a resumed run see the same data as one that was never stopped.
        rng = np.random.default_rng((self.recipe.seed, step))
        pictures = [still.sample_group(rng) for _ in range(self.recipe.picture_groups)]
        drawn = [sample_group(rng) for _ in range(self.recipe.groups)]
        frames, shown = lay_out(drawn, self.recipe.shown, sum(len(group.pictures) for group in pictures))
        groups = [*pictures, *frames]
        about_videos = speaking_video_rows(self.writer, rng, shown, 2, 4, self.recipe)
        about_pictures = speaking_rows(self.writer.words, rng, pictures, 2, 2, PICTURES)
        if step >= self.recipe.speaking_steps:
            about_videos = judgement_video_rows(self.writer, rng, shown, self.recipe) + speaking_video_rows(
                self.writer, rng, shown, 1, 2, self.recipe
            )
            about_pictures += judgement_rows(self.writer.words, rng, pictures, PICTURES)
        videos = [video for item in shown for video in zip(item.videos, item.group.videos, strict=True)]
        trails = trails_of(videos, sum(len(group.pictures) for group in groups))
        told, still_told = (self.writer.words.pack(rows, self.recipe.parts) for rows in (about_videos, about_pictures))
        return VideoLesson(pixels_of(groups), targets_of(groups), trails, told, still_told)


class VideoLearner(SeeingLearner):
    """All that learns: the model, and the read-outs of its pictures and of what lies between them."""

    def __init__(self, model: InternVLForConditionalGeneration, writer: VideoWriter, recipe: VideoRecipe) -> None:
        super().__init__(model)
        self.follower = Follower(model.config.text_config.hidden_size)
        self.words = writer.words
        self.recipe = recipe

    def forward(self, lesson: VideoLesson) -> tuple[Tensor, dict[str, Tensor]]:
        """The cost of a lesson, and how well it went."""
        features, cost, seen = self.look(scaled(lesson.pixels), lesson.targets)
        with watching(self.model, self.recipe.following_depth) as states:
            told, right = loss(self.model, lesson.told, features)
        followed, motion = self.follower(
            list(zip(lesson.told, states, strict=True)), self.words.frame[1], lesson.trails
        )
        cost = self.recipe.detection_weight * cost + told + self.recipe.following_weight * followed
        if lesson.still:
            still_told, _ = loss(self.model, lesson.still, features)
            cost = cost + self.recipe.picture_weight * still_told
        return cost, {
            "videos": told.detach(),
            "places": seen["found"],
            **motion,
            **accuracies(right, lesson.told, self.words, self.recipe.statement_weight),
        }


def train_video_reward(out: Path, recipe: VideoRecipe = VideoRecipe()) -> InternVLForConditionalGeneration:
    """Train (or go on training: the state is kept in `out/training.pt`) and save to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    tokenizer = AutoTokenizer.from_pretrained(recipe.start_from)
    model = InternVLForConditionalGeneration.from_pretrained(recipe.start_from, dtype=torch.float32)
    teach_words(model, tokenizer)
    save_processor(out, tokenizer)
    writer = VideoWriter(tokenizer, recipe.shown)
    learner = VideoLearner(model, writer, recipe)
    train(recipe, learner, VideoLessons(recipe, writer), out, "video judge", (0, recipe.speaking_steps))
    return learner.model
