"""Videos in and out of the page."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import gradio as gr
import numpy as np
from PIL import Image

from diffusers_ext.rewards.errors import RewardDanceError
from diffusers_ext.rewards.videos import Clip, VideoError, load_video

_MOST_PIXELS: Final = 600 * 512 * 512
"""Of all frames together, each of which is held in memory: ten minutes at the size of a stamp, ten seconds at 720p."""
_ENLARGED: Final = 4


def readable() -> bool:
    """Whether there is what reads video files."""
    return find_spec("av") is not None


def upload(name: str, elem_id: str) -> gr.Video:
    """A place for a video, which reaches the handlers as the path of the visitor's own file; see `pictures.upload`."""
    place = gr.Video(
        label=name,
        sources=["upload"],
        height=220,
        min_width=140,
        loop=True,
        elem_id=elem_id,
        elem_classes="rd-pixels",
    )
    place.preprocess = lambda payload: None if payload is None else payload.path  # type: ignore[method-assign]
    return place


def opened(path: str | None, name: str) -> tuple[Clip, list[str]]:
    """An uploaded video, and what is to be said about it, which is nothing.

    Raises:
        VideoError: there is none, it cannot be read, or there is too much of it.
    """
    if not path:
        raise VideoError(f"video {name} is missing; upload one")
    try:
        _refuse_large(path)
        return load_video(path), []
    except RewardDanceError as error:
        # Where the server keeps the file is nobody's business.
        said = str(error).removeprefix(f"{path}: ").replace(path, Path(path).name)
        raise VideoError(f"video {name}: {said}") from error


def _refuse_large(path: str) -> None:
    import av

    pixels = 0
    try:
        with av.open(path) as container:
            for frame in container.decode(video=0):  # what the file says of itself may be wrong
                pixels += frame.width * frame.height
                if pixels > _MOST_PIXELS:
                    raise VideoError("too long for its size; cut it, or make it smaller")
    except (av.FFmpegError, IndexError):
        return  # which `load_video` puts into words


def write_video(path: Path, frames: Sequence[np.ndarray], rate: int) -> None:
    """Write frames, uint8 [H, W, 3], as a video that browsers play, enlarged pixel for pixel."""
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=rate, options={"crf": "12"})
        stream.height, stream.width = (_ENLARGED * side for side in frames[0].shape[:2])
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            image = Image.fromarray(frame).resize((stream.width, stream.height), Image.Resampling.NEAREST)
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode(None))
