"""The denoiser with its LoRA: what learns, and the same network as it was before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .diffusion import Denoiser, Level, Prediction
from .errors import LoraTrainingError
from .generators import Condition, Generator

ADAPTER = "default"


class Policy:
    """A generator's denoiser, whose LoRA learns.

    Attributes:
        generator: what it belongs to.
        network: what is called; the denoiser itself, or what an engine wraps it in.
        half: whether it computes in bfloat16.
        learned: the LoRA's parameters by name, float32.
    """

    def __init__(self, generator: Generator, half: bool = False) -> None:
        self.generator = generator
        self.half = half
        self.network: Any = generator.denoiser
        self.learned: dict[str, nn.Parameter] = {
            name: item for name, item in generator.denoiser.named_parameters() if item.requires_grad
        }

    def denoiser(self, condition: Condition) -> Denoiser:
        """The policy under B prompts."""

        def predict(latents: Tensor, level: Level) -> Prediction:
            # Autocast's cache goes by parameter and not by value: within an outer context, one policy after another in
            # the same parameters would compute with the weights of the first.
            with torch.autocast(latents.device.type, torch.bfloat16, enabled=self.half, cache_enabled=False):
                output = self.generator.output(self.network, latents, level.timestep, condition)
            return level.split(self.generator.predicts, latents, output)

        return predict

    def weights(self) -> dict[str, Tensor]:
        """A copy of what has been learned."""
        return {name: item.detach().clone() for name, item in self.learned.items()}

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        for name, value in weights.items():
            self.learned[name].copy_(value)

    @contextmanager
    def acting_as(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Be another policy for a while, without gradient: one with these weights. None at all: the base."""
        own = {name: item.data for name, item in self.learned.items()}
        try:
            for name, item in self.learned.items():
                # Without its second factor a LoRA adds nothing.
                item.data = weights[name] if weights else torch.zeros_like(item.data)
            yield
        finally:
            for name, item in self.learned.items():
                item.data = own[name]


def add_lora(generator: Generator, rank: int, alpha: int, targets: tuple[str, ...] | None, seed: int) -> Any:
    """Freeze a generator, and give its denoiser a LoRA.

    Args:
        generator: what is to learn.
        rank, alpha: of the LoRA; what it adds is scaled by alpha / rank.
        targets: the linear layers that get one, by how their names end (``attn.to_q``); None for all in attention.
        seed: of the LoRA's first factor; the second begins as zero.

    Returns:
        peft's LoraConfig.

    Raises:
        LoraTrainingError: the targets match nothing; the message lists what there is.
    """
    from peft import LoraConfig

    denoiser = generator.denoiser
    for part in generator.pipeline.components.values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False).eval()
    linear = [name for name, item in denoiser.named_modules() if isinstance(item, nn.Linear)]
    wanted = [name for name in linear if _matches(name, targets)]
    unmatched = [end for end in targets or () if not any(_matches(name, (end,)) for name in linear)]
    if unmatched or not wanted:
        kinds = sorted({_kind(name) for name in linear})
        raise LoraTrainingError(
            f"targets: {', '.join(unmatched or targets or ())} match no linear layer of the denoiser. Names of layers "
            f"end in {', '.join(kinds)}"
        )
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=wanted, init_lora_weights="gaussian")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser.add_adapter(config, adapter_name=ADAPTER)
    for item in denoiser.parameters():
        if item.requires_grad:
            item.data = item.data.float()
    return config


def _matches(name: str, targets: tuple[str, ...] | None) -> bool:
    if targets is None:
        return "attn" in name and "norm" not in name
    return any(name == end or name.endswith(f".{end}") for end in targets)


def _kind(name: str) -> str:
    """A layer's name without the numbers of blocks and what is before them: ``blocks.3.attn.to_q`` is attn.to_q."""
    parts = name.split(".")
    numbers = [index for index, part in enumerate(parts) if part.isdigit() and index + 1 < len(parts)]
    return ".".join(parts[numbers[0] + 1 :] if numbers else parts)
