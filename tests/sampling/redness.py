from __future__ import annotations

import numpy as np

from diffusers_ext.rewards.judgement import Judgement


class Redness:
    """A judge with no model in it: the share of red, as log-odds."""

    def __init__(self) -> None:
        self.seen = 0

    def score(self, images, prompt, instruction=None, **options):
        self.seen += len(images)
        shades = [np.asarray(image, dtype=float).mean((0, 1)) for image in images]
        return [Judgement(float(shade[0] - shade[1:].mean()) / 8, "alignment", ()) for shade in shades]

    def score_video(self, videos, prompt, instruction=None, **options):
        means = [np.stack([np.asarray(frame) for frame in video.frames]).mean(0) for video in videos]
        return self.score(means, prompt)

    def log_odds(self, images, prompt, instruction=None, **options):
        shades = images.float().mean((2, 3)) * 255
        return (shades[:, 0] - shades[:, 1:].mean(1)) / 8

    def video_log_odds(self, videos, prompt, instruction=None, **options):
        return self.log_odds(videos.mean(1), prompt)


def pixels(images) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images])
