"""Videos and labels to rows of tokens, exactly as the chat template and the processor would lay them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from transformers import PreTrainedTokenizerFast

from ...rewards import prompts
from ...rewards.instructions import PRESETS
from ..packing import Branch, Item, Picture, Row
from ..train_reward import Writer
from .questions import SHOWN, request
from .scenes import VideoSpec

DESCRIBE: Final = "Describe the video."
CHECK: Final = "Judge the video."

Frames = tuple[int, ...]
"""The pictures that a video is shown as, by their indices in the batch."""
Pieces = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Asked:
    """What a question about some candidates of a group has in common.

    Attributes:
        instruction: what to judge by.
        spec: the prompt.
        first_frame: the given first frame, by its index in the batch, where the instruction needs one.
        reference: the video to compare with, if any.
    """

    instruction: str
    spec: VideoSpec
    first_frame: int | None = None
    reference: Frames | None = None

    @property
    def pictures(self) -> Frames:
        """All pictures that come before the candidate."""
        first = () if self.first_frame is None else (self.first_frame,)
        return first + (self.reference or ())


class VideoWriter:
    """Writes rows about videos; `words` writes those about pictures, and has the tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, shown: int = SHOWN) -> None:
        self.words = Writer(tokenizer)
        self.shown = shown
        self._question = lru_cache(maxsize=20000)(self._asked)

    def _asked(self, instruction: str, prompt: str, pairwise: bool, explain: bool, first_frame: bool) -> Pieces:
        video = prompts.numbered_frames(self.shown)
        messages = prompts.question(
            PRESETS[instruction],
            prompt,
            pairwise=pairwise,
            explain=explain,
            candidate=video,
            reference=video,
            first_frame=first_frame,
        )
        return self.words.around_pictures(messages)

    def caption_row(self, captions: Sequence[tuple[Frames, str]], weight: float) -> Row:
        """Several videos, each with its caption."""
        pieces = self.words.around_pictures(request(DESCRIBE, self.shown))
        end = self.words.tokenizer.eos_token_id
        branches: list[Branch] = []
        for frames, text in captions:
            answer = (*self.words.encode(text), end)
            branches.append(Branch(_after(pieces, frames), answer, (weight,) * len(answer)))
        return Row(pieces[0], tuple(branches))

    def statement_row(self, checked: Sequence[tuple[Frames, list[tuple[str, bool]]]], weight: float) -> Row:
        """Several videos, each with statements and whether they are true; only the latter is taught."""
        pieces = self.words.around_pictures(request(CHECK, self.shown))
        branches: list[Branch] = []
        for frames, found in checked:
            tokens: list[int] = []
            weights: list[float] = []
            for number, (text, true) in enumerate(found):
                words = self.words.encode(f"{',' * (number > 0)} {text}:")
                tokens += [*words, self.words.spaced[0] if true else self.words.spaced[1]]
                weights += [0.0] * len(words) + [weight]
            branches.append(Branch(_after(pieces, frames), tuple(tokens), tuple(weights)))
        return Row(pieces[0], tuple(branches))

    def judgement_row(self, asked: Asked, verdicts: Sequence[tuple[Frames, bool]]) -> Row:
        """One question about several candidates, answered at once."""
        prefix, rest = self._split(asked, explain=False)
        answers = {True: self.words.yes, False: self.words.no}
        branches = (Branch(_after(rest, frames), (answers[better],), (1.0,)) for frames, better in verdicts)
        return Row(prefix, tuple(branches))

    def rationale_row(self, asked: Asked, reasons: Sequence[tuple[Frames, str, bool]], weight: float) -> Row:
        """One question about several candidates, each answered by a rationale and then the verdict."""
        prefix, rest = self._split(asked, explain=True)
        branches: list[Branch] = []
        for frames, text, better in reasons:
            thought = self.words.encode(f"{text} {prompts.VERDICT}")
            verdict = self.words.spaced[0] if better else self.words.spaced[1]
            answer = (*thought, verdict, self.words.tokenizer.eos_token_id)
            weights = (weight,) * len(thought) + (1.0, weight)
            branches.append(Branch(_after(rest, frames), answer, weights))
        return Row(prefix, tuple(branches))

    def _split(self, asked: Asked, explain: bool) -> tuple[tuple[Item, ...], Pieces]:
        """What comes before the candidate, and the pieces from there on."""
        pieces = self._question(
            asked.instruction,
            asked.spec.text,
            asked.reference is not None,
            explain,
            asked.first_frame is not None,
        )
        before = len(asked.pictures)
        return (*pieces[0], *_after(pieces[: before + 1], asked.pictures)), pieces[before:]


def _after(pieces: Pieces, pictures: Frames) -> tuple[Item, ...]:
    """Pictures, each with the piece after it; the piece before them all is left out."""
    items: list[Item] = []
    for index, piece in zip(pictures, pieces[1:], strict=True):
        items += [Picture(index), *piece]
    return tuple(items)
