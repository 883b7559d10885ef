"""How well a judge agrees with people: accuracy, consistency, calibration, with intervals. See docs/evaluation.md."""

from __future__ import annotations

from .agreement import agreement
from .figures import Estimate, PreferenceReport, preference_report
from .judging import Judged, judge_preferences, lacking_first_frame

__all__ = [
    "Estimate",
    "Judged",
    "PreferenceReport",
    "agreement",
    "judge_preferences",
    "lacking_first_frame",
    "preference_report",
]
