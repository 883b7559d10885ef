from __future__ import annotations

import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from diffusers_ext.data import Preference, locate, write
from diffusers_ext.rewards.videos import VideoError, as_clips, load_video


@pytest.fixture
def no_av(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)  # which makes its import fail


@pytest.fixture
def folder(tmp_path):
    """Twelve frames that grow brighter, numbered without leading zeros."""
    made = tmp_path / "clip"
    made.mkdir()
    for number in range(12):
        Image.new("RGB", (32, 24), (20 * number,) * 3).save(made / f"frame{number}.png")
    return made


def brightness(frames):
    return [int(np.asarray(frame)[0, 0, 0]) for frame in frames]


def test_a_folder_of_frames_is_a_video_and_ten_comes_after_nine(folder, no_av):
    (folder / ".DS_Store").write_bytes(b"not a picture")
    expected = [20 * number for number in range(12)]
    assert brightness(load_video(folder).frames) == expected
    assert [brightness(clip.frames) for clip in as_clips([folder, str(folder)])] == [expected] * 2


def test_records_show_the_same_frames(folder):
    shutil.copytree(folder, folder.parent / "other")
    write(folder.parent / "pairs.jsonl", [Preference("a fox", "clip", "other", "a", instruction="video-overall")])
    (item,), _ = locate([folder.parent / "pairs.jsonl"])
    assert brightness(item.open("clip")) == brightness(load_video(folder).frames)


def test_what_is_no_folder_of_frames_is_named(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(VideoError, match=r"empty: not a folder of frames.*has no frames"):
        load_video(tmp_path / "empty")
    Image.new("RGB", (5, 5)).save(folder / "frame12.png")
    with pytest.raises(VideoError, match=r"clip: .*not all of one size"):
        load_video(folder)
    (folder / "frame12.png").write_text("notes")
    with pytest.raises(VideoError, match=r"clip: .*frame12\.png"):
        load_video(folder)


def test_without_pyav_only_files_that_are_there_need_it(tmp_path, no_av):
    with pytest.raises(VideoError, match=r"lost\.mp4: there is no such file"):
        load_video(tmp_path / "lost.mp4")
    (tmp_path / "clip.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    with pytest.raises(VideoError, match=r"clip\.mp4: .*needs PyAV.*rewarddance\[video\]"):
        load_video(tmp_path / "clip.mp4")
    Image.new("RGB", (5, 5)).save(tmp_path / "still.png")
    with pytest.raises(VideoError, match=r"still\.png: is a still picture"):
        load_video(tmp_path / "still.png")
