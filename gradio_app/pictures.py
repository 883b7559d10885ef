"""Pictures in and out of the page."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Final

import gradio as gr
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffusers_ext.rewards.errors import ImageError
from diffusers_ext.rewards.images import load_image

_SHOWN: Final = 512
"""Pixels along the longer side up to which a small picture is enlarged to be looked at."""


def upload(name: str, elem_id: str) -> gr.Image:
    """A place for a picture, which reaches the handlers as the path of the visitor's own file.

    Gradio would open and convert it first. Here it is opened by :func:`opened`, and so judged by its very pixels, or
    refused in clear words.
    """
    place = gr.Image(
        label=name,
        type="filepath",
        sources=["upload", "clipboard"],
        height=220,
        min_width=140,
        elem_id=elem_id,
        elem_classes="rd-pixels",
    )
    place.preprocess = lambda payload: None if payload is None else payload.path  # type: ignore[method-assign]
    return place


def opened(path: str | None, name: str) -> tuple[Image.Image, list[str]]:
    """An uploaded picture as 8-bit RGB, and what is to be said about it.

    Raises:
        ImageError: there is none, or it cannot be read.
    """
    if not path:
        raise ImageError(f"picture {name} is missing; upload or paste one")
    try:
        picture = load_image(path)
    except ImageError as error:
        # Where the server keeps the file is nobody's business.
        raise ImageError(f"picture {name}: {str(error).removeprefix(f'{path}: ')}") from error
    with Image.open(path) as image:
        animated = getattr(image, "n_frames", 1) > 1
    return picture, [f"Picture {name} is animated; its first frame is judged."] if animated else []


def enlarged(image: Image.Image) -> Image.Image:
    """A small picture in whole multiples of its size, pixel for pixel; a large one as it is."""
    times = _SHOWN // max(image.size)
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST) if times > 1 else image


def png(image: Image.Image, facts: Mapping[str, object]) -> bytes:
    """A PNG that carries facts in its text chunks, as `rewarddance generate` writes them."""
    info = PngInfo()
    for key, value in facts.items():
        info.add_itxt(key, str(value))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()
