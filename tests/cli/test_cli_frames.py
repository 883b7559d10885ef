from __future__ import annotations

import json
import sys

import pytest
from PIL import Image

PROMPT = "a red star moving left"


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two videos as folders of frames, where PyAV is not installed."""
    monkeypatch.setitem(sys.modules, "av", None)
    made = [tmp_path / "one", tmp_path / "two"]
    for number, folder in enumerate(made):
        folder.mkdir()
        for index in range(10):
            Image.new("RGB", (64, 64), (20 * index, 200 * number, 90)).save(folder / f"{index}.png")
    return made


def test_folders_of_frames_are_judged_without_pyav(rewarddance, folders):
    from diffusers_ext.rewards.model import RewardModel

    frames = [[Image.open(folder / f"{index}.png") for index in range(10)] for folder in folders]
    judge = RewardModel.default_for_videos("cpu")
    scored = json.loads(rewarddance("score-video", *folders, "-p", PROMPT, "--device", "cpu", "--json").stdout)
    expected = [item.log_odds for item in judge.score_video(frames, PROMPT)]
    assert [item["log_odds"] for item in scored["judgements"]] == pytest.approx(expected, abs=1e-4)
    compared = json.loads(rewarddance("compare-videos", *folders, "-p", PROMPT, "--device", "cpu", "--json").stdout)
    (judgement,) = judge.compare_videos(*([clip] for clip in frames), PROMPT)
    assert compared["log_odds"] == pytest.approx(judgement.log_odds, abs=1e-4)


def test_a_video_that_is_not_there_is_said_to_be_missing(rewarddance, folders, tmp_path):
    lost = tmp_path / "lost.mp4"
    for arguments in (("score-video", lost), ("compare-videos", folders[0], lost)):
        outcome = rewarddance(*arguments, "-p", PROMPT)
        assert (outcome.code, outcome.stdout) == (2, "")
        assert f"{lost}: there is no such file" in outcome.stderr
        assert "PyAV" not in outcome.stderr


def test_a_first_frame_that_is_not_there_is_named_before_anything_is_judged(rewarddance, folders, tmp_path):
    outcome = rewarddance("score-video", folders[0], "-p", "a fox", "--first-frame", tmp_path / "lost.png")
    assert outcome.code == 2
    assert outcome.stderr == f"error: {tmp_path / 'lost.png'}: there is no such file\n"
