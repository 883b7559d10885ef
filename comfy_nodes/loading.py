"""Load Reward Model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import folder_paths
import torch
from comfy import model_management
from comfy_api.latest import io

from diffusers_ext.rewards.addresses import connected, is_address
from diffusers_ext.rewards.errors import ModelError
from diffusers_ext.rewards.quantization import SCHEMES

from . import folders
from .judges import Held, hold
from .ports import CATEGORY, RewardModelPort

if TYPE_CHECKING:
    from diffusers_ext.rewards.quantization import Quantization

_NO_SCHEME: Final = "none"
_AUTO: Final = "auto"

folder_paths.add_model_folder_path(folders.FOLDER, str(Path(folder_paths.models_dir) / folders.FOLDER))


def _roots() -> list[Path]:
    return [Path(path) for path in folder_paths.get_folder_paths(folders.FOLDER)]


def _devices() -> list[str]:
    return [_AUTO, "cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]


class LoadRewardModel(io.ComfyNode):
    """A judge, loaded when it is first needed, and kept until ComfyUI needs the memory."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        known = list(folders.reward_models(_roots()))
        return io.Schema(
            node_id="RewardDanceLoadRewardModel",
            display_name="Load Reward Model",
            category=CATEGORY,
            description="Loads a judge: a vision-language model that is asked a yes/no question about pictures.",
            inputs=[
                io.Combo.Input(
                    "model",
                    options=known,
                    default=known[0],
                    tooltip="A folder below models/reward_models, or one that comes with the pack. The shipped ones "
                    "know coloured shapes only.",
                ),
                io.Combo.Input(
                    "quantization",
                    options=[_NO_SCHEME, *SCHEMES],
                    default=_NO_SCHEME,
                    tooltip="Keep the weights in fewer bits. Needs bitsandbytes (nf4, int8) or torchao.",
                ),
                io.Combo.Input(
                    "device", options=_devices(), default=_AUTO, tooltip="Where it runs; auto is ComfyUI's own device."
                ),
                io.String.Input(
                    "id_or_url",
                    default="",
                    optional=True,
                    tooltip="In place of the model above: the id of one on the hub (owner/name), which is fetched, or "
                    "the address of a judge that is served elsewhere (http://host:port). Its key, if it wants one, is "
                    "read from the environment variable REWARDDANCE_API_KEY and never written into a workflow.",
                ),
            ],
            outputs=[RewardModelPort.Output("reward_model", display_name="reward_model", tooltip="The judge.")],
        )

    @classmethod
    def validate_inputs(cls, model: str) -> bool | str:
        try:
            folders.reward_model_folder(model, _roots())
        except ModelError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, model: str, id_or_url: str = "", **others: str) -> float:
        if id_or_url.strip():
            return 0.0
        folder = folders.reward_model_folder(model, _roots())
        return max(file.stat().st_mtime for file in folder.iterdir())

    @classmethod
    def execute(cls, model: str, quantization: str, device: str, id_or_url: str = "") -> io.NodeOutput:
        elsewhere = id_or_url.strip()
        if is_address(elsewhere):
            return io.NodeOutput(Held(connected(elsewhere), None, elsewhere))
        place = model_management.get_torch_device() if device == _AUTO else torch.device(device)
        scheme = None if quantization == _NO_SCHEME else cast("Quantization", quantization)
        source = elsewhere or folders.reward_model_folder(model, _roots())
        return io.NodeOutput(hold(source, scheme, place))
