"""A judge that shows how far it is, and stops when it is told to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Final

from diffusers_ext.rewards.judgement import Judgement

PART: Final = 16
"""Questions between two moves of the progress bar."""
PART_EXPLAINED: Final = 1
"""The same where each question takes a chain of thought."""


@dataclass(frozen=True)
class Watched:
    """Asks a judge a few questions at a time.

    Attributes:
        judge: a :class:`~diffusers_ext.RewardModel`, or anything with the same face.
        show: told after each part how many of how many questions are answered.
        cancel: handed on to the judge, which asks it between batches; it may raise.
    """

    judge: Any
    show: Callable[[int, int], None]
    cancel: Callable[[], bool]

    def score(self, images: Sequence[Any], prompt: str, **options: Any) -> list[Judgement]:
        """As :meth:`RewardModel.score`."""
        judgements: list[Judgement] = []
        for part in self._parts(len(images), options):
            found = self.judge.score(images[part], prompt, cancel=self.cancel, **options)
            judgements += [replace(item, candidate=item.candidate + part.start) for item in found]
        return judgements

    def compare(self, candidates: Sequence[Any], reference: Any, prompt: str, **options: Any) -> list[Judgement]:
        """As :meth:`RewardModel.compare`; `reference` is one picture, or a list with one for each candidate."""
        judgements: list[Judgement] = []
        each = isinstance(reference, list)
        for part in self._parts(len(candidates), options):
            against = reference[part] if each else reference
            found = self.judge.compare(candidates[part], against, prompt, cancel=self.cancel, **options)
            judgements += [
                replace(
                    item,
                    candidate=item.candidate + part.start,
                    reference=item.candidate + part.start if each else item.reference,
                )
                for item in found
            ]
        return judgements

    def score_video(self, video: Any, prompt: str, **options: Any) -> Judgement:
        """As :meth:`RewardModel.score_video`, for one video."""
        [judgement] = self.judge.score_video(video, prompt, cancel=self.cancel, **options)
        return judgement

    def remembering(self) -> AbstractContextManager[None]:
        """As :meth:`RewardModel.remembering`; judges that cannot remember do without."""
        remembering = getattr(self.judge, "remembering", None)
        return nullcontext() if remembering is None else remembering()

    def _parts(self, count: int, options: dict[str, Any]) -> Iterator[slice]:
        size = PART_EXPLAINED if options.get("explain") else PART
        for start in range(0, count, size):
            self.cancel()
            yield slice(start, min(start + size, count))
            self.show(min(start + size, count), count)
