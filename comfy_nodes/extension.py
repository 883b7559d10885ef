"""All nodes of the pack."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .comparing import Compare
from .guiding import RewardGuider
from .instructing import RewardInstruction
from .loading import LoadRewardModel
from .moving import ScoreVideo
from .nano import NanoCheckpoint
from .preferring import SavePreference
from .scoring import ScoreImages
from .selecting import BestOfN, RewardGate
from .steering import RewardGuidedSampler
from .training import TrainRewardLora


class RewardDance(ComfyExtension):
    """What ComfyUI is given."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            LoadRewardModel,
            RewardInstruction,
            ScoreImages,
            Compare,
            BestOfN,
            RewardGate,
            RewardGuidedSampler,
            RewardGuider,
            ScoreVideo,
            TrainRewardLora,
            SavePreference,
            NanoCheckpoint,
        ]
