"""Best of N and Reward Gate: what goes on, and what does not."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from diffusers_ext.ranking import rank
from diffusers_ext.ranking.methods import METHODS, RankingError
from diffusers_ext.rewards.instructions import DEFAULT_INSTRUCTION, Instruction
from diffusers_ext.rewards.judgement import Judgement

from . import ports
from .judges import Held
from .latents import take
from .pictures import optional_picture, pictures
from .previews import previews


class BestOfN(io.ComfyNode):
    """The best of a batch, with their latents."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RewardDanceBestOfN",
            display_name="Best of N",
            category=ports.CATEGORY,
            description="Ranks the pictures of a batch and keeps the best, with the latents they were made from.",
            inputs=[
                ports.reward_model(),
                io.Image.Input("images", tooltip="The candidates, a batch."),
                ports.prompt(),
                io.Int.Input("keep", default=1, min=1, max=4096, tooltip="How many to keep, best first."),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default=next(iter(METHODS)),
                    tooltip="pointwise: each alone (N questions). anchored: each against the reference (N). knockout: "
                    "in rounds (N - 1). round-robin: all against all (N (N - 1) / 2).",
                ),
                ports.debias(),
                ports.instruction(),
                io.Latent.Input("latents", optional=True, tooltip="The latents of the pictures, in the same order."),
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip="What candidates are held against; for anchored only. Without it: the first of the batch.",
                ),
            ],
            outputs=[
                io.Image.Output("kept", display_name="images", tooltip="The best, best first."),
                io.Latent.Output("kept_latents", display_name="latents", tooltip="Their latents, if you gave them."),
                io.String.Output("report", display_name="report", tooltip="The whole order as text, best first."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        reward_model: Held,
        images: Any,
        prompt: str,
        keep: int,
        method: str,
        debias: bool,
        instruction: Instruction | None = None,
        latents: dict[str, Any] | None = None,
        reference: Any = None,
    ) -> io.NodeOutput:
        candidates = pictures(images)
        ranking = rank(
            candidates,
            prompt,
            reward_model.ready(),
            method=method,
            instruction=instruction or DEFAULT_INSTRUCTION,
            reference=optional_picture(reference, "reference"),
            debias=debias,
        )
        kept = list(ranking.order[:keep])
        without = ExecutionBlocker("Best of N has no latents to give: connect its input latents")
        shown = {
            "ranked": previews([candidates[index] for index in ranking.order]),
            "values": [ranking.rewards[index] for index in ranking.order],
            "order": list(ranking.order),
            "kept": [len(kept)],
            "method": [method],
        }
        text = "\n".join(f"{index + 1}: {ranking.rewards[index]:+.3f}" for index in ranking.order)
        chosen = without if latents is None else take(latents, kept, len(candidates))
        return io.NodeOutput(images[kept], chosen, text, ui=shown)


class RewardGate(io.ComfyNode):
    """Lets pictures through that are good enough; if none is, asks for others."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RewardDanceGate",
            display_name="Reward Gate",
            category=ports.CATEGORY,
            description="Lets through the pictures whose reward reaches the threshold. If none does, what is connected "
            "to otherwise is run and passed on in their place; as long as one does, it never runs.",
            inputs=[
                io.Image.Input("images", tooltip="The pictures that were scored."),
                ports.RewardsPort.Input("rewards", tooltip="Their rewards, from Score Images."),
                io.Float.Input(
                    "threshold", default=0.5, min=0.0, max=1.0, step=0.01, tooltip="The least reward that passes."
                ),
                io.Image.Input(
                    "otherwise",
                    optional=True,
                    lazy=True,
                    tooltip="What to pass on if none is good enough, such as another try with another seed. Runs only "
                    "then. Without it, nothing after this node runs.",
                ),
            ],
            outputs=[
                io.Image.Output("passed", display_name="images", tooltip="The pictures that passed, in their order."),
                io.Int.Output("count", display_name="count", tooltip="How many of the scored pictures passed."),
            ],
        )

    @classmethod
    def check_lazy_status(cls, images: Any, rewards: tuple[Judgement, ...], threshold: float, **lazy: Any) -> list[str]:
        passed = any(item.reward >= threshold for item in rewards)
        return [] if passed else [name for name, value in lazy.items() if value is None]

    @classmethod
    def execute(
        cls, images: Any, rewards: tuple[Judgement, ...], threshold: float, otherwise: Any = None
    ) -> io.NodeOutput:
        count = len(pictures(images))
        if len(rewards) != count:
            raise RankingError(f"got {len(rewards)} rewards for {count} pictures; give those of the same batch")
        passed = [index for index, item in enumerate(rewards) if item.reward >= threshold]
        if passed:
            return io.NodeOutput(images[passed], len(passed))
        return io.NodeOutput(ExecutionBlocker(None) if otherwise is None else otherwise, 0)
