"""A reward model on Ray Serve: one way in, any number of replicas that judge.

The ingress checks what comes in and hands every question to a replica; replicas put what they are handed into batches.
Where a replica dies, its questions go to another one, and the client never learns of it.
"""

# No `from __future__ import annotations` here: Ray Serve ships the ingress by value, and FastAPI could not look up
# there what its annotations would be the names of.

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from ray import serve
from ray.exceptions import RayActorError
from ray.serve import metrics
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from starlette.exceptions import HTTPException

from .. import __version__
from ..rewards.connection import IDEMPOTENCY_HEADER
from ..rewards.errors import RewardDanceError
from ..rewards.instructions import Instruction
from .answered import Answered
from .bodies import (
    BodyError,
    Limits,
    TooLarge,
    compare_questions,
    compare_videos_questions,
    score_questions,
    score_video_questions,
)
from .judging import answer, anywhere, load_judge, told_by_worker
from .questions import Answer, Asked, Recipe

NAME: Final = "rewarddance"
JUDGE: Final = "judge"
INGRESS: Final = "ingress"
_ATTEMPTS: Final = 8
_QUEUE: Final = 8192
_BOUNDARIES: Final = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]
_log = logging.getLogger("ray.serve")


class Unanswerable(RewardDanceError):
    """What a replica found wrong with a question; `kind` is the name of the error there."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


Parse = Callable[[bytes, Limits, Mapping[str, Recipe]], list[Asked]]


class Judge:
    """A replica: one model, and questions in batches."""

    def __init__(
        self,
        model: str | None,
        quantization: str | None,
        device: str | None,
        batch_size: int,
        batch_wait: float,
    ) -> None:
        self._judge = load_judge(model, quantization, device)
        self._fault = ""
        self._sizes = metrics.Histogram(
            "rewarddance_batch_size", "Questions judged in one call.", boundaries=[1, 2, 4, 8, 16, 32, 64]
        )
        batches: Any = self.answer
        batches.set_max_batch_size(batch_size)
        batches.set_batch_wait_timeout_s(batch_wait)

    def about(self) -> dict[str, Any]:
        return {"model": self._judge.name, "video_frames": self._judge.config.video_frames}

    def check_health(self) -> None:
        """Called by Ray Serve, which replaces the replica once this raises."""
        if self._fault:
            raise RuntimeError(self._fault)

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.02)
    async def answer(self, asked: list[Asked]) -> list[Answer]:
        import torch

        self._sizes.observe(len(asked))
        try:
            return await asyncio.to_thread(answer, self._judge, asked)
        except getattr(torch, "AcceleratorError", ()) as error:  # a GPU that has failed once fails from then on
            self._fault = str(error)
            raise


def _failure(status: int, kind: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": {"type": kind, "message": message}}, status, headers)


api = FastAPI(title="RewardDance", version=__version__, description="A generative reward model. See docs/serving.md.")


@api.exception_handler(HTTPException)
async def _http_failure(request: Request, error: HTTPException) -> JSONResponse:
    return _failure(error.status_code, "HTTPError", str(error.detail), dict(error.headers or {}))


@serve.ingress(api)
class Ingress:
    """The way in. There is one: it knows which requests were answered before."""

    def __init__(
        self, judges: DeploymentHandle, limits: Limits, api_key: str | None, own: Mapping[str, Recipe]
    ) -> None:
        self._judges, self._limits, self._own = judges, limits, own
        self._expected = f"Bearer {api_key}".encode() if api_key else None
        self._answered = Answered[tuple[dict[str, Any], ...]]()
        self._known: dict[str, Any] = {}
        labels: Any = ("endpoint", "status")
        self._requests = metrics.Counter("rewarddance_requests", "HTTP requests.", labels)
        self._judgements = metrics.Counter("rewarddance_judgements", "Judgements made.", ("endpoint",))
        self._repeated = metrics.Counter("rewarddance_repeated_requests", "Requests known by their idempotency key.")
        self._again = metrics.Counter("rewarddance_questions_asked_again", "Questions whose replica died.")
        self._seconds = metrics.Histogram(
            "rewarddance_request_seconds", "From request to answer.", boundaries=_BOUNDARIES, tag_keys=("endpoint",)
        )

    @api.get("/health")
    async def health(self) -> JSONResponse:
        """Whether there are replicas to judge."""
        found = (await asyncio.to_thread(serve.status)).applications[NAME].deployments[JUDGE].replica_states
        running = sum(count for state, count in found.items() if str(getattr(state, "value", state)) == "RUNNING")
        if not running:
            return _failure(503, "Unavailable", "no replica is running yet, or any more")
        return JSONResponse({"status": "ok", **await self._about(), "replicas": running})

    @api.post("/score")
    async def score(self, request: Request) -> JSONResponse:
        """Judge pictures, each on its own."""
        return await self._respond(request, "score", score_questions)

    @api.post("/compare")
    async def compare(self, request: Request) -> JSONResponse:
        """Judge candidates against references."""
        return await self._respond(request, "compare", compare_questions)

    @api.post("/score-video")
    async def score_video(self, request: Request) -> JSONResponse:
        """Judge videos, each on its own."""
        return await self._respond(request, "score-video", score_video_questions)

    @api.post("/compare-videos")
    async def compare_videos(self, request: Request) -> JSONResponse:
        """Judge videos against references."""
        return await self._respond(request, "compare-videos", compare_videos_questions)

    async def _respond(self, request: Request, endpoint: str, parse: Parse) -> JSONResponse:
        began = time.monotonic()
        try:
            self._authorize(request)
            content = await self._body(request)
            judgements = await self._once(request, endpoint, parse, content)
            response = JSONResponse({"model": (await self._about())["model"], "judgements": judgements})
        except HTTPException as error:
            response = _failure(error.status_code, "HTTPError", error.detail)
        except Unanswerable as error:
            response = _failure(422, error.kind, str(error))
        except TooLarge as error:
            response = _failure(413, "ImageError", str(error))
        except RewardDanceError as error:
            response = _failure(422, type(error).__name__, str(error))
        except BackPressureError:
            response = _failure(429, "Busy", "too many questions are waiting; try again later", {"Retry-After": "1"})
        except (DeploymentUnavailableError, RayActorError):
            response = _failure(503, "Unavailable", "no replica could answer", {"Retry-After": "1"})
        except Exception:
            _log.exception("a request to /%s failed", endpoint)
            response = _failure(500, "InternalError", "the server failed on this; its log says why")
        self._requests.inc(tags={"endpoint": endpoint, "status": str(response.status_code)})
        self._seconds.observe(time.monotonic() - began, tags={"endpoint": endpoint})
        return response

    def _authorize(self, request: Request) -> None:
        given = request.headers.get("Authorization", "").encode("latin-1")
        if self._expected is not None and not hmac.compare_digest(given, self._expected):
            raise HTTPException(401, "the API key is missing or wrong; send it as 'Authorization: Bearer KEY'")

    async def _body(self, request: Request) -> bytes:
        body, length, limit = bytearray(), 0, self._limits.body_bytes
        async for chunk in request.stream():
            length += len(chunk)
            if length <= limit:
                body += chunk
            elif length > 4 * limit:  # up to there it is read, since clients look for an answer once they have sent all
                break
        if length > limit:
            raise TooLarge(f"the request has more than the {limit:,} bytes allowed; send fewer or smaller pictures")
        return bytes(body)

    async def _once(self, request: Request, endpoint: str, parse: Parse, content: bytes) -> tuple[dict[str, Any], ...]:
        def work() -> Coroutine[Any, Any, tuple[dict[str, Any], ...]]:
            return self._judge(endpoint, parse, content)

        name = request.headers.get(IDEMPOTENCY_HEADER)
        if name is None:
            return await work()
        if not 0 < len(name) <= 256:
            raise BodyError(f"{IDEMPOTENCY_HEADER} must have 1 to 256 characters")
        fingerprint = hashlib.blake2b(content, digest_size=16, person=endpoint.encode()).digest()
        judgements, known = await self._answered.once(name, fingerprint, work)
        if known:
            self._repeated.inc()
        return judgements

    async def _judge(self, endpoint: str, parse: Parse, content: bytes) -> tuple[dict[str, Any], ...]:
        asked = await asyncio.to_thread(parse, content, self._limits, self._own)
        answers = await asyncio.gather(*(self._answer(item) for item in asked))
        if count := sum(item.judgement is not None for item in answers):
            self._judgements.inc(count, tags={"endpoint": endpoint})
        judgements = []
        for index, (question, item) in enumerate(zip(asked, answers, strict=True)):
            if item.judgement is None:
                raise Unanswerable(item.kind, f"candidate {index}: {item.problem}")
            own = replace(item.judgement, candidate=index, reference=question.reference_index)
            judgements.append(own.as_dict())
        return tuple(judgements)

    async def _answer(self, asked: Asked) -> Answer:
        """One question, put to another replica where one dies over it."""
        for attempt in range(_ATTEMPTS):
            try:
                return await self._judges.answer.remote(asked)
            except RayActorError:
                self._again.inc()
                if attempt == _ATTEMPTS - 1:
                    raise
                await asyncio.sleep(0.1 * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    async def _about(self) -> dict[str, Any]:
        if not self._known:
            self._known = await self._judges.about.remote()
        return self._known


def build(
    model: str | None = None,
    quantization: str | None = None,
    device: str | None = None,
    replicas: int = 1,
    max_replicas: int | None = None,
    cpus: float = 1.0,
    gpus: float = 0.0,
    batch_size: int = 16,
    batch_wait: float = 0.02,
    limits: Limits = Limits(),
    api_key: str | None = None,
    instructions: Mapping[str, Instruction] | None = None,
) -> serve.Application:
    """A reward model as an application of Ray Serve, for :func:`run` or `serve.run(..., name=NAME)`.

    Args:
        model: a folder (on every machine of the cluster) or a hub id; None is the nano model.
        quantization: see :meth:`RewardModel.from_pretrained`.
        device: where each replica runs; by default its GPU if it has one.
        replicas: how many copies of the model; with `max_replicas`, the fewest.
        max_replicas: let Ray Serve add replicas up to this many while there is more to do than they manage.
        cpus: CPU cores for each replica.
        gpus: GPUs for each replica; a half lets two share one.
        batch_size: the most questions judged in one call.
        batch_wait: seconds that the first question of a batch waits for others.
        limits: how much one request may ask.
        api_key: what clients must send as a bearer token; None lets everyone in.
        instructions: your own, by name, beside the presets.

    Raises:
        InstructionError: an example picture that cannot be read.
    """
    options: dict[str, Any] = {
        "max_queued_requests": _QUEUE,
        "graceful_shutdown_timeout_s": 5,
        "max_ongoing_requests": 4 * batch_size,
        "ray_actor_options": {"num_cpus": cpus, "num_gpus": gpus},
    }
    if max_replicas is None:
        options["num_replicas"] = replicas
    else:
        options["autoscaling_config"] = {
            "min_replicas": replicas,
            "max_replicas": max_replicas,
            "target_ongoing_requests": 2 * batch_size,
        }
    judges = serve.deployment(name=JUDGE, **options)(Judge).bind(
        anywhere(model), quantization, device, batch_size, batch_wait
    )
    own = {name: Recipe.of(by) for name, by in (instructions or {}).items()}
    door = serve.deployment(name=INGRESS, max_ongoing_requests=100, ray_actor_options={"num_cpus": 0})
    return door(Ingress).bind(judges, limits, api_key, own)


def run(application: serve.Application, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Start an application on the Ray that this process is connected to, and return once it answers.

    Raises:
        ModelError: the model cannot be loaded.
    """
    serve.start(http_options={"host": host, "port": port})
    try:
        serve.run(application, name=NAME)
    except RuntimeError as error:
        serve.shutdown()
        raise told_by_worker(error) from error
