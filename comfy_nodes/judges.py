"""A judge in ComfyUI's hands: counted, moved and freed like any of its models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from comfy import model_management
from comfy.model_patcher import ModelPatcher
from comfy.utils import ProgressBar

from .watching import Watched

if TYPE_CHECKING:
    from diffusers_ext import RewardModel
    from diffusers_ext.rewards.quantization import Quantization
    from diffusers_ext.rewards.remote import RemoteRewardModel


class _Whole(ModelPatcher):
    """Goes from device to device as a whole: layers of transformers cannot be computed on one and lie on another."""

    def partially_unload(self, device_to: Any, memory_to_free: int = 0) -> int:
        return 0  # so that ComfyUI unloads all of it

    # Nodes run in inference mode, and weights that are moved in it can pass no gradient on any more.
    def load(self, *arguments: Any, **options: Any) -> Any:
        with torch.inference_mode(False):
            return super().load(*arguments, **options)

    def unpatch_model(self, *arguments: Any, **options: Any) -> None:
        with torch.inference_mode(False):
            super().unpatch_model(*arguments, **options)


class RewardModelWeights(torch.nn.Module):
    """The weights as ComfyUI sees them: it notes their device here, where a transformers model would not have it.

    Its logs name this class.
    """

    def __init__(self, model: torch.nn.Module, device: torch.device) -> None:
        super().__init__()
        self.model = model
        self.device = device


@dataclass(frozen=True)
class Held:
    """A judge, and what is to be known of it.

    Attributes:
        judge: what is asked.
        patcher: the handle by which ComfyUI moves it; None for a judge on a server.
        source: the folder, hub id or address it came from.
        quantization: what its weights are held in.
    """

    judge: RewardModel | RemoteRewardModel
    patcher: ModelPatcher | None
    source: str
    quantization: Quantization | None = None

    def ready(self) -> Watched:
        """The judge on its device, showing its progress on the node that runs and stopping when the user does."""
        if self.patcher is not None:
            model_management.load_models_gpu([self.patcher], force_full_load=True)
        bar = ProgressBar(1)
        return Watched(self.judge, bar.update_absolute, _stopped)


def _stopped() -> bool:
    model_management.throw_exception_if_processing_interrupted()
    return False


def hold(source: str | Path, quantization: Quantization | None, device: torch.device) -> Held:
    """Load a judge into main memory, ready to be moved to its device when it is asked.

    A quantized one is made on its device, which its weights are packed for; room is made there first.

    Raises:
        ModelError: see :meth:`RewardModel.from_pretrained`.
    """
    from diffusers_ext import RewardModel

    offload = model_management.unet_offload_device() if device.type != "cpu" else device
    if device == offload:
        place, dtype = device, None
    elif quantization is None and not _is_quantized(source):
        place, dtype = offload, torch.bfloat16  # the precision of the device where it will run
    else:
        model_management.free_memory(_bytes_on_disk(Path(source)), device)
        place, dtype = device, None
    with torch.inference_mode(False):
        judge = RewardModel.from_pretrained(source, quantization, place, dtype)
    weights = RewardModelWeights(judge.model, place)
    return Held(judge, _Whole(weights, load_device=device, offload_device=offload), str(source), quantization)


def _is_quantized(source: str | Path) -> bool:
    from transformers import AutoConfig

    try:
        return getattr(AutoConfig.from_pretrained(source), "quantization_config", None) is not None
    except (OSError, ValueError, KeyError):
        return False  # it cannot be loaded at all, and loading it says why


def _bytes_on_disk(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
