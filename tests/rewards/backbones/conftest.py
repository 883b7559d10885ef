from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.vlms import KINDS, SIZES, build
from diffusers_ext.rewards.model import RewardModel


@pytest.fixture(scope="session")
def judge_of(tmp_path_factory):
    judges = {}

    def load(kind):
        if kind not in judges:
            folder = tmp_path_factory.mktemp("vlm") / ("tiny-reranker" if kind == "reranker" else "tiny")
            folder.mkdir()
            model = build("qwen3_vl" if kind == "reranker" else kind, SIZES["tiny"], folder)
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.ndim > 1:
                        parameter.mul_(3.0)  # as it is drawn, it hardly sees the pictures
            model.save_pretrained(folder)
            judges[kind] = RewardModel.from_pretrained(folder, device="cpu")
        return judges[kind]

    return load


@pytest.fixture(scope="session", params=KINDS)
def judge(request, judge_of):
    return judge_of(request.param)


@pytest.fixture(scope="session")
def reranker(judge_of):
    return judge_of("reranker")


@pytest.fixture(scope="session")
def sized_pictures():
    rng = np.random.default_rng(1)
    sizes = ((56, 56), (120, 60), (64, 112), (56, 56), (200, 90), (33, 47))
    shades = [
        np.kron(rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3)), np.ones((8, 8, 1)))[:height, :width]
        for width, height in sizes
    ]
    return [Image.fromarray(shade.astype(np.uint8)) for shade in shades]
