"""The errors of training a generator."""

from __future__ import annotations

from ..rewards.errors import RewardDanceError


class LoraTrainingError(RewardDanceError):
    """A run that cannot begin, or cannot go on; what it learned up to its last saved state is kept."""


class JudgeGoneError(LoraTrainingError):
    """A judge that has stopped to answer; the run is saved before it is raised."""
