"""Reward Instruction."""

from __future__ import annotations

from comfy_api.latest import io

from diffusers_ext.rewards.instructions import DEFAULT_INSTRUCTION, PRESETS, Instruction

from .ports import CATEGORY, InstructionPort


class RewardInstruction(io.ComfyNode):
    """By which criteria to judge: a preset, or a text of one's own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RewardDanceInstruction",
            display_name="Reward Instruction",
            category=CATEGORY,
            description="Says by which criteria to judge.",
            inputs=[
                io.Combo.Input(
                    "preset",
                    options=list(PRESETS),
                    default=DEFAULT_INSTRUCTION,
                    tooltip="What to judge by. Those that begin with video- are for videos, first-frame and "
                    "i2v-overall for videos made from a picture.",
                ),
                io.String.Input(
                    "own_text",
                    multiline=True,
                    default="",
                    optional=True,
                    tooltip="In place of the preset: one or more full sentences that the judge reads, such as 'Judge "
                    "how natural the face looks.' The shipped judge knows the presets only.",
                ),
                io.String.Input(
                    "criteria",
                    default="",
                    optional=True,
                    tooltip="What a text of your own covers, in a few words with commas between, for reports.",
                ),
            ],
            outputs=[InstructionPort.Output("instruction", display_name="instruction", tooltip="For a judging node.")],
        )

    @classmethod
    def execute(cls, preset: str, own_text: str = "", criteria: str = "") -> io.NodeOutput:
        if not own_text.strip():
            return io.NodeOutput(PRESETS[preset])
        names = tuple(name.strip() for name in criteria.split(",") if name.strip())
        return io.NodeOutput(Instruction("own", own_text.strip(), names or ("own",), PRESETS[preset].task))
