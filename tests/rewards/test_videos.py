from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_ext.rewards.errors import ImageError
from diffusers_ext.rewards.videos import Clip, VideoError, as_clips, load_video

av = pytest.importorskip("av")


def shades(count, size=(32, 24)):
    return tuple(Image.new("RGB", size, (8 * index, 0, 255 - 8 * index)) for index in range(count))


def write(path, frames, rate=10, codec="libx264"):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("have", "want", "expected"), [(16, 4, [2, 6, 10, 14]), (5, 8, [0, 1, 2, 3, 4]), (9, 1, [4])])
def test_frames_are_spread_evenly(have, want, expected):
    clip = Clip(shades(have), rate=8.0)
    sampled = clip.sampled(want)
    assert [clip.frames.index(frame) for frame in sampled.frames] == expected
    assert len(sampled.frames) / sampled.rate == pytest.approx(have / 8.0)


def test_a_rate_asks_for_frames_per_second():
    clip = Clip(shades(30), rate=10.0)
    assert len(clip.sampled(1000, rate=2.0).frames) == 6
    assert len(clip.sampled(4, rate=2.0).frames) == 4
    assert clip.sampled(1000) is clip


def test_a_file_is_read_as_it_was_written(tmp_path):
    frames = shades(12)
    clip = load_video(write(tmp_path / "clip.mp4", frames))
    assert clip.rate == pytest.approx(10.0)
    assert len(clip.frames) == 12
    for found, written in zip(clip.frames, frames, strict=True):
        assert np.abs(np.asarray(found, dtype=float) - np.asarray(written, dtype=float)).mean() < 6


def test_the_forms_a_video_can_have_are_one(tmp_path):
    frames = shades(4)
    tensor = torch.stack([torch.from_numpy(np.array(frame)).permute(2, 0, 1) / 255 for frame in frames])
    for same in (Clip(frames), list(frames), tensor):
        (clip,) = as_clips(same)
        assert [frame.tobytes() for frame in clip.frames] == [frame.tobytes() for frame in frames]
    assert len(as_clips([list(frames), tensor, Clip(frames)])) == 3
    assert len(as_clips(torch.stack([tensor, tensor]))) == 2


def test_bad_videos_are_refused_by_name(tmp_path):
    with pytest.raises(VideoError, match=r"lost\.mp4.*no such file"):
        load_video(tmp_path / "lost.mp4")
    (tmp_path / "junk.mp4").write_bytes(b"not a video" * 100)
    with pytest.raises(VideoError, match=r"junk\.mp4"):
        load_video(tmp_path / "junk.mp4")
    whole = write(tmp_path / "whole.mp4", shades(12)).read_bytes()
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(VideoError, match=r"half\.mp4"):
        load_video(tmp_path / "half.mp4")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(VideoError, match=r"empty\.mp4"):
        load_video(tmp_path / "empty.mp4")


def test_a_sound_file_has_no_pictures(tmp_path):
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match="no pictures"):
        load_video(path)


@pytest.mark.parametrize(
    ("videos", "error"),
    [
        ([], VideoError),
        (torch.rand(3, 8), VideoError),
        (torch.rand(0, 3, 8, 8), VideoError),
        (torch.full((2, 3, 8, 8), torch.nan), ImageError),
        (7, VideoError),
        ([*shades(1), Image.new("RGB", (5, 5))], VideoError),
    ],
)
def test_what_is_no_video_is_refused(videos, error):
    with pytest.raises(error):
        as_clips(videos)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp"])
def test_a_still_picture_is_no_video_and_an_animation_is_one(tmp_path, ending):
    shades(1)[0].save(tmp_path / f"still.{ending}")
    with pytest.raises(VideoError, match="is a still picture, not a video"):
        load_video(tmp_path / f"still.{ending}")
    first, *others = shades(3)
    first.save(tmp_path / "moving.gif", save_all=True, append_images=others, duration=100)
    assert len(load_video(tmp_path / "moving.gif").frames) == 3
