"""Videos in whatever form they come, as a few frames of 8-bit RGB."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from PIL import Image

from .errors import ImageError, RewardDanceError
from .images import as_images, check_batch, load_image

if TYPE_CHECKING:
    import torch

    VideoInput: TypeAlias = "str | Path | Clip | torch.Tensor | Sequence[Image.Image]"

RATE: Final = 8.0
"""Frames per second of a video that does not say."""


class VideoError(RewardDanceError):
    """A video that cannot be judged."""


@dataclass(frozen=True)
class Clip:
    """A video.

    Attributes:
        frames: pictures of one size, in order, 8-bit RGB.
        rate: frames per second.
    """

    frames: tuple[Image.Image, ...]
    rate: float = RATE

    def __post_init__(self) -> None:
        if not self.frames:
            raise VideoError("the video has no frames")
        if len({frame.size for frame in self.frames}) > 1:
            raise VideoError("the frames of the video are not all of one size")
        if not self.rate > 0:
            raise VideoError(f"the video's rate must be above zero, not {self.rate} frames per second")

    def sampled(self, frames: int, rate: float | None = None) -> Clip:
        """Fewer frames, evenly spread.

        Args:
            frames: how many; a video with fewer keeps all it has.
            rate: or how many per second, of which `frames` is the most.
        """
        wanted = frames
        if rate is not None:
            wanted = min(wanted, max(1, round(len(self.frames) * rate / self.rate)))
        if wanted >= len(self.frames):
            return self
        places = spread(len(self.frames), wanted)
        return Clip(tuple(self.frames[place] for place in places), self.rate * wanted / len(self.frames))


def spread(total: int, count: int) -> tuple[int, ...]:
    """Which `count` of `total` frames are shown: the middles of equal stretches, so that neither end weighs more."""
    return tuple(int((index + 0.5) * total / count) for index in range(count)) if count < total else tuple(range(total))


def load_video(source: str | Path) -> Clip:
    """Read a video: a file, by PyAV, or a folder of frames, which needs nothing but Pillow (and has no rate).

    Raises:
        VideoError: missing, unreadable, cut off, without pictures or a single picture; the message names the file.
    """
    path = Path(source)
    if path.is_dir():
        try:
            return Clip(load_frames(path))
        except (ImageError, VideoError) as error:
            raise VideoError(f"{path}: not a folder of frames, which are pictures of one size ({error})") from error
    if not path.is_file():
        raise VideoError(f"{path}: there is no such file")
    try:
        import av
    except ImportError as error:
        _refuse_still(path)
        raise VideoError(
            f"{path}: reading video files needs PyAV: pip install 'rewarddance[video]' (folders of frames do without)"
        ) from error
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise VideoError(f"{path}: holds no pictures")
            if container.format.name == "image2" or container.format.name.endswith("_pipe"):
                raise _still(path)
            stream = container.streams.video[0]
            frames = tuple(frame.to_image() for frame in container.decode(stream))
            rate = float(stream.average_rate or stream.guessed_rate or RATE)
    except av.FFmpegError as error:
        raise VideoError(f"{path}: not a video that can be read, or damaged ({error})") from error
    if not frames:
        raise VideoError(f"{path}: has no frames")
    return Clip(frames, rate)


def _refuse_still(path: Path) -> None:
    """What is no video in any case should not make anybody install a library.

    Raises:
        VideoError: it is a still picture.
    """
    try:
        with Image.open(path) as picture:
            frames = getattr(picture, "n_frames", 1)
    except (OSError, ValueError, Image.DecompressionBombError):
        return
    if frames == 1:
        raise _still(path)


def _still(path: Path) -> VideoError:
    return VideoError(f"{path}: is a still picture, not a video; judge it by `score` or `compare`")


def load_frames(folder: Path) -> tuple[Image.Image, ...]:
    """The pictures in a folder, by their names, in which 10 comes after 9; hidden files are left out.

    Raises:
        ImageError: one of them is no picture that can be read.
    """

    def turn(path: Path) -> tuple[str, str]:
        return re.sub(r"\d+", lambda number: number[0].zfill(20), path.name), path.name

    shown = (path for path in folder.iterdir() if not path.name.startswith("."))
    return tuple(load_image(path) for path in sorted(shown, key=turn))


def as_clips(videos: Any) -> list[Clip]:
    """One video or several: paths, clips, float tensors [F, 3, H, W] / [B, F, 3, H, W] in [0, 1], lists of frames.

    A path is that of a file or of a folder of frames. A list of pictures (PIL) is one video; a list of anything else is
    several.

    Raises:
        VideoError: nothing given, no frames, frames of several sizes, or a file that cannot be read.
        ImageError: frames that are no pictures, or tensors of the wrong type or range.
    """
    if isinstance(videos, Clip):
        return [videos]
    if isinstance(videos, (str, Path)):
        return [load_video(videos)]
    if hasattr(videos, "ndim"):
        tensor = cast("torch.Tensor", videos)
        if tensor.ndim == 5:
            return [clip for item in tensor for clip in as_clips(item)]
        if tensor.ndim != 4 or not len(tensor):
            raise VideoError(
                f"got a tensor of shape {list(tensor.shape)}; expected a float tensor [F, 3, H, W] or [B, F, 3, H, W]"
            )
        return [Clip(tuple(as_images(tensor)))]
    if not isinstance(videos, Iterable):
        raise VideoError(f"got {type(videos).__name__}; expected a path, a tensor, a list of frames, or a list of them")
    items = list(videos)
    if not items:
        raise VideoError("no videos were given; at least one is needed")
    if all(isinstance(item, Image.Image) for item in items):
        return [Clip(tuple(as_images(items)))]
    return [clip for item in items for clip in as_clips(item)]


def check_clips(videos: torch.Tensor) -> torch.Tensor:
    """Videos as a float tensor [B, F, 3, H, W], of one [F, 3, H, W] or several; gradients pass.

    Raises:
        ImageError: wrong shape, type or range, or NaN.
    """
    if getattr(videos, "ndim", 0) not in (4, 5) or 0 in videos.shape:
        shape = list(videos.shape) if hasattr(videos, "shape") else type(videos).__name__
        raise ImageError(f"got {shape}; expected a float tensor [F, 3, H, W] or [B, F, 3, H, W] with values in [0, 1]")
    batch = videos[None] if videos.ndim == 4 else videos
    return check_batch(batch.flatten(0, 1)).unflatten(0, batch.shape[:2])
