"""Generator, policy and judges at work on batches of prompts: latents to pictures to rewards."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from ..precision import autocast
from .config import LoraTraining
from .diffusion import Denoiser, Schedule, denoise, guided, noise_for
from .errors import LoraTrainingError
from .generators import Condition, Generator
from .jitter import jittered
from .policy import Policy
from .prompts import Prompt, first_frames, texts
from .references import ReferenceStore
from .rewards import Judge
from .sharing import dealt

REFERENCE_SEED = 11


@dataclass
class Studio:
    """What a run works with.

    Attributes:
        config: the run.
        accelerator: where it runs.
        generator, policy: who paints.
        judges: who judge.
        conditions: of all prompts' texts, [T, ...] each, on the CPU.
        beginnings: of all first frames, [P, ...] each, on the CPU; empty where there are none.
        places: where in the conditions a text's are, and in the beginnings a file's.
        schedule: the way by which pictures are made that are learned from.
    """

    config: LoraTraining
    accelerator: Accelerator
    generator: Generator
    policy: Policy
    judges: tuple[Judge, ...]
    conditions: Condition
    beginnings: Condition
    places: dict[str | Path, int]
    schedule: Schedule
    stores: dict[int, ReferenceStore] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for number, judge in enumerate(self.judges):
            if judge.compares:
                if self.generator.calling.moving:
                    raise LoraTrainingError("judges: references are pictures; judge videos with `reference: none`")
                kept, folder = self.config.references, Path(self.config.out) / "references" / str(number)
                base = judge.config.reference == "base"
                self.stores[number] = ReferenceStore(folder, base, kept.candidates, kept.refresh)

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    def autocast(self) -> torch.autocast:
        """Computation in the run's precision."""
        return autocast(self.device, self.config.precision)

    def condition(self, prompts: Sequence[Prompt]) -> Condition:
        """Conditions of prompts on the device, [B, ...] each."""
        rows = torch.tensor([self.places[prompt.text] for prompt in prompts])
        found = {name: value[rows].to(self.device) for name, value in self.conditions.items()}
        if self.beginnings:
            rows = torch.tensor([self.places[prompt.first_frame] for prompt in prompts if prompt.first_frame])
            found |= {name: value[rows].to(self.device) for name, value in self.beginnings.items()}
        return found

    def denoiser(self, prompts: Sequence[Prompt]) -> Denoiser:
        """The policy under these prompts."""
        return self.policy.denoiser(self.condition(prompts))

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures in [0, 1], differentiable in the latents."""
        with self.autocast():
            return self.generator.decode(latents).float()

    @torch.no_grad()
    def decode_all(self, latents: Tensor) -> Tensor:
        """Pictures of any number of latents, on the CPU."""
        return torch.cat([self.decode(part).cpu() for part in latents.split(self.config.decode_batch_size)])

    def rewards(self, images: Tensor, prompts: Sequence[Prompt], iteration: int) -> Tensor:
        """The judges' weighted sum for pictures, float32 [B] on the CPU; references of the prompts have been made.

        Raises:
            LoraTrainingError: one is no number; the message names the judge and the prompt.
        """
        said, begun, total = texts(prompts), first_frames(prompts), torch.zeros(len(images))
        for number, judge in enumerate(self.judges):
            found = judge.reward(images, said, self._references(number, said, iteration), begun)
            self._check(found, judge, prompts)
            total += judge.config.weight * found
        return total

    def gradient_rewards(
        self, latents: Tensor, prompts: Sequence[Prompt], seeds: Sequence[tuple[int, ...]], iteration: int
    ) -> Tensor:
        """The same for clean latents, with gradient, [B] on the device; `seeds` decide on the jitter."""
        images = self.decode(latents)
        if self.config.jitter is not None:
            images = jittered(images, self.config.jitter, seeds)
        said, begun, total = texts(prompts), first_frames(prompts), images.new_zeros(len(images))
        for number, judge in enumerate(self.judges):
            references = self._references(number, said, iteration)
            found = judge.gradient_reward(images, said, references, begun, self.config.checkpointing)
            self._check(found.detach(), judge, prompts)
            total = total + judge.config.weight * found.to(images.device)
        return total

    def make_references(self, prompts: Sequence[Prompt], iteration: int) -> None:
        """Make what judges compare with, where it is missing or stale; to be called by all processes, with the same."""
        for number, store in self.stores.items():
            # What lies in the folder is what the first process sees there.
            lacking: list[str] = broadcast_object_list([store.lacking(texts(prompts), iteration)])[0]
            mine = [lacking[turn[self.accelerator.process_index]] for turn in dealt(self.accelerator, len(lacking))]
            if mine:
                store.make(mine, iteration, self._paint_candidates, self.judges[number].reward)
            self.accelerator.wait_for_everyone()

    def _paint_candidates(self, prompts: list[str], iteration: int, base: bool) -> Tensor:
        # A prompt's candidates are the same whatever else is painted with them.
        candidates = self.config.references.candidates
        seeds = [
            (self.config.seed, REFERENCE_SEED, iteration, self.places[text], place % candidates)
            for place, text in enumerate(prompts)
        ]
        return self.paint([Prompt(text) for text in prompts], seeds, base)

    @torch.no_grad()
    def paint_together(
        self, prompts: Sequence[Prompt], seeds: Sequence[tuple[int, ...]], steps: int, guidance: float
    ) -> Tensor:
        """What `paint` paints, its batches shared among the processes; all have to call this, and get all of it."""
        size, accelerator = self.config.decode_batch_size, self.accelerator
        batches = [slice(start, start + size) for start in range(0, len(prompts), size)]
        lengths = [len(prompts[batch]) for batch in batches]
        found: dict[int, Tensor] = {}
        for turn in dealt(accelerator, len(batches)):
            mine = batches[turn[accelerator.process_index]]
            painted = self.paint(prompts[mine], seeds[mine], steps=steps, guidance=guidance).to(self.device)
            everyone = accelerator.gather(accelerator.pad_across_processes(painted)).cpu().chunk(len(turn))
            found |= {place: images[: lengths[place]] for place, images in zip(turn, everyone, strict=True)}
        return torch.cat([found[place] for place in range(len(batches))])

    @torch.no_grad()
    def paint(
        self,
        prompts: Sequence[Prompt],
        seeds: Sequence[tuple[int, ...]],
        base: bool = False,
        steps: int = 0,
        guidance: float = 1.0,
    ) -> Tensor:
        """Pictures [B, 3, H, W] in [0, 1] on the CPU, by the policy or the base, in `steps` or as in training."""
        schedule = self.generator.schedule(steps).to(self.device) if steps else self.schedule
        parts = []
        for start in range(0, len(prompts), self.config.decode_batch_size):
            end = start + self.config.decode_batch_size
            noise = noise_for(self.generator.shape, seeds[start:end], self.device)
            denoiser = self.denoiser(prompts[start:end])
            if guidance != 1:
                unprompted = self.denoiser([prompt.unsaid for prompt in prompts[start:end]])
                denoiser = guided(denoiser, unprompted, guidance)
            with self.policy.acting_as({}) if base else nullcontext():
                latents = denoise(denoiser, noise, schedule)
            parts.append(self.decode(latents).cpu())
        return torch.cat(parts)

    def _references(self, number: int, said: Sequence[str], iteration: int) -> Any:
        return self.stores[number].get(said, iteration) if number in self.stores else None

    def _check(self, found: Tensor, judge: Judge, prompts: Sequence[Prompt]) -> None:
        if not torch.isfinite(found).all():
            wrong = int((~torch.isfinite(found)).nonzero()[0])
            raise LoraTrainingError(
                f"the judge {judge.model.name!r} gave {float(found[wrong])} for a picture of {prompts[wrong].text!r}. "
                "The state saved last is untouched; lower learning_rate, or use float32, and give the same command "
                "again"
            )
