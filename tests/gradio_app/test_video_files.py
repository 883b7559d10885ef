from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("gradio", reason="the page needs gradio: pip install 'rewarddance[gradio]'")
pytest.importorskip("av", reason="videos need PyAV: pip install 'rewarddance[video]'")

import av

from diffusers_ext.rewards.videos import VideoError
from gradio_app import videos
from gradio_app.examples import write_video_pairs


def frames(count):
    rng = np.random.default_rng(0)
    return [
        np.kron(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8)) for _ in range(count)
    ]


def test_what_is_written_is_read_again_nearly_as_it_was(tmp_path):
    made = frames(5)
    videos.write_video(tmp_path / "x.mp4", made, 8)
    clip, notes = videos.opened(str(tmp_path / "x.mp4"), "A")
    assert not notes and len(clip.frames) == 5 and clip.rate == 8
    for frame, image in zip(made, clip.frames, strict=True):
        assert image.size == (256, 256)
        small = np.asarray(image.resize((64, 64), 4), float)
        assert np.abs(small - frame).mean() < 12
    with av.open(str(tmp_path / "x.mp4")) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"  # all that browsers are sure to play


def test_bad_videos_are_refused_without_telling_where_they_lie(tmp_path, monkeypatch, pictures):
    good = tmp_path / "good.mp4"
    videos.write_video(good, frames(5), 8)
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "cut.mp4").write_bytes(good.read_bytes()[:400])
    pictures[0].save(tmp_path / "still.png")
    for name, told in (("text.mp4", "damaged"), ("cut.mp4", "damaged"), ("still.png", "still picture")):
        with pytest.raises(VideoError, match=f"video A: .*{told}") as error:
            videos.opened(str(tmp_path / name), "A")
        assert str(tmp_path) not in str(error.value)
    with pytest.raises(VideoError, match="video B is missing"):
        videos.opened(None, "B")
    monkeypatch.setattr(videos, "_MOST_PIXELS", 4 * 256 * 256)
    with pytest.raises(VideoError, match="too long for its size"):
        videos.opened(str(good), "A")


def test_the_examples_are_always_the_same(tmp_path):
    for first, second in zip(*(write_video_pairs(tmp_path / name) for name in "xy"), strict=True):
        assert first[2] == second[2]
        for one, other in zip(first[:2], second[:2], strict=True):
            before, after = (videos.opened(path, "A")[0] for path in (one, other))
            assert [frame.tobytes() for frame in before.frames] == [frame.tobytes() for frame in after.frames]
