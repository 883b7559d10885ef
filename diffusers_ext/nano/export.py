"""Shipped checkpoints: half-precision weights, and nothing that only training needs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import load_file, save_file

from ..rewards.errors import ModelError
from ..rewards.model import SCALAR_HEAD
from .reward_model import ARCHITECTURES


def export_reward_model(trained: Path, out: Path) -> None:
    """Copy a trained reward model with its weights in float16."""
    out.mkdir(parents=True, exist_ok=True)
    for source in trained.iterdir():
        if source.suffix in {".json", ".jinja"} or source.name == SCALAR_HEAD:
            shutil.copyfile(source, out / source.name)
    weights = load_file(trained / "model.safetensors")
    half = {name: value.half().contiguous() for name, value in weights.items()}
    save_file(half, out / "model.safetensors", metadata={"format": "pt"})


def architecture_of(trained: Path) -> str:
    """The name of a trained reward model's architecture, which its widths tell.

    Raises:
        ModelError: it is of none in :data:`~diffusers_ext.nano.reward_model.ARCHITECTURES`.
    """
    config = json.loads((trained / "config.json").read_text(encoding="utf-8"))
    widths = config["vision_config"]["hidden_size"], config["text_config"]["hidden_size"]
    for name, item in ARCHITECTURES.items():
        if widths == (item.vision_width, item.text_width):
            return name
    raise ModelError(f"{trained}: of none of the sizes {', '.join(ARCHITECTURES)}")


def average(trained: Sequence[Path], out: Path) -> None:
    """Write the mean of the weights of some judges of one origin, with everything else as the first one has it.

    What two fine-tunings learned apart is often found together half-way between them (Wortsman et al. 2022, WiSE-FT,
    arXiv 2109.01903).

    Raises:
        ModelError: they are not of one shape.
    """
    states = [load_file(folder / "model.safetensors") for folder in trained]
    shapes = [{name: value.shape for name, value in state.items()} for state in states]
    for folder, other in zip(trained, shapes, strict=True):
        if other != shapes[0]:
            raise ModelError(f"{folder}: not of the same shape as {trained[0]}, so their weights have no mean")
    out.mkdir(parents=True, exist_ok=True)
    for source in trained[0].iterdir():
        if source.suffix in {".json", ".jinja"}:
            shutil.copyfile(source, out / source.name)
    mean = {name: torch.stack([state[name].float() for state in states]).mean(0) for name in states[0]}
    save_file(mean, out / "model.safetensors", metadata={"format": "pt"})


def export_generator(trained: Path, out: Path) -> None:
    """Copy a trained generator; the transformer and the autoencoder in float16, the small text encoders as they are.

    A pipeline loads its diffusers parts in float32 whatever they are stored in, but its transformers parts in the
    precision they are stored in, so these stay in float32.
    """
    pipeline = StableDiffusion3Pipeline.from_pretrained(trained).to(torch.float32)
    pipeline.transformer.half()
    pipeline.vae.half()
    pipeline.save_pretrained(out)
    for path in out.rglob("*.json"):  # where the parts lay on the machine that trained them is left out
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
