"""Score Video."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from diffusers_ext.rewards.instructions import DEFAULT_VIDEO_INSTRUCTION, Instruction

from . import ports
from .judges import Held
from .pictures import optional_picture, pictures
from .reporting import report


class ScoreVideo(io.ComfyNode):
    """A video on its own: how good is it?"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RewardDanceScoreVideo",
            display_name="Score Video",
            category=ports.CATEGORY,
            description="Judges a video on its own, by a few frames spread over it. The reward is the probability, "
            "from 0 to 1, with which the judge says yes.",
            inputs=[
                ports.reward_model(),
                io.Video.Input("video", tooltip="The video; Create Video makes one of a batch of pictures."),
                ports.prompt(),
                io.Int.Input(
                    "frames",
                    default=0,
                    min=0,
                    max=256,
                    tooltip="How many frames the judge sees; 0 for as many as it was trained on.",
                ),
                ports.explain(),
                ports.instruction(DEFAULT_VIDEO_INSTRUCTION),
                ports.first_frame(),
            ],
            outputs=[
                io.Float.Output("reward", display_name="reward", tooltip="From 0 to 1."),
                io.String.Output("explanation", display_name="explanation", tooltip="The judge's reasons, if asked."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        reward_model: Held,
        video: Any,
        prompt: str,
        frames: int,
        explain: bool,
        instruction: Instruction | None = None,
        first_frame: Any = None,
    ) -> io.NodeOutput:
        from diffusers_ext.rewards.videos import Clip

        parts = video.get_components()
        judgement = reward_model.ready().score_video(
            Clip(tuple(pictures(parts.images, "video")), float(parts.frame_rate)),
            prompt,
            instruction=instruction or DEFAULT_VIDEO_INSTRUCTION,
            first_frame=optional_picture(first_frame, "first_frame"),
            frames=frames or None,
            explain=explain,
        )
        shown = {"rewards": [judgement.reward], "text": [report([judgement])]}
        return io.NodeOutput(judgement.reward, judgement.explanation or "", ui=shown)
