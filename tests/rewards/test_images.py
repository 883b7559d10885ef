from __future__ import annotations

import gc
import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_ext.rewards.errors import ImageError
from diffusers_ext.rewards.images import as_images, load_image, load_images

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (24, 16, 3), dtype=np.uint8)
EXIF_ORIENTATION = 0x0112


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(image):
    assert image.mode == "RGB"
    return np.asarray(image)


def saved(image, path, **options):
    image.save(path, **options)
    return path


def test_rgb_png_is_read_unchanged(tmp_path):
    file = saved(Image.fromarray(NOISE), tmp_path / "noise.png")
    assert np.array_equal(pixels(load_image(file)), NOISE)
    assert np.array_equal(pixels(load_image(str(file))), NOISE)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "not a picture"),
        (b"this is no picture at all", "not a picture"),
        (bytes(range(256)) * 4, "not a picture"),
        (encoded(Image.fromarray(NOISE), "PNG")[:-300], "damaged or cut off"),
        (encoded(Image.fromarray(NOISE), "PNG")[:40], "damaged or cut off|not a picture"),
        (encoded(Image.fromarray(NOISE), "JPEG")[:-300], "damaged or cut off"),
        (encoded(Image.fromarray(NOISE), "BMP")[:-300], "damaged or cut off"),
    ],
    ids=["empty", "text", "bytes", "cut PNG", "PNG header only", "cut JPEG", "cut BMP"],
)
def test_bytes_that_are_no_whole_picture_are_refused_by_name(tmp_path, content, complaint):
    file = tmp_path / "broken.png"
    file.write_bytes(content)
    with pytest.raises(ImageError, match=rf"broken\.png: .*({complaint})"):
        load_image(file)


def test_whatever_is_wrong_with_a_file_comes_out_as_one_error(tmp_path):
    rng = np.random.default_rng(1)
    noise = Image.fromarray(NOISE)
    animation = {"save_all": True, "append_images": [noise.rotate(90).convert("P")]}
    originals = [
        encoded(noise, "PNG"),
        encoded(noise, "JPEG"),
        encoded(noise, "TIFF"),
        encoded(noise, "BMP"),
        encoded(noise, "WEBP"),
        encoded(noise.convert("P"), "GIF", **animation),
    ]
    file = tmp_path / "damaged"
    for original in originals:
        for _ in range(60):
            content = bytearray(original[: rng.integers(1, len(original) + 1)])
            for place in rng.integers(0, min(len(content), 200), rng.integers(0, 4)):
                content[place] = rng.integers(256)
            file.write_bytes(content)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    assert load_image(file).mode == "RGB"
                except ImageError as error:
                    assert "damaged: " in str(error)  # begins with the name of the file


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(ImageError, match=r"lost\.png: there is no such file"):
        load_image(tmp_path / "lost.png")
    with pytest.raises(ImageError, match=str(tmp_path)):
        load_image(tmp_path)


def test_too_many_pixels_are_refused(tmp_path, monkeypatch):
    file = saved(Image.fromarray(NOISE), tmp_path / "large.png")
    for limit in (NOISE.size // 3 - 1, 10):  # a warning of Pillow's just above the limit, an error far above it
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ImageError, match=r"large\.png: has more than"):
            load_image(file)


def test_a_picture_without_pixels_is_refused():
    with pytest.raises(ImageError, match="no pixels"):
        load_image(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize("top", [65535, 20000, 200])
def test_16_bit_greys_are_scaled_not_clipped(tmp_path, top):
    samples = np.linspace(0, top, 256).round().astype(np.uint16).reshape(16, 16)
    file = saved(Image.fromarray(samples), tmp_path / "deep.png")
    expected = np.rint(samples / 257.0).astype(np.uint8)  # 65535 = 257 * 255
    found = pixels(load_image(file))
    assert np.array_equal(found, np.repeat(expected[..., None], 3, -1))


def test_32_bit_integers_of_8_bit_range_are_kept():
    samples = np.arange(256, dtype=np.int32).reshape(16, 16)
    assert np.array_equal(pixels(load_image(Image.fromarray(samples)))[..., 0], samples)


@pytest.mark.parametrize("top", [1.0, 255.0])
def test_float_greys_of_either_range_become_8_bit(top):
    samples = np.linspace(0, top, 256, dtype=np.float32).reshape(16, 16)
    expected = np.arange(256).reshape(16, 16)
    assert np.abs(pixels(load_image(Image.fromarray(samples)))[..., 0].astype(int) - expected).max() <= 1


def test_cmyk_jpeg_becomes_the_colours_the_inks_leave(tmp_path):
    inks = np.array([[[0, 0, 0, 0], [255, 0, 0, 0]], [[0, 128, 255, 0], [60, 60, 60, 100]]], dtype=np.uint8)
    file = saved(
        Image.frombytes("CMYK", (32, 32), inks.repeat(16, 0).repeat(16, 1).tobytes()),
        tmp_path / "inks.jpg",
        quality=100,
    )
    assert Image.open(file).mode == "CMYK"
    expected = 255 * (1 - inks[..., :3] / 255) * (1 - inks[..., 3:] / 255)
    assert np.abs(pixels(load_image(file))[8::16, 8::16] - expected).max() <= 4


def test_palette_becomes_its_colours(tmp_path):
    colours = RNG.integers(0, 256, (4, 3), dtype=np.uint8)
    indices = RNG.integers(0, 4, (8, 8), dtype=np.uint8)
    image = Image.fromarray(indices, "L")
    image.putpalette(colours.tobytes())
    file = saved(image, tmp_path / "palette.png")
    assert Image.open(file).mode == "P"
    assert np.array_equal(pixels(load_image(file)), colours[indices])


def test_transparent_palette_entry_becomes_white(tmp_path):
    colours = np.array([[0, 0, 0], [200, 10, 30], [5, 250, 90]], dtype=np.uint8)
    indices = RNG.integers(0, 3, (8, 8), dtype=np.uint8)
    image = Image.fromarray(indices, "L")
    image.putpalette(colours.tobytes())
    file = saved(image, tmp_path / "palette.png", transparency=0)
    colours[0] = 255
    assert np.array_equal(pixels(load_image(file)), colours[indices])


def test_rgba_is_laid_over_white(tmp_path):
    layer = RNG.integers(0, 256, (24, 16, 4), dtype=np.uint8)
    layer[0, :, 3], layer[1, :, 3] = 0, 255
    share = layer[..., 3:] / 255.0
    found = pixels(load_image(saved(Image.fromarray(layer), tmp_path / "layer.png")))
    assert np.abs(found - (layer[..., :3] * share + 255 * (1 - share))).max() <= 1
    assert (found[0] == 255).all()
    assert np.array_equal(found[1], layer[1, :, :3])


def test_grey_with_alpha_is_laid_over_white(tmp_path):
    layer = RNG.integers(0, 256, (8, 8, 2), dtype=np.uint8)
    share = layer[..., 1] / 255.0
    found = pixels(load_image(saved(Image.fromarray(layer, "LA"), tmp_path / "layer.png")))
    assert np.abs(found - (layer[..., 0] * share + 255 * (1 - share))[..., None]).max() <= 1


def test_one_colour_marked_transparent_becomes_white(tmp_path):
    samples = np.zeros((4, 4, 3), np.uint8)
    samples[0] = (1, 2, 3)
    file = saved(Image.fromarray(samples), tmp_path / "keyed.png", transparency=(1, 2, 3))
    found = pixels(load_image(file))
    assert (found[0] == 255).all()
    assert (found[1:] == 0).all()


def test_one_bit_becomes_black_and_white(tmp_path):
    bits = RNG.random((8, 8)) < 0.5
    file = saved(Image.fromarray(bits), tmp_path / "bits.png")
    assert Image.open(file).mode == "1"
    assert np.array_equal(pixels(load_image(file)), np.repeat(255 * bits[..., None], 3, -1))


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F"]
)
def test_every_mode_of_pillow_becomes_rgb_and_the_original_is_left_alone(mode):
    original = Image.new(mode, (5, 4))
    before = original.tobytes()
    assert pixels(load_image(original)).shape == (4, 5, 3)
    assert (original.mode, original.tobytes()) == (mode, before)


@pytest.mark.parametrize("kind", ["GIF", "PNG"])
def test_of_an_animation_the_first_frame_is_taken_with_a_warning(tmp_path, kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    file = tmp_path / f"moving.{kind.lower()}"
    frames[0].save(file, save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match=r"moving\.\w+: animated; only the first of 3 frames"):
        found = load_image(file)
    assert (pixels(found) == (255, 0, 0)).all()


def test_a_still_picture_brings_no_warning_and_its_file_is_closed(tmp_path):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        load_image(saved(Image.fromarray(NOISE).convert("P"), tmp_path / "still.gif"))
        gc.collect()
    assert [str(warning.message) for warning in seen] == []


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda stored: stored),
        (2, lambda stored: stored[:, ::-1]),
        (3, lambda stored: stored[::-1, ::-1]),
        (4, lambda stored: stored[::-1]),
        (5, lambda stored: stored.swapaxes(0, 1)),
        (6, lambda stored: np.rot90(stored, -1)),
        (7, lambda stored: stored[::-1, ::-1].swapaxes(0, 1)),
        (8, lambda stored: np.rot90(stored)),
    ],
)
def test_exif_orientation_is_applied(tmp_path, orientation, upright):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    file = saved(Image.fromarray(NOISE), tmp_path / "turned.png", exif=exif)
    assert np.array_equal(pixels(load_image(file)), upright(NOISE))


def test_many_files_are_read_and_the_bad_ones_set_apart(tmp_path):
    fine = [saved(Image.fromarray(NOISE), tmp_path / f"{name}.png") for name in ("a", "z")]
    (tmp_path / "bad.png").write_bytes(b"nothing")
    good, bad = load_images([fine[0], tmp_path / "bad.png", str(fine[1]), tmp_path / "lost.png"])
    assert [path for path, _ in good] == fine
    assert all(np.array_equal(pixels(image), NOISE) for _, image in good)
    assert [path.name for path, _ in bad] == ["bad.png", "lost.png"]
    assert all(isinstance(error, ImageError) and path.name in str(error) for path, error in bad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensor_samples_are_rounded_to_8_bits(dtype):
    tensor = torch.from_numpy(NOISE).permute(2, 0, 1).double().div(255).to(dtype)
    (found,) = as_images(tensor)
    expected = tensor.double().mul(255).round().permute(1, 2, 0).numpy()
    assert np.array_equal(pixels(found), expected)


def test_a_batch_and_a_list_of_tensors_give_the_same_pictures():
    batch = torch.rand(3, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    whole, single = as_images(batch), as_images(list(batch))
    assert len(whole) == 3
    assert all(np.array_equal(pixels(a), pixels(b)) for a, b in zip(whole, single, strict=True))


def test_rounding_just_outside_the_range_is_forgiven_and_gradients_do_not_matter():
    tensor = torch.tensor([-5e-4, 0.5, 1.0005]).view(3, 1, 1).requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (found,) = as_images(tensor)
    assert found.getpixel((0, 0)) == (0, 128, 255)


@pytest.mark.parametrize(
    ("tensor", "complaint"),
    [
        (torch.full((3, 4, 4), torch.nan), "NaN"),
        (torch.full((3, 4, 4), torch.inf), "infinite"),
        (torch.full((3, 4, 4), 1.1), "run from 1.1 to 1.1"),
        (torch.full((3, 4, 4), -0.1), "run from -0.1"),
        (torch.rand(3, 4, 4) * 255, r"expected .* \[0, 1\]"),
        (torch.rand(4, 4), r"shape \[4, 4\]"),
        (torch.rand(4, 4, 3), r"shape \[4, 4, 3\]"),
        (torch.rand(1, 4, 4, 4), r"shape \[1, 4, 4, 4\]"),
        (torch.rand(1, 1, 3, 4, 4), r"shape \[1, 1, 3, 4, 4\]"),
        (torch.rand(0, 3, 4, 4), r"shape \[0, 3, 4, 4\]"),
        (torch.rand(3, 0, 4), r"shape \[3, 0, 4\]"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), "torch.uint8"),
        (torch.zeros(3, 4, 4, dtype=torch.long), "torch.int64"),
        (np.zeros((3, 4, 4), np.float32), "ndarray"),
    ],
)
def test_a_tensor_that_is_no_picture_is_refused(tensor, complaint):
    with pytest.raises(ImageError, match=complaint):
        as_images(tensor)


@pytest.mark.parametrize("nothing", [[], (), [[]]])
def test_no_pictures_at_all_are_refused(nothing):
    with pytest.raises(ImageError, match="no pictures were given"):
        as_images(nothing)


@pytest.mark.parametrize("other", [None, 5, [None]])
def test_what_is_no_picture_is_refused(other):
    with pytest.raises(ImageError, match="expected"):
        as_images(other)


def test_kinds_may_be_mixed(tmp_path):
    tensor = torch.from_numpy(NOISE).permute(2, 0, 1) / 255
    found = as_images([Image.fromarray(NOISE), saved(Image.fromarray(NOISE), tmp_path / "a.png"), tensor])
    assert len(found) == 3
    assert all(np.array_equal(pixels(image), NOISE) for image in found)
