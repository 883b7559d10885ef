"""Open a diffusers pipeline, a folder or one on the hub, and say in plain words what is wrong with what is none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .rewards.errors import ModelError
from .sources import check_source

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
    source = str(path_or_id)
    check_source(source, "pipeline", "model_index.json")
    from diffusers import DiffusionPipeline
    from safetensors import SafetensorError

    try:
        return DiffusionPipeline.from_pretrained(source, use_safetensors=True, **options)
    except (OSError, ValueError, KeyError, AttributeError, ImportError, TypeError, SafetensorError) as error:
        raise ModelError(f"{source}: could not be loaded as a diffusers pipeline ({error})") from error
