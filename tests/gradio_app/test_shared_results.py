from __future__ import annotations

import base64
import json
import zlib

import pytest

pytest.importorskip("gradio", reason="the page needs gradio: pip install 'rewarddance[gradio]'")

from diffusers_ext.rewards.judgement import Judgement
from gradio_app.comparing import Answer, Comparison
from gradio_app.sharing import ShareError, packed, unpacked

PROMPT = "ein roter Stern ★ <b>&?=#"


def answer(criterion, forward, backward, explanations=(None, None)):
    first, second = (
        Judgement(value, criterion, (), explanation=said)
        for value, said in zip((forward, backward), explanations, strict=True)
    )
    return Answer("judge/one", criterion, first, second)


KNOWN = Comparison(
    PROMPT,
    (answer("overall", 1.25, -40.0), answer("mood", -3.5, 0.125)),
    (answer("overall", 0.5, 0.25, ("Candidate: red star.", "Candidate: ★.")),),
    own="mood: How gloomy it is.",
)


def test_a_link_brings_back_what_was_shared():
    query = packed(json.loads(json.dumps(KNOWN.as_dict())))  # as the browser sends it back
    assert set(query) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
    assert unpacked(query) == KNOWN
    assert unpacked(query).as_dict() == KNOWN.as_dict()


def encoded(content):
    return base64.urlsafe_b64encode(zlib.compress(content)).decode().rstrip("=")


def broken(**changes):
    return encoded(json.dumps({**KNOWN.as_dict(), **changes}).encode())


@pytest.mark.parametrize(
    "query",
    [
        "",
        "x",
        "ä",
        "A" * 20_000,
        packed(KNOWN.as_dict())[:-9],
        encoded(b"[" * 100_000),
        encoded(b"\xff"),
        encoded(b"{}"),
        encoded(b" " * 300_000 + b"{}"),
        broken(verdicts=[]),
        broken(verdicts=[{}]),
        broken(prompt=3),
        broken(verdicts=[{**KNOWN.as_dict()["verdicts"][0], "log_odds_of_yes": [1e999, 0]}]),
        broken(verdicts=[{**KNOWN.as_dict()["verdicts"][0], "log_odds_of_yes": [0, "1"]}]),
        broken(verdicts=[{**KNOWN.as_dict()["verdicts"][0], "log_odds_of_yes": [0, 10**400]}]),
        broken(verdicts=KNOWN.as_dict()["verdicts"] * 200),
    ],
)
def test_a_link_that_was_tampered_with_is_refused(query):
    with pytest.raises(ShareError):
        unpacked(query)


@pytest.mark.parametrize("result", [None, {}, [], "x", {**KNOWN.as_dict(), "verdicts": None}])
def test_what_is_no_result_makes_no_link(result):
    with pytest.raises(ShareError, match="compare first"):
        packed(result)


def test_what_is_too_long_makes_no_link():
    import random

    noise = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=40_000))
    with pytest.raises(ShareError, match="too long"):
        packed({**KNOWN.as_dict(), "prompt": noise})
