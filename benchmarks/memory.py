"""How much memory a judge takes, computed from its dimensions: for models larger than the machine.

    python -m benchmarks.memory

Ranks 16 candidates of 448x448 against a reference in one batch. Weights are counted one by one on torch's meta device;
keys, values and activations follow from the dimensions and the tokens that the engine reads at a time.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from benchmarks.vlms import SIZES, Size, build
from diffusers_ext.rewards.quantization import modules_to_keep

NF4: Final = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes per weight: four bits, an 8-bit scale to 64 weights, a 32-bit scale to 256 of those."""
TEXT: Final = 100
"""Tokens of a question beside its pictures, about half of them before the candidate."""


@dataclass(frozen=True)
class Memory:
    """Bytes by what they are for."""

    weights: float
    cache: float
    activations: float

    @property
    def total(self) -> float:
        return self.weights + self.cache + self.activations


def memory(size: Size, quantize_vision: bool, candidates: int = 16) -> Memory:
    """The peak for an anchored ranking, in bfloat16 beside NF4."""
    with tempfile.TemporaryDirectory() as folder, torch.device("meta"):
        model = build("internvl-llama", size, Path(folder))
    kept = modules_to_keep(model.config, quantize_vision)
    quantized = {
        f"{name}.weight": module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and not any(name == stem or name.startswith(f"{stem}.") for stem in kept)
    }
    whole = sum(parameter.numel() for parameter in model.parameters()) - sum(quantized.values())
    width, depth, heads, inner = size.text
    picture = (size.picture // size.patch // 2) ** 2
    before, own = TEXT // 2 + picture, picture + TEXT // 2
    numbers = 2 * depth * size.key_value_heads * width // heads
    # The shared beginning once, and for every candidate a copy of it beside its own.
    cache = 2 * numbers * (before + candidates * (before + own))
    # The widest layer's gate, up and product, its input and output, and its weight dequantized.
    reading = 2 * (candidates * own * (3 * inner + 4 * width) + inner * width)
    seen_width, _, _, seen_inner = size.vision
    looking = 2 * (candidates + 1) * (4 * picture + 1) * (2 * seen_inner + 4 * seen_width)
    return Memory(2 * whole + NF4 * sum(quantized.values()), cache, max(reading, looking))


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("| model, NF4 | vision tower | weights | keys and values | activations | in all |")
    print("|---|---|---:|---:|---:|---:|")
    for name in ("2b", "8b", "26b"):
        for quantize_vision in (False, True):
            found = memory(SIZES[name], quantize_vision)
            parts = (found.weights, found.cache, found.activations, found.total)
            cells = " | ".join(f"{part / 2**30:.1f} GiB" for part in parts)
            print(f"| {name.upper()} | {'NF4' if quantize_vision else 'bfloat16'} | {cells} |")


if __name__ == "__main__":
    main()
