"""A LoRA on disk, as diffusers and as ComfyUI load it, with what made it in the header."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from .errors import LoraTrainingError

DIFFUSERS_FILE: Final = "pytorch_lora_weights.safetensors"
COMFYUI_FILE: Final = "comfyui_lora.safetensors"

_WAN: Final = (
    (re.compile(r"\.attn1\.to_out\.0$"), ".self_attn.o"),
    (re.compile(r"\.attn2\.to_out\.0$"), ".cross_attn.o"),
    (re.compile(r"\.attn2\.add_([kv])_proj$"), r".cross_attn.\1_img"),
    (re.compile(r"\.attn1\.to_([qkv])$"), r".self_attn.\1"),
    (re.compile(r"\.attn2\.to_([qkv])$"), r".cross_attn.\1"),
    (re.compile(r"\.ffn\.net\.0\.proj$"), ".ffn.0"),
    (re.compile(r"\.ffn\.net\.2$"), ".ffn.2"),
)
"""Wan's layers as its authors, and ComfyUI, name them."""


def save_lora(out: Path, denoiser: Any, part: str, family: str, lora: Any, told: Mapping[str, Any]) -> None:
    """Write both files, each beside the one before and then in its place.

    Args:
        out: folder.
        denoiser: the network with the LoRA.
        part: what the pipeline calls it: ``transformer`` or ``unet``.
        family: name of the pipeline's class.
        lora: peft's LoraConfig.
        told: what made it, for the header; plain values.

    Raises:
        LoraTrainingError: it could not be written; what was there before still is.
    """
    from peft.utils import get_peft_model_state_dict

    weights = {name: value.detach().cpu().contiguous() for name, value in get_peft_model_state_dict(denoiser).items()}
    described = lora.to_dict()
    described = {name: sorted(value) if isinstance(value, set) else value for name, value in described.items()}
    adapter = {f"{part}.{name}": value for name, value in described.items()}
    header = {
        "format": "pt",
        "lora_adapter_metadata": json.dumps(adapter, indent=2, sort_keys=True, default=str),
        "rewarddance": json.dumps(told, sort_keys=True),
    }
    _write(out / DIFFUSERS_FILE, {f"{part}.{name}": value for name, value in weights.items()}, header)
    for_comfyui = comfyui_form(weights, part, family, float(lora.lora_alpha))
    _write(out / COMFYUI_FILE, for_comfyui, {"format": "pt", "rewarddance": header["rewarddance"]})


def comfyui_form(weights: Mapping[str, Tensor], part: str, family: str, alpha: float) -> dict[str, Tensor]:
    """The same LoRA by the names that ComfyUI's stock loader knows, with alpha beside every layer.

    A UNet's layers go by the names of kohya's scripts, Wan's by its authors', those of other transformers by diffusers'
    (``transformer.``). (`comfy/lora.py`, `model_lora_keys_unet`.)

    Args:
        weights: by names as peft gives them, ``<layer>.lora_A.weight`` [rank, in] and ``<layer>.lora_B.weight``.
        part, family, alpha: see :func:`save_lora`.
    """
    found: dict[str, Tensor] = {}
    for layer in sorted({name.rsplit(".lora_", 1)[0] for name in weights}):
        down, up = weights[f"{layer}.lora_A.weight"], weights[f"{layer}.lora_B.weight"]
        if part == "unet":
            key, names = "lora_unet_" + layer.replace(".", "_"), ("lora_down", "lora_up")
        elif family.startswith("Wan"):
            key, names = "diffusion_model." + _renamed(layer), ("lora_down", "lora_up")
        else:
            key, names = f"transformer.{layer}", ("lora_A", "lora_B")
        found[f"{key}.{names[0]}.weight"] = down
        found[f"{key}.{names[1]}.weight"] = up
        found[f"{key}.alpha"] = torch.tensor(alpha)
    return found


def _renamed(layer: str) -> str:
    for pattern, name in _WAN:
        layer = pattern.sub(name, layer)
    return layer


def _write(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    from safetensors.torch import save

    partial = path.with_suffix(".partial")
    try:
        # Not `save_file`, whose files nobody else may read: ComfyUI may run as another user.
        partial.write_bytes(save(tensors, metadata=header))
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise LoraTrainingError(f"{path}: could not be written ({error}); the run's state is kept") from error
