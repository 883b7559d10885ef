"""Shipped checkpoints: half-precision weights, and nothing that only training needs."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import load_file, save_file

from ..rewards.model import SCALAR_HEAD


def export_reward_model(trained: Path, out: Path) -> None:
    """Copy a trained reward model with its weights in float16."""
    out.mkdir(parents=True, exist_ok=True)
    for source in trained.iterdir():
        if source.suffix in {".json", ".jinja"} or source.name == SCALAR_HEAD:
            shutil.copyfile(source, out / source.name)
    weights = load_file(trained / "model.safetensors")
    half = {name: value.half().contiguous() for name, value in weights.items()}
    save_file(half, out / "model.safetensors", metadata={"format": "pt"})


def export_generator(trained: Path, out: Path) -> None:
    """Copy a trained generator; the transformer and the autoencoder in float16, the small text encoders as they are.

    A pipeline loads its diffusers parts in float32 whatever they are stored in, but its transformers parts in the
    precision they are stored in, so these stay in float32.
    """
    pipeline = StableDiffusion3Pipeline.from_pretrained(trained).to(torch.float32)
    pipeline.transformer.half()
    pipeline.vae.half()
    pipeline.save_pretrained(out)
