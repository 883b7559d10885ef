"""Nano Checkpoint: the small generator that comes with the package, for the stock nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from comfy import model_management
from comfy.sd import CLIP, VAE, load_diffusion_model_state_dict
from comfy.sd1_clip import ClipTokenWeightEncoder, SDTokenizer
from comfy.supported_models_base import ClipTarget
from comfy.utils import load_torch_file
from comfy_api.latest import io
from torch import Tensor
from torch.nn import functional as F

from diffusers_ext.nano import DEFAULT_PIPELINE

from .ports import CATEGORY

_LENGTH: Final = 14
_WEIGHTS: Final = "diffusion_pytorch_model.safetensors"


class NanoCheckpoint(io.ComfyNode):
    """A Stable Diffusion 3 of a few million weights that paints 64x64 pictures of coloured shapes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RewardDanceNanoCheckpoint",
            display_name="Nano Checkpoint",
            category=CATEGORY,
            description="The small generator that comes with the pack: it paints one to four coloured shapes, such as "
            "'a photo of a red star and a blue circle', and errs often. Use EmptySD3LatentImage with 64x64, and "
            "KSampler with euler, normal, 20 steps and cfg 1.",
            inputs=[],
            outputs=[
                io.Model.Output("model", display_name="MODEL", tooltip="For KSampler."),
                io.Clip.Output("clip", display_name="CLIP", tooltip="For CLIP Text Encode."),
                io.Vae.Output("vae", display_name="VAE", tooltip="For VAE Decode."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        folder = DEFAULT_PIPELINE
        model = load_diffusion_model_state_dict(load_torch_file(str(folder / "transformer" / _WEIGHTS)))
        clip = CLIP(ClipTarget(_Tokenizer, _TextEncoders))
        return io.NodeOutput(model, clip, VAE(sd=taesd_layout(load_torch_file(str(folder / "vae" / _WEIGHTS)))))


class _Tokenizer(SDTokenizer):
    def __init__(self, embedding_directory: str | None = None, tokenizer_data: dict[str, Any] | None = None) -> None:
        super().__init__(str(DEFAULT_PIPELINE / "tokenizer"), max_length=_LENGTH)


class _TextEncoder(torch.nn.Module, ClipTokenWeightEncoder):
    """A CLIP text encoder of any size, which ComfyUI's own cannot be; words may have weights as anywhere in it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import CLIPTextModelWithProjection

        self.model = CLIPTextModelWithProjection.from_pretrained(folder)
        config = self.model.config
        self.special_tokens = {"start": config.bos_token_id, "end": config.eos_token_id, "pad": config.pad_token_id}

    def encode(self, tokens: list[list[int]]) -> tuple[Tensor, Tensor]:
        output = self.model(torch.tensor(tokens, device=self.model.device), output_hidden_states=True)
        return output.hidden_states[-2], output.text_embeds


class _TextEncoders(torch.nn.Module):
    """Both side by side, as Stable Diffusion 3 has them, and one of the zeros that it has in place of a T5."""

    def __init__(self, device: Any = None, dtype: Any = None, model_options: dict[str, Any] | None = None) -> None:
        super().__init__()
        encoders = [_TextEncoder(DEFAULT_PIPELINE / name) for name in ("text_encoder", "text_encoder_2")]
        self.encoders: Any = torch.nn.ModuleList(encoders).to(device)
        self.dtypes = {torch.float32}

    def encode_token_weights(self, tokens: list[list[tuple[int, float]]]) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            found = [encoder.encode_token_weights(tokens) for encoder in self.encoders]
        sequences, pooled = zip(*found, strict=True)
        device = model_management.intermediate_device()
        return F.pad(torch.cat(sequences, -1), (0, 0, 0, 1)).to(device), torch.cat(pooled, -1).to(device)

    def set_clip_options(self, options: dict[str, Any]) -> None:
        """It reads one layer only, so there is nothing to set."""

    def reset_clip_options(self) -> None:
        """See above."""


def taesd_layout(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a diffusers `AutoencoderTiny` under the names of TAESD, whose decoder has one layer more in front."""
    named = {"vae_scale": torch.tensor(1.0), "vae_shift": torch.tensor(0.0)}  # our latents are not normalised inside
    for name, value in weights.items():
        half, _, number, rest = name.split(".", 3)
        named[f"taesd_{half}.{int(number) + (half == 'decoder')}.{rest}"] = value
    return named
