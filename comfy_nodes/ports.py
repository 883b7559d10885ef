"""What runs along the wires between nodes of this pack, and the inputs that several of them have."""

from __future__ import annotations

from typing import Final

from comfy_api.latest import io

from diffusers_ext.rewards.instructions import DEFAULT_INSTRUCTION
from diffusers_ext.rewards.videos import RATE
from diffusers_ext.sampling import SamplingError

CATEGORY: Final = "RewardDance"

RewardModelPort = io.Custom("REWARDDANCE_MODEL")
"""A :class:`~comfy_nodes.judges.Held`."""
InstructionPort = io.Custom("REWARDDANCE_INSTRUCTION")
"""A :class:`~diffusers_ext.Instruction`."""
RewardsPort = io.Custom("REWARDDANCE_REWARDS")
"""A tuple of :class:`~diffusers_ext.Judgement`, one for each picture of a batch, in its order."""


def reward_model(otherwise: str = "") -> io.Input:
    """The judge; optional where there is another one otherwise."""
    without = f" Without it: {otherwise}." if otherwise else ""
    return RewardModelPort.Input(
        "reward_model", optional=bool(otherwise), tooltip=f"The judge, from Load Reward Model.{without}"
    )


def prompt() -> io.Input:
    return io.String.Input("prompt", multiline=True, tooltip="What the pictures were to show.")


def instruction(default: str = DEFAULT_INSTRUCTION) -> io.Input:
    return InstructionPort.Input(
        "instruction", optional=True, tooltip=f"What to judge by, from Reward Instruction. Without it: {default}."
    )


def fps() -> io.Input:
    return io.Float.Input(
        "fps",
        default=RATE,
        min=0.1,
        max=240.0,
        step=0.1,
        optional=True,
        tooltip="Of videos: how many frames go by in a second, as the judge is told.",
    )


def first_frame() -> io.Input:
    return io.Image.Input("first_frame", optional=True, tooltip="The picture it was to begin with, for image-to-video.")


def explain() -> io.Input:
    return io.Boolean.Input(
        "explain",
        default=False,
        tooltip="Have the judge write down its reasons before its verdict. Slower, and the verdict may change.",
    )


def debias() -> io.Input:
    return io.Boolean.Input(
        "debias",
        default=True,
        tooltip="Ask both orders of every pair and average, so that neither side gains by its place.",
    )


def looks(default: str) -> io.Input:
    return io.String.Input(
        "looks", default=default, tooltip="When to look, as shares of the steps, with commas between."
    )


def shares(looks: str) -> list[float]:
    """The numbers of an input `looks`.

    Raises:
        SamplingError: they are not numbers between 0 and 1.
    """
    try:
        found = [float(share) for share in looks.split(",") if share.strip()]
    except ValueError:
        found = [-1.0]
    if not all(0 < share < 1 for share in found):
        raise SamplingError(f"looks are shares of the steps between 0 and 1, with commas between, not {looks!r}")
    return found
