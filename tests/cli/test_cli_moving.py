from __future__ import annotations

import json

import pytest
from PIL import Image

from diffusers_ext.rewards.model import RewardModel

av = pytest.importorskip("av")
PROMPT = "a red star moving left"


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    files = []
    for number in range(2):
        files.append(folder / f"{number}.mp4")
        with av.open(str(files[-1]), "w") as container:
            stream = container.add_stream("libx264", rate=8)
            stream.width = stream.height = 64
            stream.pix_fmt = "yuv420p"
            for index in range(10):
                shade = (20 * index, 200 * number, 90)
                container.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (64, 64), shade))))
            container.mux(stream.encode(None))
    return files


def test_videos_are_scored_as_python_scores_them(rewarddance, videos):
    outcome = rewarddance("score-video", *videos, "-p", PROMPT, "--json")
    assert outcome.code == 0
    found = [item["log_odds"] for item in json.loads(outcome.stdout)["judgements"]]
    expected = [item.log_odds for item in RewardModel.default_for_videos("cpu").score_video(videos, PROMPT)]
    assert found == pytest.approx(expected, abs=1e-4)


def test_videos_are_compared_and_the_first_frame_counts(rewarddance, videos, tmp_path):
    first = tmp_path / "first.png"
    Image.new("RGB", (64, 64), "red").save(first)
    plain, shown = (
        json.loads(rewarddance("compare-videos", *videos, "-p", PROMPT, *more, "--json").stdout)["log_odds"]
        for more in ([], ["--first-frame", first, "-i", "i2v-overall"])
    )
    assert plain != shown
    (expected,) = RewardModel.default_for_videos("cpu").compare_videos(videos[0], videos[1], PROMPT)
    assert plain == pytest.approx(expected.log_odds, abs=1e-4)


def test_bad_videos_are_named_and_the_rest_is_judged(rewarddance, videos, tmp_path):
    junk = tmp_path / "junk.mp4"
    junk.write_bytes(b"junk")
    outcome = rewarddance("score-video", junk, videos[0], "-p", PROMPT, "--json")
    assert outcome.code == 2
    assert "junk.mp4" in outcome.stderr
    assert len(json.loads(outcome.stdout)["judgements"]) == 1
    outcome = rewarddance("compare-videos", videos[0], tmp_path / "lost.mp4", "-p", PROMPT)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "lost.mp4" in outcome.stderr
    assert "Traceback" not in outcome.stderr
