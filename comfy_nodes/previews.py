"""Pictures for the browser, in ComfyUI's folder for what may be thrown away."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import folder_paths

if TYPE_CHECKING:
    from PIL import Image

_SUBFOLDER: Final = "rewarddance"


def previews(images: Sequence[Image.Image]) -> list[dict[str, str]]:
    """Save pictures, and say where, as the frontend expects of a node's own preview."""
    folder = Path(folder_paths.get_temp_directory()) / _SUBFOLDER
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{uuid4().hex}.png" for _ in images]
    for image, name in zip(images, names, strict=True):
        image.save(folder / name, compress_level=1)
    return [{"filename": name, "subfolder": _SUBFOLDER, "type": "temp"} for name in names]
