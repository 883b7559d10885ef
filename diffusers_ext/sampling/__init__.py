"""Steer a diffusion pipeline by a judge while it paints."""

from __future__ import annotations

from .levels import Levels, SamplingError, levels_of
from .particles import Check, Steering
from .selection import POTENTIALS, Chosen, Selection, beam, effective_sample_size, feynman_kac, systematic
from .steer import Steered, steer

__all__ = [
    "POTENTIALS",
    "Check",
    "Chosen",
    "Levels",
    "SamplingError",
    "Selection",
    "Steered",
    "Steering",
    "beam",
    "effective_sample_size",
    "feynman_kac",
    "levels_of",
    "steer",
    "systematic",
]
