"""RewardDance in ComfyUI: a judge that scores, compares and picks pictures inside the graph.

The nodes are thin: a schema, and a call of :mod:`diffusers_ext`, where everything is decided.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension

WEB_DIRECTORY: Final = "comfy_nodes/web"


async def comfy_entrypoint() -> ComfyExtension:
    """What ComfyUI calls once it has imported the pack."""
    from .extension import RewardDance

    return RewardDance()
