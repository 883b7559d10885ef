"""ComfyUI's pictures and the judge's: float [B, H, W, C] in [0, 1] on one side, 8-bit RGB on the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diffusers_ext.rewards.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image


def pictures(images: Any, name: str = "images") -> list[Image.Image]:
    """The pictures of an IMAGE.

    Values are clamped as ComfyUI does when it saves pictures, and transparency is laid over white, as the judge does
    with files.

    Args:
        images: float [B, H, W, C] with 1, 3 or 4 channels.
        name: of the input, for messages.

    Raises:
        ImageError: a latent, a mask, an empty batch, or anything else that is no picture.
    """
    from diffusers_ext.rewards.images import as_images

    if isinstance(images, dict) and "samples" in images:
        raise ImageError(f"{name}: got a latent where pictures were expected; put a VAE Decode node between")
    shape = list(getattr(images, "shape", ()))
    if len(shape) == 3:
        raise ImageError(f"{name}: got a mask where pictures were expected; put a Convert Mask to Image node between")
    if len(shape) != 4 or shape[3] not in (1, 3, 4):
        raise ImageError(f"{name}: got {type(images).__name__} {shape or ''}; expected pictures [B, H, W, 3]")
    if 0 in shape:
        raise ImageError(f"{name}: the batch is empty {shape}; at least one picture is needed")
    colours = images.movedim(3, 1)
    if shape[3] == 4:
        alpha = colours[:, 3:]
        colours = colours[:, :3] * alpha + (1 - alpha)
    return as_images(colours.clamp(0, 1).expand(-1, 3, -1, -1))


def one_picture(images: Any, name: str) -> Image.Image:
    """The picture of an IMAGE that holds one.

    Raises:
        ImageError: it holds several, or what :func:`pictures` refuses.
    """
    found = pictures(images, name)
    if len(found) > 1:
        raise ImageError(f"{name}: got a batch of {len(found)}, expected one picture; to rank a batch use Best of N")
    return found[0]


def optional_picture(images: Any, name: str) -> Image.Image | None:
    """:func:`one_picture`, or None where nothing is connected."""
    return None if images is None else one_picture(images, name)
