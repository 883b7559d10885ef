"""As short a course of a judge as there can be, with a step of every lesson."""

from __future__ import annotations

from diffusers_ext.nano.train_reward import RewardRecipe

SHORT = RewardRecipe(
    architecture="reward-200k",
    steps=5,
    vision_steps=1,
    caption_steps=1,
    asking_steps=1,
    groups=2,
    vision_groups=1,
    seed=3,
)
