"""Blind pairs for the arena: two makers, one prompt, in random order."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Final

from diffusers_ext.data.votes import Ballot, Vote
from diffusers_ext.ranking import best_of_n

from .models import LORA_GUIDANCE
from .pictures import png

if TYPE_CHECKING:
    from PIL import Image

    from diffusers_ext.ranking import Judge

    from .models import Models
    from .runs import Runs

_LORAS: Final = 3
"""How many LoRAs take part."""
Paint = Callable[[str, int], "Image.Image"]
"""Makes a picture of a prompt from a seed."""


@dataclass(frozen=True)
class Pair:
    """Two pictures as they are shown.

    Attributes:
        key: of the vote on this showing of them.
        prompt: what both were made for.
        left, right: the pictures.
        maker_of_left, maker_of_right: who made them, which the voter learns afterwards.
        judge: who judged them as well.
        judged: the probability that the left one is better, by that judge.
        instruction: what it judged by.
    """

    key: str
    prompt: str
    left: Image.Image
    right: Image.Image
    maker_of_left: str
    maker_of_right: str
    judge: str
    judged: float
    instruction: str

    def again(self) -> Pair:
        """The same pair, to be voted on anew."""
        return replace(self, key=secrets.token_hex(16))

    def vote(self, choice: Ballot) -> Vote:
        """A vote on it; a is the left one."""
        left, right = (png(image, {"prompt": self.prompt}) for image in (self.left, self.right))
        return Vote(
            self.key,
            self.prompt,
            left,
            right,
            choice,
            self.instruction,
            self.maker_of_left,
            self.maker_of_right,
            self.judge,
            self.judged,
        )


def makers(models: Models, runs: Runs, judge: Judge, instruction: str) -> dict[str, Paint]:
    """Who takes part: every pipeline as it is, with half its steps, as the best of four by the judge, and with LoRAs.

    LoRAs are those of the latest runs that have ended, and paint without guidance, as they were trained.
    """
    found: dict[str, Paint] = {}
    for name in models.pipelines:
        painting = partial(models.painting, name)
        usual = models.options(None, None)
        half = max(2, usual.get("num_inference_steps", 28) // 2)
        hasty = models.options(half, None)
        found[name] = partial(_painted, painting, judge, 1, instruction, usual)
        found[f"{name}, {half} steps"] = partial(_painted, painting, judge, 1, instruction, hasty)
        found[f"{name}, best of 4"] = partial(_painted, painting, judge, 4, instruction, usual)
        base = models.pipeline_source(name)
        for lora in [item for item in runs.loras(base) if not runs.get(item).going_on][:_LORAS]:
            wearing = partial(models.painting, name, runs.lora(lora, base))
            found[f"{name}, LoRA {lora}"] = partial(
                _painted, wearing, judge, 1, instruction, models.options(None, LORA_GUIDANCE)
            )
    return found


def _painted(
    painting: Callable[[], AbstractContextManager[Any]],
    judge: Judge,
    n: int,
    instruction: str,
    options: Mapping[str, Any],
    prompt: str,
    seed: int,
) -> Image.Image:
    with painting() as pipeline:
        return best_of_n(pipeline, prompt, n, judge, instruction=instruction, seed=seed, **options).best


def draw(
    competitors: Mapping[str, Paint], prompts: Sequence[str], judge: Judge, name: str, instruction: str, rng: Random
) -> Pair:
    """A pair of two different makers, drawn at random in everything: makers, prompt, seeds and sides."""
    prompt = rng.choice(list(prompts))
    left, right = rng.sample(sorted(competitors), 2)
    first = competitors[left](prompt, rng.randrange(2**31))
    second = competitors[right](prompt, rng.randrange(2**31))
    while second.tobytes() == first.tobytes():  # there would be nothing to choose
        second = competitors[right](prompt, rng.randrange(2**31))
    judged = judge.compare(first, second, prompt, instruction=instruction)[0].reward
    return Pair(secrets.token_hex(16), prompt, first, second, left, right, name, judged, instruction)
