"""A comparison as the query of a link, without its pictures, and back."""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Mapping
from typing import Any, Final

from diffusers_ext.rewards.errors import RewardDanceError
from diffusers_ext.rewards.judgement import Judgement

from .comparing import Answer, Comparison

_LONGEST: Final = 16_000
"""Letters of a query; servers and browsers take little more."""
_LARGEST: Final = 200_000
"""Bytes of what is unpacked from one."""
_MOST: Final = 200


class ShareError(RewardDanceError):
    """A link that holds no comparison, or a comparison that fits into none."""


def packed(result: Any) -> str:
    """A comparison, as :meth:`~gradio_app.comparing.Comparison.as_dict` gives it, in letters that a URL takes.

    Raises:
        ShareError: it is none, or too long.
    """
    known = _comparison(result).as_dict()
    content = {key: known[key] for key in ("prompt", "criteria_of_your_own")}
    content |= {key: [_bare(item) for item in known[key]] for key in ("verdicts", "after_reasoning")}
    compact = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    found = base64.urlsafe_b64encode(zlib.compress(compact, 9)).decode().rstrip("=")
    if len(found) > _LONGEST:
        raise ShareError("this result is too long for a link; copy it as JSON")
    return found


def unpacked(query: str) -> Comparison:
    """The comparison of a link. Nothing in it is to be believed: whoever made the link may have written it by hand.

    Raises:
        ShareError: there is none in it.
    """
    try:
        if len(query) > _LONGEST:
            raise ValueError("too long")
        whole = zlib.decompressobj()
        raw = base64.urlsafe_b64decode(query + "=" * (-len(query) % 4))
        content = json.loads(whole.decompress(raw, _LARGEST).decode())
    except (ValueError, zlib.error, RecursionError) as error:
        raise ShareError("this link holds no result; maybe a part of it is missing") from error
    return _comparison(content)


def _bare(item: Mapping[str, Any]) -> dict[str, Any]:
    return {key: item[key] for key in ("judge", "criterion", "log_odds_of_yes", "about_a", "about_b") if key in item}


def _comparison(content: Any) -> Comparison:
    try:
        verdicts, reasoned = (tuple(_answer(item) for item in content[key]) for key in ("verdicts", "after_reasoning"))
        prompt, own = (_text(content[key]) for key in ("prompt", "criteria_of_your_own"))
        if not verdicts or len(verdicts) + len(reasoned) > _MOST:
            raise ValueError("no verdicts, or too many")
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise ShareError("there is no result to be shared; compare first") from error
    return Comparison(prompt, verdicts, reasoned, own=own)


def _answer(item: Any) -> Answer:
    criterion = _text(item["criterion"])
    forward, backward = (
        Judgement(_number(value), criterion, (), explanation=None if item.get(key) is None else _text(item[key]))
        for value, key in zip(item["log_odds_of_yes"], ("about_a", "about_b"), strict=True)
    )
    return Answer(_text(item["judge"]), criterion, forward, backward)


def _number(value: Any) -> float:
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TypeError("expected a number")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("expected text")
    return value
