"""Judges that are an adapter over another model's weights, as QLoRA leaves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from .bradley_terry import BradleyTerryModel
from .config import RewardConfig
from .errors import ModelError
from .model import ADAPTER, SCALAR_HEAD, RewardModel


def with_adapter(folder: Path, kind: type[RewardModel], *loading: Any) -> RewardModel:
    """Load the model that an adapter's folder names, and the adapter over it.

    Args:
        folder: holds `adapter_config.json`, the adapter's weights as safetensors, and `reward_config.json`.
        kind: what to load the model as.
        loading: the further arguments of :meth:`RewardModel.from_pretrained`.

    Raises:
        ModelError: peft is not installed, the adapter is damaged, or the model it names is not there.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ModelError(f"{folder}: is an adapter, which needs peft: pip install 'rewarddance[train]'") from error
    try:
        base = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder / ADAPTER}: does not say which model the adapter belongs to ({error})") from error
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(f"{folder}: holds no adapter_model.safetensors; other formats can run code and are refused")
    judge = kind.from_pretrained(base, *loading)
    try:
        PeftModel.from_pretrained(judge.model, folder)  # puts its layers into the model itself
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ModelError(f"{folder}: its adapter does not fit {base} ({error})") from error
    judge.model.eval().requires_grad_(False)
    found = kind(judge.model, judge.processor, folder.name, RewardConfig.load(folder))
    return BradleyTerryModel.with_head_of(folder, found) if (folder / SCALAR_HEAD).is_file() else found
