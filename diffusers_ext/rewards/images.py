"""Pictures in whatever form they come, as 8-bit RGB."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import ImageError

if TYPE_CHECKING:
    import torch

    ImageInput = Image.Image | str | Path | torch.Tensor

TOLERANCE: Final = 1e-3
"""How far outside [0, 1] a tensor may stray, as rounding in a decoder makes it do, before it is refused."""


def load_image(source: str | Path | Image.Image) -> Image.Image:
    """Read one picture as 8-bit RGB.

    EXIF orientation is applied, 16-bit samples are scaled, palettes and CMYK converted, transparency laid over white,
    and of an animation the first frame is taken (with a warning).

    Raises:
        ImageError: missing, unreadable, truncated, empty or absurdly large; the message names the file.
    """
    name = "the given picture" if isinstance(source, Image.Image) else str(source)
    try:
        with ExitStack() as opened, warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = source if isinstance(source, Image.Image) else opened.enter_context(Image.open(source))
            frames = getattr(image, "n_frames", 1)
            image.load()
            if 0 in image.size:
                raise ImageError(f"{name}: has no pixels (size {image.width}x{image.height})")
            picture = _rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError as error:
        raise ImageError(f"{name}: there is no such file") from error
    except (IsADirectoryError, PermissionError) as error:
        raise ImageError(f"{name}: cannot be read ({error.strerror})") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not a picture that Pillow reads (is it a video? use score-video)") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageError(f"{name}: has more than {Image.MAX_IMAGE_PIXELS:,} pixels; scale it down first") from error
    except ImageError:
        raise
    except Exception as error:  # on damaged files Pillow's readers raise almost anything
        raise ImageError(f"{name}: damaged or cut off ({error})") from error
    if frames > 1:
        warnings.warn(f"{name}: animated; only the first of {frames} frames is judged", stacklevel=2)
    return picture


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit greys open as I;16, or as I; Pillow's own conversion to 8 bits clips them instead of scaling.
        samples = np.asarray(image).astype(np.float64)
        top = 65535.0 if image.mode != "I" or samples.max() > 255 else 255.0
        image = Image.fromarray(np.rint(255 * samples / top).clip(0, 255).astype(np.uint8))
    elif image.mode == "F":
        samples = np.asarray(image)
        image = Image.fromarray(np.rint((255 if samples.max() <= 1 else 1) * samples).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def load_images(paths: Iterable[str | Path]) -> tuple[list[tuple[Path, Image.Image]], list[tuple[Path, ImageError]]]:
    """Read many files; the bad ones are returned with their errors, and the rest is not held up by them."""
    good: list[tuple[Path, Image.Image]] = []
    bad: list[tuple[Path, ImageError]] = []
    for path in map(Path, paths):
        try:
            good.append((path, load_image(path)))
        except ImageError as error:
            bad.append((path, error))
    return good, bad


def as_images(images: ImageInput | Sequence[ImageInput]) -> list[Image.Image]:
    """One picture or several, each a PIL image, a path or a float tensor [3, H, W] in [0, 1]; or [B, 3, H, W].

    Raises:
        ImageError: nothing given, a file that cannot be read, or a tensor of the wrong shape, type or range.
    """
    if isinstance(images, (str, Path, Image.Image)):
        return [load_image(images)]
    if hasattr(images, "ndim"):
        return _from_tensor(cast("torch.Tensor", images))
    if not isinstance(images, Iterable):
        raise ImageError(
            f"got {type(images).__name__}; expected a PIL image, a path, a float tensor, or a list of them"
        )
    items = list(images)
    # Those that come again, as in a round-robin, are converted once.
    pictures = {id(item): as_images(item) for item in {id(item): item for item in items}.values()}
    found = [picture for item in items for picture in pictures[id(item)]]
    if not found:
        raise ImageError("no pictures were given; at least one is needed")
    return found


def as_png(image: Image.Image, compress_level: int = 6) -> bytes:
    """A picture as the bytes of a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=compress_level)
    return file.getvalue()


def as_tensor(image: Image.Image) -> torch.Tensor:
    """An 8-bit RGB picture as a float tensor [3, H, W] in [0, 1]."""
    import torch

    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def check_batch(images: torch.Tensor) -> torch.Tensor:
    """Pictures as a float tensor [B, 3, H, W], of one [3, H, W] or several; gradients pass.

    Raises:
        ImageError: wrong shape, type or range, or NaN.
    """
    import torch

    expected = "expected a float tensor [3, H, W] or [B, 3, H, W] with values in [0, 1]"
    if not isinstance(images, torch.Tensor) or not images.is_floating_point():
        raise ImageError(f"got {type(images).__name__} of {getattr(images, 'dtype', 'unknown type')}; {expected}")
    batch = images[None] if images.ndim == 3 else images
    if batch.ndim != 4 or batch.shape[1] != 3 or 0 in batch.shape:
        raise ImageError(f"got a tensor of shape {list(images.shape)}; {expected}")
    values = batch.detach()
    if not torch.isfinite(values).all():
        raise ImageError(f"the tensor holds NaN or infinite values; {expected}")
    low, high = float(values.min()), float(values.max())
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        raise ImageError(f"the tensor's values run from {low:.3g} to {high:.3g}; {expected}")
    return batch


def _from_tensor(images: torch.Tensor) -> list[Image.Image]:
    batch = check_batch(images).detach()
    pixels = (batch.float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array) for array in pixels]
