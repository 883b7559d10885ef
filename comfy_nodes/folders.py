"""Where reward models and configurations of training lie in ComfyUI's folders."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from diffusers_ext.configuring import Wrong
from diffusers_ext.nano import (
    DEFAULT_REWARD_MODEL,
    DEFAULT_VIDEO_REWARD_MODEL,
    REWARD_MODELS,
    SMALLER_REWARD_MODELS,
)
from diffusers_ext.rewards.errors import ModelError
from diffusers_ext.training import LoraTrainingError
from diffusers_ext.training.config import SHIPPED as SHIPPED_CONFIGS

FOLDER: Final = "reward_models"
TRAINING: Final = "reward_training"
SHIPPED: Final[Mapping[str, Path]] = MappingProxyType(
    {
        "nano (shipped)": DEFAULT_REWARD_MODEL,
        "nano for videos (shipped)": DEFAULT_VIDEO_REWARD_MODEL,
        **{f"{name.replace('reward', 'nano')} (shipped)": REWARD_MODELS[name] for name in SMALLER_REWARD_MODELS},
    }
)


def reward_models(roots: Sequence[Path]) -> dict[str, Path]:
    """The shipped models, then every folder with a `config.json` below the roots, by its path from there."""
    found = dict(SHIPPED)
    for root in roots:
        for folder, _, files in sorted(os.walk(root, followlinks=True)):  # models are often links to another disk
            if "config.json" in files:
                found.setdefault(Path(folder).relative_to(root).as_posix(), Path(folder))
    return found


def reward_model_folder(name: str, roots: Sequence[Path]) -> Path:
    """The folder of a model.

    Raises:
        ModelError: it is not there; the message says what is, and where it was looked for.
    """
    return _known("reward model", name, reward_models(roots), roots, ModelError)


def training_configs(roots: Sequence[Path]) -> dict[str, Path]:
    """The shipped configurations, those of the nano world first, then every YAML file below the roots, by its path."""
    found = {path.stem: path for path in sorted(SHIPPED_CONFIGS.glob("*.yaml"), key=_nano_first)}
    for root in roots:
        for path in sorted(root.rglob("*.yaml")):
            found.setdefault(path.relative_to(root).as_posix(), path)
    return found


def _nano_first(path: Path) -> tuple[bool, bool, str]:
    # The one that wants least of the judge is the first of all: it is what a new node shows.
    return not path.stem.startswith("nano"), path.stem != "nano-nft", path.stem


def training_config(name: str, roots: Sequence[Path]) -> Path:
    """The file of a configuration.

    Raises:
        LoraTrainingError: it is not there; the message says what is, and where it was looked for.
    """
    return _known("configuration", name, training_configs(roots), roots, LoraTrainingError)


def _known(kind: str, name: str, known: Mapping[str, Path], roots: Sequence[Path], wrong: Wrong) -> Path:
    if name not in known:
        places = " and ".join(str(root) for root in roots)
        raise wrong(f"no {kind} {name!r} in {places}; there are {', '.join(map(repr, known))}")
    return known[name]
