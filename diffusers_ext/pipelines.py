"""Open a diffusers pipeline, a folder or one on the hub, and say in plain words what is wrong with what is none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .rewards.errors import ModelError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def open_pipeline(path_or_id: str | Path, **options: Any) -> DiffusionPipeline:
    """A pipeline of any family on the CPU, or where `options` say; only safetensors weights are read.

    Args:
        path_or_id: a folder that one was saved to, or the id of one on the hub (``owner/name``), which is fetched.
        options: further arguments of `DiffusionPipeline.from_pretrained`.

    Raises:
        ModelError: there is no such pipeline, or it cannot be loaded.
    """
    from .rewards.model import HUB_ID

    source, folder = str(path_or_id), Path(path_or_id)
    if not folder.exists() and not HUB_ID.fullmatch(source):
        raise ModelError(
            f"{source}: there is no such folder, and it is not the id of a pipeline on the hub (owner/name)"
        )
    if folder.exists() and not (folder / "model_index.json").is_file():
        raise ModelError(f"{source}: holds no model_index.json, so it is not a diffusers pipeline's folder")
    from diffusers import DiffusionPipeline
    from safetensors import SafetensorError

    try:
        return DiffusionPipeline.from_pretrained(source, use_safetensors=True, **options)
    except (OSError, ValueError, KeyError, AttributeError, ImportError, TypeError, SafetensorError) as error:
        raise ModelError(f"{source}: could not be loaded as a diffusers pipeline ({error})") from error
