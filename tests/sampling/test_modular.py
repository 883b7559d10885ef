from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.modular_pipelines import StableDiffusion3AutoBlocks

from diffusers_ext.sampling import Ascent, Canvas, SamplingError, Steering, beam
from diffusers_ext.sampling.decoding import pixels as shown
from diffusers_ext.sampling.modular import RewardGuidance, StepEnd, with_callback
from tests.sampling.redness import Redness, pixels

PROMPT = "a photo of a red star"


def painted(pipeline, blocks, guider):
    modular = blocks.init_pipeline()
    parts = {name: part for name, part in pipeline.components.items() if name in modular.components}
    modular.update_components(**parts, guider=guider)
    return modular(
        prompt=[PROMPT] * 2,
        num_inference_steps=6,
        max_sequence_length=1,
        height=64,
        width=64,
        generator=[torch.Generator().manual_seed(seed) for seed in range(2)],
        output="images",
    )


def redness(images) -> float:
    return float(np.mean([item.log_odds for item in Redness().score(images, PROMPT)]))


def test_a_callback_steers_modular_pipelines_as_it_does_others(pipeline):
    steering = Steering(lambda clean: np.array([0.0, 1.0]), beam(1), (2,), churn=0.0)
    found = painted(pipeline, with_callback(StableDiffusion3AutoBlocks(), steering), ClassifierFreeGuidance(3.0))
    plain = painted(pipeline, StableDiffusion3AutoBlocks(), ClassifierFreeGuidance(3.0))
    assert [check.parents for check in steering.checks] == [(1, 1)]
    assert np.abs(pixels(found).astype(int) - pixels([plain[1]] * 2)).max() == 0


def test_a_guider_and_a_block_climb_the_reward(pipeline):
    def reward(clean):
        return Redness().log_odds(shown(pipeline, clean, Canvas(64, 64)), PROMPT)

    plain = redness(painted(pipeline, StableDiffusion3AutoBlocks(), ClassifierFreeGuidance(3.0)))
    silent = redness(painted(pipeline, StableDiffusion3AutoBlocks(), RewardGuidance(guidance_scale=3.0)))
    guided = RewardGuidance(reward, length=0.3, guidance_scale=3.0)
    assert silent == plain
    assert redness(painted(pipeline, StableDiffusion3AutoBlocks(), guided)) > plain
    blocks = with_callback(StableDiffusion3AutoBlocks(), Ascent(reward, (2, 3), length=0.3))
    assert redness(painted(pipeline, blocks, ClassifierFreeGuidance(3.0))) > plain


def test_blocks_without_a_loop_are_named():
    with pytest.raises(SamplingError, match="no denoising loop in StepEnd"):
        with_callback(StepEnd(lambda *_: {}), lambda *_: {})
