"""Score Images."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from diffusers_ext.rewards.instructions import DEFAULT_INSTRUCTION, Instruction

from . import ports
from .judges import Held
from .pictures import pictures
from .reporting import report


class ScoreImages(io.ComfyNode):
    """Every picture of a batch on its own: how good is it?"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RewardDanceScoreImages",
            display_name="Score Images",
            category=ports.CATEGORY,
            description="Judges each picture of a batch on its own. The reward is the probability, from 0 to 1, with "
            "which the judge says yes.",
            inputs=[
                ports.reward_model(),
                io.Image.Input("images", tooltip="The pictures to judge, one or many."),
                ports.prompt(),
                ports.instruction(),
                ports.explain(),
            ],
            outputs=[
                ports.RewardsPort.Output("rewards", display_name="rewards", tooltip="A verdict on each, in order."),
                io.Image.Output("ranked", display_name="ranked", tooltip="The same pictures, best first."),
                io.Image.Output("best", display_name="best", tooltip="The one with the highest reward."),
                io.Image.Output("worst", display_name="worst", tooltip="The one with the lowest reward."),
                io.Float.Output("reward", display_name="best_reward", tooltip="The highest reward, from 0 to 1."),
                io.String.Output("report", display_name="report", tooltip="The rewards as text, best first."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, reward_model: Held, images: Any, prompt: str, explain: bool, instruction: Instruction | None = None
    ) -> io.NodeOutput:
        candidates = pictures(images)
        judgements = reward_model.ready().score(
            candidates, prompt, instruction=instruction or DEFAULT_INSTRUCTION, explain=explain
        )
        order = sorted(range(len(judgements)), key=lambda index: -judgements[index].log_odds)
        ranked, text = images[order], report([judgements[index] for index in order])
        shown = {"rewards": [item.reward for item in judgements], "text": [text]}
        best = judgements[order[0]].reward
        return io.NodeOutput(tuple(judgements), ranked, ranked[:1], ranked[-1:], best, text, ui=shown)
