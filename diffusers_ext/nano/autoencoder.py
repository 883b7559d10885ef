"""Train the nano generator's autoencoder: 64x64 RGB <-> 16-channel 8x8 latents, in the layout of TAESD."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock
from torch.nn import functional as F

from ..progress import counted
from .render import CLEAN, render, sample_degradation
from .scenes import sample_scene
from .training import Schedule, mixed_precision

SCALING_FACTOR, SHIFT_FACTOR = 1.5305, 0.0609
"""SD3's latent normalisation. Training pulls every latent channel to the mean and deviation they undo."""
COLOUR_GAIN, COLOUR_MEAN = 4.0, 0.15


@dataclass(frozen=True)
class AutoencoderRecipe:
    steps: int = 2000
    batch_size: int = 8
    learning_rate: float = 1e-3
    latent_noise: float = 0.08
    """Standard deviation of noise added to the latents in training, in units of the normalised latents."""
    degraded: float = 0.1
    """Share of pictures with flaws, so that bad pictures can be encoded too."""
    seed: int = 0


def build_autoencoder() -> AutoencoderTiny:
    """An untrained TAESD-layout autoencoder with 16 latent channels, three of which carry the local mean colour.

    From random weights colours take thousands of steps to appear; begun like this they are there from the first, and
    training adds the detail.
    """
    model = AutoencoderTiny(latent_channels=16, scaling_factor=SCALING_FACTOR, shift_factor=SHIFT_FACTOR)
    _begin_as_mean_colour(model)
    return model


@torch.no_grad()
def _begin_as_mean_colour(model: AutoencoderTiny) -> None:
    """Have the first three channels of every layer hand colours on, smoothed, and every residual branch begin at zero.

    Colours lie in [0, 1] inside the model, so its ReLUs leave them as they are.
    """
    tap = torch.tensor([0.25, 0.5, 0.25])
    smooth, centre = torch.outer(tap, tap), torch.outer(torch.eye(3)[1], torch.eye(3)[1])
    for block in (item for item in model.modules() if isinstance(item, AutoencoderTinyBlock)):
        block.conv[-1].weight.zero_()
        block.conv[-1].bias.zero_()
    for half in (model.encoder, model.decoder):
        layers = [layer for layer in half.layers if isinstance(layer, torch.nn.Conv2d)]
        for layer in layers:
            inside = layer not in (layers[0], layers[-1])
            for channel in range(3):
                layer.weight[channel] = 0.0
                layer.weight[channel, channel] = smooth if inside else centre
                if layer.bias is not None:
                    layer.bias[channel] = 0.0
    # A picture's mean colours spread little about the dark background: stretch them to the latents' mean and deviation.
    out, back = model.encoder.layers[-1], model.decoder.layers[0]
    for channel in range(3):
        out.weight[channel] *= COLOUR_GAIN
        out.bias[channel] = -COLOUR_GAIN * COLOUR_MEAN
        back.weight[channel] /= COLOUR_GAIN
        back.bias[channel] = COLOUR_MEAN


def pictures(rng: np.random.Generator, count: int, degraded: float = 0.0) -> torch.Tensor:
    """Random training pictures, float32 [count, 3, 64, 64] in [-1, 1]; a share of them with flaws."""
    arrays = [
        render(sample_scene(rng), sample_degradation(rng) if rng.random() < degraded else CLEAN, rng)
        for _ in range(count)
    ]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def train_autoencoder(out: Path, recipe: AutoencoderRecipe = AutoencoderRecipe()) -> AutoencoderTiny:
    """Train from scratch and save to `out`, in `save_pretrained` form.

    The loss is the mean absolute error plus twice the mean squared error of the pixels, plus a small pull of each
    channel's mean and deviation to those that the latent normalisation undoes.
    """
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    model = build_autoencoder().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = Schedule(recipe.steps, warmup=100)
    with counted("autoencoder", recipe.steps, 0, True) as progress:
        for step in range(recipe.steps):
            schedule.apply(optimizer, step)
            images = pictures(rng, recipe.batch_size, recipe.degraded).to(memory_format=torch.channels_last)
            with mixed_precision():
                latents = model.encoder(images).float()
                noisy = latents + recipe.latent_noise / SCALING_FACTOR * torch.randn_like(latents)
                decoded = model.decoder(noisy).float()
            mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
            pull = (mean - SHIFT_FACTOR).square().mean() + (deviation - 1 / SCALING_FACTOR).square().mean()
            loss = F.l1_loss(decoded, images) + 2 * F.mse_loss(decoded, images) + 0.05 * pull
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            progress.advance(loss=loss.detach(), pull=pull.detach(), psnr=_psnr(decoded, images))
            if step % 250 == 249 or step == recipe.steps - 1:
                model.save_pretrained(out)
    return model


def _psnr(decoded: torch.Tensor, images: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [-1, 1]."""
    return float(10 * torch.log10(4.0 / F.mse_loss(decoded.detach().clamp(-1, 1), images)))
