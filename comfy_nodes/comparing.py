"""Compare."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from diffusers_ext.rewards.instructions import DEFAULT_INSTRUCTION, Instruction

from . import ports
from .judges import Held
from .pictures import one_picture
from .previews import previews


class Compare(io.ComfyNode):
    """Two pictures of one prompt: is A better than B, and why?"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RewardDanceCompare",
            display_name="Compare",
            category=ports.CATEGORY,
            description="Judges picture A against picture B. The reward is the probability, from 0 to 1, that A is "
            "better. The two may differ in size.",
            inputs=[
                ports.reward_model(),
                io.Image.Input("image_a", tooltip="The candidate."),
                io.Image.Input("image_b", tooltip="What it is held against."),
                ports.prompt(),
                ports.instruction(),
                ports.debias(),
                ports.explain(),
            ],
            outputs=[
                io.Float.Output("reward", display_name="reward", tooltip="P(A is better than B), from 0 to 1."),
                io.Boolean.Output("verdict", display_name="a_is_better", tooltip="Whether that is above one half."),
                io.String.Output("explanation", display_name="explanation", tooltip="The judge's reasons, if asked."),
                io.Image.Output("better", display_name="better", tooltip="The better one; B if they are equal."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        reward_model: Held,
        image_a: Any,
        image_b: Any,
        prompt: str,
        debias: bool,
        explain: bool,
        instruction: Instruction | None = None,
    ) -> io.NodeOutput:
        one, other = one_picture(image_a, "image_a"), one_picture(image_b, "image_b")
        by = instruction or DEFAULT_INSTRUCTION
        judge = reward_model.ready()
        [judgement] = judge.compare([one], other, prompt, instruction=by, debias=debias, explain=explain)
        explanation = judgement.explanation or ""
        shown = {
            "a_images": previews([one]),
            "b_images": previews([other]),
            "reward": [judgement.reward],
            "text": [explanation],
        }
        better = image_a if judgement.verdict else image_b
        return io.NodeOutput(judgement.reward, judgement.verdict, explanation, better, ui=shown)
