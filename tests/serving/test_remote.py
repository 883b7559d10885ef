from __future__ import annotations

import json
import threading
import time

import pytest

pytest.importorskip("httpx", reason="needs httpx (pip install 'rewarddance[serve]')")
pytest.importorskip("fastapi", reason="needs fastapi (pip install 'rewarddance[serve]')")

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from http_servers import Trouble, answering, breaking_off, dripping, hanging, running

from diffusers_ext.ranking import best_of_n, rank
from diffusers_ext.rewards.connection import IDEMPOTENCY_HEADER, Connection, Refused, RemoteError
from diffusers_ext.rewards.errors import (
    Cancelled,
    ImageError,
    InstructionError,
    ModelError,
    PromptTextError,
    RewardDanceError,
)
from diffusers_ext.rewards.instructions import Example, Instruction
from diffusers_ext.rewards.remote import RemoteRewardModel
from diffusers_ext.serving.bodies import Limits, TooLarge, compare_questions, score_questions
from diffusers_ext.serving.judging import answer

PROMPT = "a red star"


class Server:
    """The endpoints of `rewarddance serve` in one process; the real ones are in test_serve.py."""

    def __init__(self, judge, limits=Limits()):
        self.judge, self.limits = judge, limits
        self.requests = self.questions = 0
        self.change = lambda judgements: judgements
        self.app = FastAPI()
        self.app.get("/health")(self.health)
        self.app.post("/score")(self.score)
        self.app.post("/compare")(self.compare)

    async def health(self):
        return {"status": "ok", "model": self.judge.name, "video_frames": 8}

    async def score(self, request: Request):
        return await self.respond(request, score_questions)

    async def compare(self, request: Request):
        return await self.respond(request, compare_questions)

    async def respond(self, request, parse):
        self.requests += 1
        try:
            asked = parse(await request.body(), self.limits, {})
            answers = answer(self.judge, asked)
            self.questions += len(asked)
        except RewardDanceError as error:
            kind = "ImageError" if isinstance(error, TooLarge) else type(error).__name__
            content = {"error": {"type": kind, "message": str(error)}}
            return JSONResponse(content, 413 if isinstance(error, TooLarge) else 422)
        if problems := [item for item in answers if item.judgement is None]:
            return JSONResponse({"error": {"type": problems[0].kind, "message": problems[0].problem}}, 422)
        found = [
            {**item.judgement.as_dict(), "candidate": index, "reference": question.reference_index}
            for index, (question, item) in enumerate(zip(asked, answers, strict=True))
        ]
        return JSONResponse({"judgements": self.change(found)})


@pytest.fixture(scope="module")
def server(untrained_judge):
    return Server(untrained_judge)


@pytest.fixture(scope="module")
def url(server):
    with running(server.app) as url:
        yield url


@pytest.fixture(autouse=True)
def fresh(server):
    server.requests = server.questions = 0
    server.change = lambda judgements: judgements


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr("diffusers_ext.rewards.connection._BACKOFF", 0.01)


@pytest.fixture
def remote(url):
    with RemoteRewardModel(url, batch_size=2) as judge:
        yield judge


def same(found, expected):
    assert [item.reward for item in found] == pytest.approx([item.reward for item in expected], abs=1e-3)
    assert [item.log_odds for item in found] == pytest.approx([item.log_odds for item in expected], abs=1e-3)
    for one, other in zip(found, expected, strict=True):
        for field in ("instruction", "criteria", "candidate", "reference", "explanation", "debiased"):
            assert getattr(one, field) == getattr(other, field)


def test_scores_are_those_in_process(remote, untrained_judge, pictures):
    asked = [f"{PROMPT} {number}" for number in range(6)]
    same(remote.score(pictures, asked), untrained_judge.score(pictures, asked))
    same(remote.score(pictures[0], PROMPT, "alignment"), untrained_judge.score(pictures[0], PROMPT, "alignment"))


@pytest.mark.parametrize("debias", [True, False])
def test_comparisons_are_those_in_process(remote, untrained_judge, pictures, debias):
    for reference in (pictures[5], pictures[1:6]):
        expected = untrained_judge.compare(pictures[:5], reference, PROMPT, debias=debias)
        same(remote.compare(pictures[:5], reference, PROMPT, debias=debias), expected)


def test_records_with_examples_travel(remote, untrained_judge, pictures, picture_files):
    examples = (
        Example("a star", picture_files[1], True, picture_files[2]),
        Example("a circle", picture_files[3], False),
    )
    by = Instruction("mine", "Judge how red it is.", ("redness", "shape"), examples=examples)
    same(remote.score(pictures[:3], PROMPT, by), untrained_judge.score(pictures[:3], PROMPT, by))


@pytest.mark.parametrize("method", ["pointwise", "anchored", "knockout", "round-robin"])
def test_ranking_works_with_it_unchanged(remote, untrained_judge, pictures, method):
    found, expected = (rank(pictures[:4], PROMPT, judge, method) for judge in (remote, untrained_judge))
    assert (found.order, found.judgement_count) == (expected.order, expected.judgement_count)
    assert found.rewards == pytest.approx(expected.rewards, abs=1e-3)


def test_best_of_n_works_with_it_unchanged(remote, untrained_judge, untrained_pipeline):
    options = {"method": "knockout", "num_inference_steps": 1}
    found, expected = (
        best_of_n(untrained_pipeline, PROMPT, 3, judge, **options) for judge in (remote, untrained_judge)
    )
    assert found.ranking.order == expected.ranking.order


def test_it_has_the_name_of_the_model(remote, untrained_judge):
    assert remote.name == untrained_judge.name


def test_the_errors_are_those_in_process(remote, pictures, tmp_path):
    with pytest.raises(PromptTextError, match="empty"):
        remote.score(pictures, " ")
    with pytest.raises(PromptTextError, match="2 prompts for 3"):
        remote.score(pictures[:3], [PROMPT] * 2)
    with pytest.raises(ImageError, match="2 references for 3"):
        remote.compare(pictures[:3], pictures[:2], PROMPT)
    with pytest.raises(ImageError, match=r"lost\.png"):
        remote.score(tmp_path / "lost.png", PROMPT)
    with pytest.raises(InstructionError, match="Did you mean 'overall'"):
        remote.score(pictures[0], PROMPT, "overal")
    with pytest.raises(PromptTextError, match="IMG_CONTEXT"):
        remote.score(pictures[0], "a <IMG_CONTEXT> star")
    with pytest.raises(ValueError, match="batch_size"):
        remote.score(pictures[0], PROMPT, batch_size=0)


def test_what_is_too_much_for_one_request_is_sent_in_halves(untrained_judge, pictures):
    server = Server(untrained_judge, Limits(pictures=2))
    with running(server.app) as url, RemoteRewardModel(url, batch_size=6) as judge:
        same(judge.score(pictures, PROMPT), untrained_judge.score(pictures, PROMPT))
    assert server.questions == 6


def test_one_picture_that_is_too_large_is_named(untrained_judge, pictures):
    server = Server(untrained_judge, Limits(pixels=64 * 64))
    with running(server.app) as url, RemoteRewardModel(url, batch_size=2) as judge:
        large = pictures[0].resize((65, 64))
        with pytest.raises(ImageError, match=r"candidate 3: images\[0\]: 65x64 pixels, where 4,096 are allowed"):
            judge.score([*pictures[:3], large], PROMPT)


TROUBLES = {
    "status 500": answering(500, b"oh"),
    "status 503": answering(503, b'{"error": {"message": "starting"}}'),
    "status 429": answering(429, retry_after="0"),
    "no answer within": hanging,
    "peer closed connection": breaking_off,
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_passing_trouble_is_sat_out_and_nothing_is_judged_twice(server, pictures, untrained_judge, trouble):
    app = Trouble(server.app, TROUBLES[trouble], TROUBLES[trouble])
    with running(app) as url, RemoteRewardModel(url, timeout=0.4 if trouble.startswith("no") else 30) as judge:
        same(judge.score(pictures[:2], PROMPT), untrained_judge.score(pictures[:2], PROMPT))
    assert server.questions == 2
    assert len(app.seen) == 3
    assert len({headers[IDEMPOTENCY_HEADER.lower()] for headers in app.seen}) == 1


@pytest.mark.parametrize("trouble", TROUBLES)
def test_lasting_trouble_is_told_and_what_was_judged_is_kept(server, pictures, untrained_judge, trouble):
    app = Trouble(server.app, None, *[TROUBLES[trouble]] * 9)
    timeout = 0.4 if trouble.startswith("no") else 30
    with (
        running(app) as url,
        RemoteRewardModel(url, timeout=timeout, retries=1, batch_size=2, concurrency=1) as judge,
        pytest.raises(ModelError, match=trouble) as caught,
    ):
        judge.score(pictures[:4], PROMPT)
    same(list(caught.value.judged.values()), untrained_judge.score(pictures[:2], PROMPT))
    assert list(caught.value.judged) == [0, 1]


def test_an_answer_that_drips_is_as_good_as_none(server, pictures):
    began = time.monotonic()
    with (
        running(Trouble(server.app, dripping)) as url,
        RemoteRewardModel(url, timeout=0.5, retries=0) as judge,
        pytest.raises(RemoteError, match=r"asked once.*no answer within 0\.5 seconds"),
    ):
        judge.score(pictures[0], PROMPT)
    assert time.monotonic() - began < 4


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 422])
def test_what_cannot_get_better_is_not_tried_again(server, pictures, status):
    app = Trouble(server.app, answering(status, b'{"error": {"type": "Odd", "message": "because"}}', location="/"))
    with running(app) as url, RemoteRewardModel(url) as judge, pytest.raises(Refused, match="because") as caught:
        judge.score(pictures[0], PROMPT)
    assert (caught.value.status, len(app.seen)) == (status, 1)
    assert ("API key" in str(caught.value)) is (status in (401, 403))


def changed(**values):
    return lambda judgements: [{**item, **values} for item in judgements]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda judgements: judgements[:1], "1 judgements where 2"),
        (lambda judgements: judgements * 2, "4 judgements where 2"),
        (lambda judgements: None, "no judgements where 2"),
        (lambda judgements: judgements[::-1], "it is of candidate 1"),
        (lambda judgements: [1, 2], "no object"),
        (changed(log_odds="1"), "its log-odds are '1'"),
        (changed(log_odds=True), "its log-odds are True"),
        (changed(log_odds=1e3), "its reward is"),
        (changed(reward=None), "its reward is None"),
        (changed(explanation=3), "its explanation is '3'"),
        (changed(criteria="all"), "what it was judged by"),
        (changed(debiased=True), "debiased"),
        (changed(reference=0), "other kind of question"),
    ],
)
def test_nonsense_is_not_taken_for_judgements(server, remote, pictures, change, complaint):
    server.change = change
    with pytest.raises(ModelError, match=complaint):
        remote.score(pictures[:2], PROMPT)
    assert server.requests == 1


@pytest.mark.parametrize("content", [b"<html>", b"", b"[" * 100_000, b'{"judgements": [{"log_odds": NaN}]}', b"{}"])
def test_garbage_is_not_taken_for_judgements(server, pictures, content):
    app = Trouble(server.app, answering(200, content))
    with running(app) as url, RemoteRewardModel(url) as judge, pytest.raises(RemoteError):
        judge.score(pictures[0], PROMPT)
    assert len(app.seen) == 1


def test_a_server_that_is_not_there_is_told(pictures):
    with RemoteRewardModel("http://127.0.0.1:9", retries=1) as judge, pytest.raises(ModelError, match="asked 2 times"):
        judge.score(pictures[0], PROMPT)


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://a", "http://", "file:///etc/passwd"])
def test_what_is_no_url_is_refused(url):
    with pytest.raises(ModelError, match="URL"):
        RemoteRewardModel(url)


@pytest.mark.parametrize("settings", [{"timeout": 0}, {"retries": -1}, {"batch_size": 0}, {"concurrency": 0}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ModelError, match=next(iter(settings))):
        RemoteRewardModel("http://localhost", **settings)


def test_cancelling_ends_the_wait_for_a_server_that_hangs(server, pictures):
    asked = threading.Event()
    began = time.monotonic()
    with running(Trouble(server.app, hanging)) as url, RemoteRewardModel(url, timeout=3) as judge:
        threading.Timer(0.3, asked.set).start()
        with pytest.raises(Cancelled, match="after 0 of 1"):
            judge.score(pictures[0], PROMPT, cancel=asked.is_set)
        assert time.monotonic() - began < 2
    with pytest.raises(Cancelled, match="after 0 of 2"):
        judge.score(pictures[:2], PROMPT, cancel=lambda: True)


def test_progress_is_shown_on_stderr_alone(remote, pictures, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # has rich take stderr for a terminal
    remote.score(pictures[:2], PROMPT, progress=True)
    shown = capsys.readouterr()
    assert (shown.out, "judging" in shown.err) == ("", True)


def test_the_pauses_double_and_differ(monkeypatch, server):
    pauses = []
    monkeypatch.setattr(threading.Event, "wait", lambda self, timeout=None: pauses.append(timeout) or False)
    connection = Connection("http://127.0.0.1:9", retries=5)
    with pytest.raises(RemoteError):
        connection.post("/score", {})
    assert pauses[0] == 0
    for number, pause in enumerate(pauses[1:]):
        assert 0.005 * 2**number <= pause <= 0.015 * 2**number
    assert len({pause / 2**number for number, pause in enumerate(pauses[1:])}) == 5


def test_bodies_are_plain_json(server, pictures):
    seen = []

    async def app(scope, receive, send):
        if scope["type"] == "http":
            message = await receive()
            seen.append(json.loads(message["body"]))
            await answering(400)(send)

    with running(app) as url, RemoteRewardModel(url, api_key="secret") as judge, pytest.raises(Refused):
        judge.score(pictures[0].resize((1, 1)), PROMPT)
    assert set(seen[0]) == {"images", "prompt", "instruction", "explain"}
    assert seen[0]["prompt"] == [PROMPT]


def test_the_command_line_asks_a_server_by_its_url(untrained_judge, picture_files, rewarddance):
    server = Server(untrained_judge)
    with running(server.app) as url:
        outcome = rewarddance("rank", *picture_files[:3], "-p", PROMPT, "--model", url, "--json")
        assert outcome.code == 0
        refused = rewarddance("rank", *picture_files[:3], "-p", PROMPT, "--model", url, "--device", "cpu")
    expected = [item.log_odds for item in untrained_judge.score(picture_files[:3], PROMPT)]
    assert json.loads(outcome.stdout)["rewards"] == pytest.approx(expected, abs=1e-4)
    assert refused.code == 2
    assert "for its server to say" in refused.stderr
