"""What clients send: JSON, checked and within limits, made into questions."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, StrictBool, StrictStr, ValidationError

from ..rewards.arguments import check_count, one_each, prompts_for
from ..rewards.errors import ImageError, RewardDanceError
from ..rewards.instructions import DEFAULT_INSTRUCTION, DEFAULT_VIDEO_INSTRUCTION, Instruction, get_instruction
from ..rewards.videos import RATE, VideoError
from .questions import Asked, Film, Recipe, Shown, Way, opened


class BodyError(RewardDanceError):
    """A request that is not what the endpoint takes."""


class TooLarge(RewardDanceError):
    """A request beyond the limits."""


@dataclass(frozen=True)
class Limits:
    """How much one request may ask.

    Attributes:
        body_bytes: of JSON.
        pictures: all of them together, those of examples too.
        pixels: width times height of one picture.
    """

    body_bytes: int = 128 * 2**20
    pictures: int = 256
    pixels: int = 32 * 2**20


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ExampleBody(_Body):
    prompt: StrictStr
    candidate: StrictStr
    verdict: StrictBool
    reference: StrictStr | None = None


class InstructionBody(_Body):
    name: StrictStr
    text: StrictStr
    criteria: list[StrictStr] | None = None
    task: StrictStr = "t2i"
    examples: list[ExampleBody] = []


class ScoreBody(_Body):
    """Body of POST /score; pictures are base64 of PNG or JPEG files."""

    images: StrictStr | list[StrictStr]
    prompt: StrictStr | list[StrictStr]
    instruction: StrictStr | InstructionBody = DEFAULT_INSTRUCTION
    explain: StrictBool = False


class CompareBody(_Body):
    """Body of POST /compare."""

    candidates: StrictStr | list[StrictStr]
    reference: StrictStr | list[StrictStr]
    prompt: StrictStr | list[StrictStr]
    instruction: StrictStr | InstructionBody = DEFAULT_INSTRUCTION
    debias: StrictBool = True
    explain: StrictBool = False


class FilmBody(_Body):
    """A video: the frames that are to be shown, in order, and how many of them a second."""

    frames: list[StrictStr]
    rate: float = RATE


class ScoreVideoBody(_Body):
    """Body of POST /score-video."""

    videos: list[FilmBody]
    prompt: StrictStr | list[StrictStr]
    instruction: StrictStr | InstructionBody = DEFAULT_VIDEO_INSTRUCTION
    first_frame: StrictStr | list[StrictStr] | None = None
    explain: StrictBool = False


class CompareVideosBody(_Body):
    """Body of POST /compare-videos."""

    candidates: list[FilmBody]
    reference: list[FilmBody]
    prompt: StrictStr | list[StrictStr]
    instruction: StrictStr | InstructionBody = DEFAULT_VIDEO_INSTRUCTION
    first_frame: StrictStr | list[StrictStr] | None = None
    debias: StrictBool = True
    explain: StrictBool = False


B = TypeVar("B", ScoreBody, CompareBody, ScoreVideoBody, CompareVideosBody)


def score_questions(content: bytes, limits: Limits, own: Mapping[str, Recipe]) -> list[Asked]:
    """The questions in a body of POST /score.

    Raises:
        BodyError, ImageError, PromptTextError, InstructionError: what is wrong with it.
        TooLarge: it goes beyond the limits.
    """
    body = _parsed(ScoreBody, content)
    candidates = _listed(body.images)
    _check_count(len(candidates) + _shown(body.instruction), limits)
    way = Way(_recipe(body.instruction, limits, own), pairwise=False, explain=body.explain)
    pictures = _pictures(candidates, "images", limits)
    return [
        Asked(way, text, picture)
        for text, picture in zip(prompts_for(body.prompt, len(pictures)), pictures, strict=True)
    ]


def compare_questions(content: bytes, limits: Limits, own: Mapping[str, Recipe]) -> list[Asked]:
    """The questions in a body of POST /compare; raises what :func:`score_questions` does."""
    body = _parsed(CompareBody, content)
    candidates, references = _listed(body.candidates), _listed(body.reference)
    _check_count(len(candidates) + len(references) + _shown(body.instruction), limits)
    way = Way(_recipe(body.instruction, limits, own), pairwise=True, explain=body.explain, debias=body.debias)
    judged = _pictures(candidates, "candidates", limits)
    against = _pictures(references, "reference", limits)
    check_count(len(against), len(judged))
    asked = prompts_for(body.prompt, len(judged))
    numbers = list(range(len(judged))) if len(against) > 1 else [0] * len(judged)
    return [
        Asked(way, text, picture, against[number], number)
        for text, picture, number in zip(asked, judged, numbers, strict=True)
    ]


def score_video_questions(content: bytes, limits: Limits, own: Mapping[str, Recipe]) -> list[Asked]:
    """The questions in a body of POST /score-video; raises what :func:`score_questions` does, and VideoError."""
    body = _parsed(ScoreVideoBody, content)
    firsts = [] if body.first_frame is None else _listed(body.first_frame)
    _check_count(_frames(body.videos) + len(firsts) + _shown(body.instruction), limits)
    recipe = _recipe(body.instruction, limits, own)
    way = Way(recipe, pairwise=False, explain=body.explain, moving=True, begun=bool(firsts))
    films = _films(body.videos, "videos", limits)
    asked, given = prompts_for(body.prompt, len(films)), _given(firsts, len(films), limits)
    return [Asked(way, text, film, first_frame=first) for text, film, first in zip(asked, films, given, strict=True)]


def compare_videos_questions(content: bytes, limits: Limits, own: Mapping[str, Recipe]) -> list[Asked]:
    """The questions in a body of POST /compare-videos; raises what :func:`score_video_questions` does."""
    body = _parsed(CompareVideosBody, content)
    firsts = [] if body.first_frame is None else _listed(body.first_frame)
    frames = _frames(body.candidates) + _frames(body.reference)
    _check_count(frames + len(firsts) + _shown(body.instruction), limits)
    recipe = _recipe(body.instruction, limits, own)
    way = Way(recipe, pairwise=True, explain=body.explain, debias=body.debias, moving=True, begun=bool(firsts))
    judged, against = _films(body.candidates, "candidates", limits), _films(body.reference, "reference", limits)
    check_count(len(against), len(judged))
    asked, given = prompts_for(body.prompt, len(judged)), _given(firsts, len(judged), limits)
    numbers = list(range(len(judged))) if len(against) > 1 else [0] * len(judged)
    return [
        Asked(way, text, film, against[number], number, first)
        for text, film, number, first in zip(asked, judged, numbers, given, strict=True)
    ]


def _frames(films: Sequence[FilmBody]) -> int:
    return sum(len(film.frames) for film in films)


def _films(items: Sequence[FilmBody], where: str, limits: Limits) -> list[Film]:
    if not items:
        raise VideoError(f"{where}: no videos were given; at least one is needed")
    films: list[Film] = []
    for index, item in enumerate(items):
        if not item.frames:
            raise VideoError(f"{where}[{index}]: the video has no frames")
        frames = (_picture(frame, f"{where}[{index}].frames[{n}]", limits) for n, frame in enumerate(item.frames))
        films.append(Film(tuple(frames), item.rate))
    return films


def _given(firsts: Sequence[str], count: int, limits: Limits) -> list[bytes | None]:
    """The picture that each video was to begin with."""
    if not firsts:
        return [None] * count
    pictures = [_picture(item, f"first_frame[{index}]", limits) for index, item in enumerate(firsts)]
    return list(one_each(pictures, count, "first frames"))


def _parsed(kind: type[B], content: bytes) -> B:
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        fields = ", ".join(kind.model_fields)
        raise BodyError(f"{place or 'the body'}: {first['msg']}; it takes an object with {fields}") from error


def _listed(item: str | list[str]) -> list[str]:
    return [item] if isinstance(item, str) else item


def _shown(instruction: str | InstructionBody) -> int:
    if isinstance(instruction, str):
        return 0
    return sum(1 + (item.reference is not None) for item in instruction.examples)


def _check_count(count: int, limits: Limits) -> None:
    if count > limits.pictures:
        raise TooLarge(f"{count} pictures in one request, where {limits.pictures} are allowed; send several requests")


def _pictures(items: Sequence[str], where: str, limits: Limits) -> list[bytes]:
    if not items:
        raise ImageError(f"{where}: no pictures were given; at least one is needed")
    return [_picture(item, f"{where}[{index}]", limits) for index, item in enumerate(items)]


def _picture(item: str, where: str, limits: Limits) -> bytes:
    try:
        content = base64.b64decode(item.partition("base64,")[2] if item.startswith("data:") else item, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"{where}: not base64 ({error})") from error
    try:
        width, height = opened(content).size
    except ImageError as error:
        raise ImageError(f"{where}: {error}") from error
    if width * height > limits.pixels:
        raise TooLarge(f"{where}: {width}x{height} pixels, where {limits.pixels:,} are allowed; scale it down first")
    return content


def _recipe(item: str | InstructionBody, limits: Limits, own: Mapping[str, Recipe]) -> Recipe:
    if isinstance(item, str):
        if item in own:
            return own[item]
        known: dict[str, Any] = {name: Instruction(name, recipe.text, recipe.criteria) for name, recipe in own.items()}
        return Recipe.of(get_instruction(item, known))
    criteria = tuple(item.criteria if item.criteria is not None else [item.name])
    by = Instruction(item.name, item.text, criteria, item.task)  # type: ignore[arg-type]  # checked by Instruction
    examples = tuple(
        Shown(
            example.prompt,
            _picture(example.candidate, f"instruction.examples[{index}].candidate", limits),
            example.verdict,
            None
            if example.reference is None
            else _picture(example.reference, f"instruction.examples[{index}].reference", limits),
        )
        for index, example in enumerate(item.examples)
    )
    return Recipe(by.name, by.text, by.criteria, by.task, examples)
