"""Save Preference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import folder_paths
from comfy_api.latest import io

from diffusers_ext.rewards.instructions import Instruction

from . import ports
from .pictures import one_picture

if TYPE_CHECKING:
    from diffusers_ext.data.records import Choice


class SavePreference(io.ComfyNode):
    """Which of two pictures is better, kept as a record to train or test a judge on."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RewardDanceSavePreference",
            display_name="Save Preference",
            category=ports.CATEGORY,
            description="Adds a record to a JSONL file in the output folder preferences: two pictures, their prompt, "
            "and which is better. The pictures go into the folder media beside it.",
            inputs=[
                io.Image.Input("image_a", tooltip="One picture."),
                io.Image.Input("image_b", tooltip="The other."),
                ports.prompt(),
                io.Combo.Input(
                    "choice", options=["a", "b", "tie"], default="a", tooltip="Which is better, as you see it."
                ),
                io.String.Input("name", default="preferences", tooltip="The name of the file, without its ending."),
                io.Boolean.Input(
                    "a_is_better",
                    optional=True,
                    force_input=True,
                    tooltip="In place of your choice: the verdict of Compare. Judges that learn from it learn to "
                    "agree with that judge.",
                ),
                io.String.Input(
                    "rationale", optional=True, force_input=True, tooltip="Reasons, such as Compare's explanation."
                ),
                ports.instruction("an overall verdict"),
            ],
            outputs=[
                io.Int.Output("count", display_name="count", tooltip="How many records the file has now."),
                io.String.Output("file", display_name="file", tooltip="Where it is."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        image_a: Any,
        image_b: Any,
        prompt: str,
        choice: Choice,
        name: str,
        a_is_better: bool | None = None,
        rationale: str | None = None,
        instruction: Instruction | None = None,
    ) -> io.NodeOutput:
        from diffusers_ext.data import DataError, Preference, load
        from diffusers_ext.rewards.images import as_png

        from .records import append

        if not name.strip() or Path(name).name != name:
            raise DataError(f"{name!r} is not the name of a file; give one without folders, such as preferences")
        path = Path(folder_paths.get_output_directory()) / "preferences" / f"{name}.jsonl"
        record = Preference(
            prompt,
            as_png(one_picture(image_a, "image_a")),
            as_png(one_picture(image_b, "image_b")),
            choice if a_is_better is None else "a" if a_is_better else "b",
            criteria=instruction.criteria if instruction else (),
            instruction=instruction.name if instruction else None,
            rationale=rationale or None,
        )
        append(path, record)
        kept = load(path)
        told = f"{len(kept.records)} in {path.name}"
        if kept.problems:
            told += f"\n{len(kept.problems)} more cannot be read: {kept.problems[0]}"
        return io.NodeOutput(len(kept.records), str(path), ui={"text": [told]})
