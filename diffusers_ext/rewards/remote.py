"""A judge on another machine, asked over HTTP: `rewarddance serve` at the other end."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from .arguments import check_batch_size, check_count, one_each, prompts_for
from .connection import TOO_LARGE, Connection, Refused, RemoteError, gather, is_finite
from .errors import ImageError, InstructionError, ModelError, PromptTextError, RewardDanceError
from .images import as_images, as_png, load_image
from .instructions import DEFAULT_INSTRUCTION, DEFAULT_VIDEO_INSTRUCTION, Example, Instruction
from .judgement import Judgement, sigmoid
from .videos import VideoError, as_clips

if TYPE_CHECKING:
    from types import TracebackType

    from PIL import Image

    from .images import ImageInput
    from .videos import Clip, VideoInput

_TOLERANCE: Final = 1e-3
_KINDS: Final[dict[str, type[RewardDanceError]]] = {
    kind.__name__: kind for kind in (ImageError, InstructionError, ModelError, PromptTextError, VideoError)
}


def encoded(image: Image.Image) -> str:
    """A picture as base64 of a PNG: what comes out is what went in, to the pixel."""
    return base64.b64encode(as_png(image, compress_level=1)).decode()


def instruction_record(by: Instruction) -> dict[str, Any]:
    """An instruction as JSON values, its pictures within."""
    examples = [_example_record(example) for example in by.examples]
    return {"name": by.name, "text": by.text, "criteria": list(by.criteria), "task": by.task, "examples": examples}


def _example_record(example: Example) -> dict[str, Any]:
    return {
        "prompt": example.prompt,
        "candidate": encoded(load_image(example.candidate)),
        "verdict": example.verdict,
        "reference": None if example.reference is None else encoded(load_image(example.reference)),
    }


class RemoteRewardModel:
    """A :class:`~diffusers_ext.RewardModel` behind `rewarddance serve`.

    It gives the same rewards, takes the same arguments and raises the same errors. Requests are named, so that one
    that is sent twice because its answer was lost is judged and counted once.

    Example:
        >>> judge = RemoteRewardModel("http://localhost:8000")
        >>> rank(["a.png", "b.png"], "a photo of a red star", judge, method="knockout")
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        timeout: float = 60.0,
        retries: int = 4,
        batch_size: int = 8,
        concurrency: int = 4,
    ) -> None:
        """Name a server; nothing is sent before the first question.

        Args:
            url: where it is, ``http://host:port``.
            api_key: its key, if it wants one.
            timeout: seconds for one attempt at a request.
            retries: how often a request is tried again after connection errors, time-outs and the statuses 429 and 5xx.
            batch_size: pictures (or pairs) per request. Where the server finds that too much, they are sent in halves.
            concurrency: requests under way at a time, to keep all replicas busy.

        Raises:
            ModelError: not a URL, or settings that make no sense.
        """
        if batch_size < 1 or concurrency < 1:
            raise ModelError(f"batch_size and concurrency must be at least 1, not {batch_size} and {concurrency}")
        self._connection = Connection(url, api_key, timeout, retries)
        self._batch_size, self._concurrency = batch_size, concurrency

    @cached_property
    def name(self) -> str:
        """What the model at the other end is called.

        Raises:
            RemoteError: the server cannot be reached.
        """
        return self._about["model"]

    @cached_property
    def _about(self) -> dict[str, Any]:
        found = self._connection.get("/health")
        wanted = {"model": str, "video_frames": int}
        if not isinstance(found, dict) or not all(isinstance(found.get(key), kind) for key, kind in wanted.items()):
            raise RemoteError(f"{self._connection.url}: says nothing of its model; is it a `rewarddance serve`?")
        return found

    def close(self) -> None:
        """Let go of the sockets."""
        self._connection.close()

    def __enter__(self) -> RemoteRewardModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def score(
        self,
        images: ImageInput | Sequence[ImageInput],
        prompt: str | Sequence[str],
        instruction: str | Instruction = DEFAULT_INSTRUCTION,
        explain: bool = False,
        batch_size: int | None = None,
        progress: bool = False,
        cancel: Callable[[], bool] | None = None,
    ) -> list[Judgement]:
        """Judge each picture on its own; see :meth:`RewardModel.score`.

        Args:
            images: one or several: PIL images, paths, or float tensors [3, H, W] / [B, 3, H, W] in [0, 1].
            prompt: what they were to show; one for all, or one each.
            instruction: a name that the server knows, or a record.
            explain: have the model write a chain of thought before its verdict.
            batch_size: pictures per request.
            progress: show progress on stderr.
            cancel: asked while answers are awaited; once it returns true, :class:`Cancelled` is raised.

        Raises:
            ImageError, PromptTextError, InstructionError: as in process.
            RemoteError: the server cannot be reached, refuses, or answers what cannot be.
        """
        candidates = as_images(images)
        asked = prompts_for(prompt, len(candidates))
        common = {"instruction": _named(instruction), "explain": explain}

        def body(part: range) -> dict[str, Any]:
            shown = [encoded(candidates[index]) for index in part]
            return {"images": shown, "prompt": [asked[index] for index in part], **common}

        expected = _expected(len(candidates), None, explain, False)
        return self._judge("/score", body, expected, batch_size, progress, cancel)

    def compare(
        self,
        candidates: ImageInput | Sequence[ImageInput],
        reference: ImageInput | Sequence[ImageInput],
        prompt: str | Sequence[str],
        instruction: str | Instruction = DEFAULT_INSTRUCTION,
        debias: bool = True,
        explain: bool = False,
        batch_size: int | None = None,
        progress: bool = False,
        cancel: Callable[[], bool] | None = None,
    ) -> list[Judgement]:
        """Judge each candidate against a reference; see :meth:`RewardModel.compare`.

        Args:
            candidates: one or several, as in :meth:`score`.
            reference: one for all, or one each.
            prompt: what they were to show; one for all, or one each.
            instruction: a name that the server knows, or a record.
            debias: ask both orders and average the log-odds, so that the rewards of (a, b) and (b, a) add up to one.
            explain: have the model write a chain of thought before its verdict.
            batch_size: pairs per request.
            progress: show progress on stderr.
            cancel: asked while answers are awaited; once it returns true, :class:`Cancelled` is raised.

        Raises:
            ImageError, PromptTextError, InstructionError: as in process.
            RemoteError: the server cannot be reached, refuses, or answers what cannot be.
        """
        judged, against = as_images(candidates), as_images(reference)
        check_count(len(against), len(judged))
        asked = prompts_for(prompt, len(judged))
        common = {"instruction": _named(instruction), "explain": explain, "debias": debias}

        def body(part: range) -> dict[str, Any]:
            shown = {
                "candidates": [encoded(judged[index]) for index in part],
                "reference": [encoded(against[index]) for index in part] if len(against) > 1 else encoded(against[0]),
            }
            return {**shown, "prompt": [asked[index] for index in part], **common}

        expected = _expected(len(judged), len(against), explain, debias)
        return self._judge("/compare", body, expected, batch_size, progress, cancel)

    def score_video(
        self,
        videos: VideoInput | Sequence[VideoInput],
        prompt: str | Sequence[str],
        instruction: str | Instruction = DEFAULT_VIDEO_INSTRUCTION,
        first_frame: ImageInput | Sequence[ImageInput] | None = None,
        frames: int | None = None,
        rate: float | None = None,
        explain: bool = False,
        batch_size: int | None = None,
        progress: bool = False,
        cancel: Callable[[], bool] | None = None,
    ) -> list[Judgement]:
        """Judge each video on its own; see :meth:`RewardModel.score_video`. Only the frames to be shown are sent."""
        clips = self._sampled(videos, frames, rate)
        asked, firsts = prompts_for(prompt, len(clips)), _firsts(first_frame, len(clips))
        common = {"instruction": _named(instruction), "explain": explain}

        def body(part: range) -> dict[str, Any]:
            shown = [_film(clips[index]) for index in part]
            return {"videos": shown, "prompt": [asked[index] for index in part], **_given(firsts, part), **common}

        expected = _expected(len(clips), None, explain, False)
        return self._judge("/score-video", body, expected, batch_size, progress, cancel)

    def compare_videos(
        self,
        candidates: VideoInput | Sequence[VideoInput],
        reference: VideoInput | Sequence[VideoInput],
        prompt: str | Sequence[str],
        instruction: str | Instruction = DEFAULT_VIDEO_INSTRUCTION,
        first_frame: ImageInput | Sequence[ImageInput] | None = None,
        frames: int | None = None,
        rate: float | None = None,
        debias: bool = True,
        explain: bool = False,
        batch_size: int | None = None,
        progress: bool = False,
        cancel: Callable[[], bool] | None = None,
    ) -> list[Judgement]:
        """Judge each video against a reference; see :meth:`RewardModel.compare_videos`."""
        judged, against = (self._sampled(clips, frames, rate) for clips in (candidates, reference))
        check_count(len(against), len(judged))
        asked, firsts = prompts_for(prompt, len(judged)), _firsts(first_frame, len(judged))
        common = {"instruction": _named(instruction), "explain": explain, "debias": debias}

        def body(part: range) -> dict[str, Any]:
            chosen = part if len(against) > 1 else range(1)
            shown = {
                "candidates": [_film(judged[index]) for index in part],
                "reference": [_film(against[index]) for index in chosen],
            }
            return {**shown, "prompt": [asked[index] for index in part], **_given(firsts, part), **common}

        expected = _expected(len(judged), len(against), explain, debias)
        return self._judge("/compare-videos", body, expected, batch_size, progress, cancel)

    def _sampled(self, videos: VideoInput | Sequence[VideoInput], frames: int | None, rate: float | None) -> list[Clip]:
        wanted = self._about["video_frames"] if frames is None else frames
        return [clip.sampled(wanted, rate) for clip in as_clips(videos)]

    def _judge(
        self,
        path: str,
        body: Callable[[range], dict[str, Any]],
        expected: Sequence[Judgement],
        batch_size: int | None,
        progress: bool,
        cancel: Callable[[], bool] | None,
    ) -> list[Judgement]:
        check_batch_size(batch_size)
        size, count = batch_size or self._batch_size, len(expected)

        def ask(part: range, stop: threading.Event) -> list[Judgement]:
            try:
                answer = self._connection.post(path, body(part), stop)
            except Refused as error:
                if error.status == TOO_LARGE and len(part) > 1:
                    half = len(part) // 2
                    return ask(part[:half], stop) + ask(part[half:], stop)
                if error.kind in _KINDS:
                    place = f"candidate {part[0]}" if len(part) == 1 else f"candidates {part[0]} to {part[-1]}"
                    raise _KINDS[error.kind](f"{place}: {error.reason}") from error
                raise
            return _checked(self._connection.url + path, answer, expected[part.start : part.stop])

        parts = [range(start, min(start + size, count)) for start in range(0, count, size)]
        return gather(ask, parts, self._concurrency, progress, cancel)


def _expected(count: int, references: int | None, explain: bool, debias: bool) -> list[Judgement]:
    """What the answer must look like, but for its verdicts; `references` is how many there are, None for none."""
    places = [None if references is None else index if references > 1 else 0 for index in range(count)]
    thought = "" if explain else None
    return [Judgement(0.0, "", (), index, place, thought, debias) for index, place in enumerate(places)]


def _film(clip: Clip) -> dict[str, Any]:
    return {"frames": [encoded(frame) for frame in clip.frames], "rate": clip.rate}


def _firsts(images: ImageInput | Sequence[ImageInput] | None, count: int) -> list[Image.Image] | None:
    return None if images is None else one_each(as_images(images), count, "first frames")


def _given(firsts: Sequence[Image.Image] | None, part: range) -> dict[str, Any]:
    return {} if firsts is None else {"first_frame": [encoded(firsts[index]) for index in part]}


def _named(instruction: str | Instruction) -> str | dict[str, Any]:
    return instruction if isinstance(instruction, str) else instruction_record(instruction)


def _checked(url: str, answer: Any, expected: Sequence[Judgement]) -> list[Judgement]:
    """Judgements out of an answer, once it is certain that they are those asked for."""
    items = answer.get("judgements") if isinstance(answer, dict) else None
    if not isinstance(items, list) or len(items) != len(expected):
        found = f"{len(items)} judgements" if isinstance(items, list) else "no judgements"
        raise RemoteError(f"{url}: answered with {found} where {len(expected)} were asked for")
    return [_judgement(url, item, own, index) for index, (item, own) in enumerate(zip(items, expected, strict=True))]


def _judgement(url: str, item: Any, expected: Judgement, index: int) -> Judgement:
    def check(right: bool, what: str) -> None:
        if not right:
            raise RemoteError(f"{url}: judgement {index} of the answer cannot be right: {what}")

    check(isinstance(item, dict), f"it is no object but {str(item)[:80]}")
    value, reward = item.get("log_odds"), item.get("reward")
    check(is_finite(value), f"its log-odds are {value!r}")
    near = is_finite(reward) and abs(reward - sigmoid(value)) <= _TOLERANCE
    check(near, f"its reward is {reward!r}, and log-odds of {value!r} do not give that")
    check(item.get("candidate") == index, f"it is of candidate {item.get('candidate')!r}")
    criteria, explanation, debiased = item.get("criteria"), item.get("explanation"), item.get("debiased")
    named = isinstance(item.get("instruction"), str) and isinstance(criteria, list)
    check(named and all(isinstance(name, str) for name in criteria), "it does not say what it was judged by")
    explained = isinstance(explanation, str) if expected.explanation is not None else explanation is None
    check(explained, f"its explanation is {str(explanation)[:80]!r}")
    check(debiased is expected.debiased, f"whether it is debiased is {debiased!r}")
    check((item.get("reference") is None) is (expected.reference is None), "it is of the other kind of question")
    return Judgement(
        float(value),
        item["instruction"],
        tuple(criteria),
        expected.candidate,
        expected.reference,
        explanation,
        expected.debiased,
    )
