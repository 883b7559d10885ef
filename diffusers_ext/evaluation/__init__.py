"""How well a judge agrees with people: accuracy, consistency, calibration, with intervals. See docs/evaluation.md."""

from __future__ import annotations

from .agreement import agreement
from .figures import Estimate, PreferenceReport, preference_report
from .judging import Judged, judge_preferences

__all__ = ["Estimate", "Judged", "PreferenceReport", "agreement", "judge_preferences", "preference_report"]
