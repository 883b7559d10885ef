"""Reward-guided sampling: spend compute at test time where a judge finds it well spent."""

from __future__ import annotations

from .decoding import FAMILIES, Canvas, Family
from .gradients import Gradient, NoiseOptimization
from .guidance import Ascent
from .guided import Guided, Method, RewardGuidedPipeline
from .levels import Levels, SamplingError, levels_of
from .painting import Painted, Painter
from .particles import Check, Steering
from .search import Drafts, RandomSearch, Redrafts, SearchOverPaths, ZeroOrder
from .selection import POTENTIALS, Chosen, Selection, beam, effective_sample_size, feynman_kac, systematic
from .session import Session
from .steered import BeamSearch, FeynmanKac
from .trace import Node, Trace

__all__ = [
    "FAMILIES",
    "POTENTIALS",
    "Ascent",
    "BeamSearch",
    "Canvas",
    "Check",
    "Chosen",
    "Drafts",
    "Family",
    "FeynmanKac",
    "Gradient",
    "Guided",
    "Levels",
    "Method",
    "Node",
    "NoiseOptimization",
    "Painted",
    "Painter",
    "RandomSearch",
    "Redrafts",
    "RewardGuidedPipeline",
    "SamplingError",
    "SearchOverPaths",
    "Selection",
    "Session",
    "Steering",
    "Trace",
    "ZeroOrder",
    "beam",
    "effective_sample_size",
    "feynman_kac",
    "levels_of",
    "systematic",
]
