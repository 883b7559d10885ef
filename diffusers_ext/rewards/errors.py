"""The errors a judge can raise. All are :class:`RewardDanceError`, so that one `except` catches what users can mend."""

from __future__ import annotations


class RewardDanceError(Exception):
    """Something the user can mend; the message says what was wrong, what was expected and how to mend it."""


class InstructionError(RewardDanceError):
    """An instruction that does not exist or is not well formed."""


class ImageError(RewardDanceError):
    """A picture that cannot be judged."""


class ModelError(RewardDanceError):
    """A model that cannot be loaded, or cannot serve as a judge."""


class Cancelled(RewardDanceError):
    """The caller asked to stop before the work was done."""


class PromptTextError(RewardDanceError):
    """A prompt that cannot be judged by."""
