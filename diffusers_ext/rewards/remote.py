"""A judge on another machine, asked over HTTP: `rewarddance serve` at the other end.

What any HTTP judge needs stands here too: a :class:`Connection` that retries, and :func:`gather`, which keeps several
requests under way and loses nothing of what came back.
"""

from __future__ import annotations

import base64
import io
import json
import math
import random
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from .arguments import check_batch_size, check_count, judging, prompts_for
from .errors import Cancelled, ImageError, InstructionError, ModelError, PromptTextError, RewardDanceError
from .images import as_images, load_image
from .instructions import DEFAULT_INSTRUCTION, Example, Instruction
from .judgement import Judgement, sigmoid

if TYPE_CHECKING:
    from types import TracebackType

    from PIL import Image

    from .images import ImageInput

IDEMPOTENCY_HEADER: Final = "Idempotency-Key"
"""Names a request, so that a server that has answered it before does not do so again."""
TOO_LARGE: Final = 413
_TOO_MANY: Final = 429
_BACKOFF: Final = 0.25
_LONGEST_BACKOFF: Final = 20.0
_PATIENCE: Final = 0.05
_ANSWER_BYTES: Final = 64 * 2**20
_TOLERANCE: Final = 1e-3
_KINDS: Final[dict[str, type[RewardDanceError]]] = {
    kind.__name__: kind for kind in (ImageError, InstructionError, ModelError, PromptTextError)
}


class RemoteError(ModelError):
    """A server that cannot be reached, refuses, or answers what cannot be.

    Attributes:
        judged: what it had judged by then, by the index of the candidate. None of it is lost.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.judged: dict[int, Judgement] = {}


class Refused(RemoteError):
    """A request that the server will not answer, however often it is sent.

    Attributes:
        status: the HTTP status, from 300 to 499.
        kind: the name of the error, if the server gave one.
        reason: what the server said.
    """

    def __init__(self, url: str, status: int, kind: str, reason: str) -> None:
        hint = " Give the server's API key." if status in (401, 403) else ""
        super().__init__(f"{url}: refused with status {status} ({reason or 'no reason given'}).{hint}")
        self.status, self.kind, self.reason = status, kind, reason


class Connection:
    """JSON over HTTP to one server, tried again where that can help. Threads may share it.

    Connection errors, time-outs, answers that break off, and the statuses 429 and 5xx are tried again, after pauses
    that double each time and are drawn at random (or as long as the server's `Retry-After` asks for). Nothing else is.
    """

    def __init__(self, url: str, api_key: str | None = None, timeout: float = 60.0, retries: int = 4) -> None:
        """Name a server; nothing is sent yet.

        Args:
            url: ``http://host:port``, or with https, and maybe a path.
            api_key: sent as a bearer token.
            timeout: seconds for one attempt, from sending to the last byte of the answer.
            retries: how often to try again.

        Raises:
            ModelError: not a URL, a time-out or a number of retries that makes no sense, or no httpx.
        """
        try:
            import httpx
        except ImportError as error:
            raise ModelError("a judge on a server needs httpx: pip install 'rewarddance[serve]'") from error
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ModelError(f"{url!r}: not a URL ({error}); expected http://host:port") from error
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ModelError(f"{url!r}: not the URL of a server; expected http://host:port")
        if not 0 < timeout < math.inf or retries < 0:
            raise ModelError(f"timeout must be above zero and retries at least zero, not {timeout} and {retries}")
        if api_key is not None and not api_key.isprintable():
            raise ModelError("the API key holds characters that no header can carry; is it more than one line?")
        self.url = url.rstrip("/")
        self._timeout, self._retries = timeout, retries
        headers = {b"Authorization": f"Bearer {api_key}".encode()} if api_key else {}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=16)
        self._client = httpx.Client(headers=headers, timeout=timeout, limits=limits)

    def close(self) -> None:
        """Let go of the sockets."""
        self._client.close()

    def get(self, path: str) -> Any:
        """The JSON at a path."""
        return self._ask("GET", path, None, {}, None)

    def post(self, path: str, body: Mapping[str, Any], stop: threading.Event | None = None) -> Any:
        """Send JSON to a path, and return the JSON that comes back.

        All attempts of one call bear the same idempotency key.

        Args:
            path: begins with a slash.
            body: what to send.
            stop: once set, nothing is tried again.

        Raises:
            Refused: the server will not have this request.
            RemoteError: no answer after all attempts, or one that is not JSON.
            Cancelled: `stop` was set.
        """
        content = json.dumps(body).encode()
        headers = {"Content-Type": "application/json", IDEMPOTENCY_HEADER: str(uuid.uuid4())}
        return self._ask("POST", path, content, headers, stop)

    def _ask(
        self, method: str, path: str, content: bytes | None, headers: dict[str, str], stop: threading.Event | None
    ) -> Any:
        import httpx

        url, stop = self.url + path, stop or threading.Event()
        pause, complaint = 0.0, ""
        for attempt in range(self._retries + 1):
            if stop.wait(pause):
                raise Cancelled(f"{url}: not tried again, as asked")
            pause = min(_LONGEST_BACKOFF, _BACKOFF * 2**attempt) * random.uniform(0.5, 1.5)
            try:
                status, asked, answer = self._exchange(method, url, content, headers)
            except httpx.TimeoutException:
                complaint = f"no answer within {self._timeout:g} seconds"
            except httpx.TransportError as error:
                complaint = str(error) or type(error).__name__
            except httpx.DecodingError as error:
                raise RemoteError(f"{url}: the answer cannot be decoded ({error})") from error
            else:
                if status == _TOO_MANY or status >= 500:
                    complaint = f"status {status}, {_reason(answer)[1] or 'no reason given'}"
                    pause = min(_LONGEST_BACKOFF, asked) if asked is not None else pause
                elif status != 200:
                    raise Refused(url, status, *_reason(answer))
                else:
                    return _json(url, answer)
        tries = "once" if self._retries == 0 else f"{self._retries + 1} times"
        raise RemoteError(f"{url}: asked {tries}, and never got an answer; the last time: {complaint}")

    def _exchange(
        self, method: str, url: str, content: bytes | None, headers: dict[str, str]
    ) -> tuple[int, float | None, bytes]:
        """One attempt: the status, the seconds of `Retry-After`, and the body."""
        import httpx

        deadline = time.monotonic() + self._timeout
        body = bytearray()
        with self._client.stream(method, url, content=content, headers=headers) as response:
            for chunk in response.iter_bytes():
                body += chunk
                if time.monotonic() > deadline:  # httpx bounds the time between two pieces only
                    raise httpx.ReadTimeout("too slow")
                if len(body) > _ANSWER_BYTES:
                    raise RemoteError(f"{url}: the answer is longer than {_ANSWER_BYTES:,} bytes")
            return response.status_code, _seconds(response.headers.get("Retry-After")), bytes(body)


def _seconds(header: str | None) -> float | None:
    return float(header) if header is not None and header.isdecimal() else None


def _json(url: str, answer: bytes) -> Any:
    try:
        return json.loads(answer)
    except (ValueError, RecursionError) as error:
        raise RemoteError(f"{url}: the answer is not JSON ({error}); is this the right server?") from error


def _reason(answer: bytes) -> tuple[str, str]:
    """Kind and message of an error, in the forms that servers give them."""
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):
        return "", answer[:200].decode("utf-8", "replace")
    if isinstance(found, dict):
        found = found.get("error", found)
    if isinstance(found, dict):
        return str(found.get("type", "")), str(found.get("message") or found.get("detail") or "")[:1000]
    return "", str(found)[:200]


def gather(
    ask: Callable[[range, threading.Event], list[Judgement]],
    parts: Sequence[range],
    concurrency: int,
    progress: bool,
    cancel: Callable[[], bool] | None,
) -> list[Judgement]:
    """Have all parts judged, several at a time.

    Args:
        ask: judges one part in a thread of its own; told to stop by the event.
        parts: ranges of indices that follow each other, from zero.
        concurrency: how many parts are under way at a time.
        progress: show progress on stderr.
        cancel: asked between parts.

    Raises:
        RemoteError: a part failed; `judged` of the error holds what was judged before.
        Cancelled: `cancel` returned true.
    """
    count, stop = parts[-1].stop, threading.Event()
    judged: dict[int, Judgement] = {}
    pool = ThreadPoolExecutor(min(concurrency, len(parts)))
    try:
        _stop_if(cancel, 0, count)
        waiting = {pool.submit(ask, part, stop): part for part in parts}
        with judging(count, progress) as advance:
            while waiting:
                done, _ = wait(waiting, _PATIENCE, FIRST_COMPLETED)
                for future in sorted(done, key=_failed):  # what went well is kept before an error is raised
                    part = waiting.pop(future)
                    judged.update(zip(part, future.result(), strict=True))
                    advance(len(part))
                if waiting:
                    _stop_if(cancel, len(judged), count)
    except RemoteError as error:
        error.judged = judged
        raise
    finally:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
    return [judged[index] for index in range(count)]


def _stop_if(cancel: Callable[[], bool] | None, judged: int, count: int) -> None:
    if cancel is not None and cancel():
        raise Cancelled(f"stopped as asked, after {judged} of {count} judgements")


def _failed(future: Future[list[Judgement]]) -> bool:
    return future.exception() is not None


def encoded(image: Image.Image) -> str:
    """A picture as base64 of a PNG: what comes out is what went in, to the pixel."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode()


def instruction_record(by: Instruction) -> dict[str, Any]:
    """An instruction as JSON values, its pictures within."""
    examples = [_example_record(example) for example in by.examples]
    return {"name": by.name, "text": by.text, "criteria": list(by.criteria), "task": by.task, "examples": examples}


def _example_record(example: Example) -> dict[str, Any]:
    return {
        "prompt": example.prompt,
        "candidate": encoded(load_image(example.candidate)),
        "verdict": example.verdict,
        "reference": None if example.reference is None else encoded(load_image(example.reference)),
    }


class RemoteRewardModel:
    """A :class:`~diffusers_ext.RewardModel` behind `rewarddance serve`.

    It gives the same rewards, takes the same arguments and raises the same errors. Requests are named, so that one
    that is sent twice because its answer was lost is judged and counted once.

    Example:
        >>> judge = RemoteRewardModel("http://localhost:8000")
        >>> rank(["a.png", "b.png"], "a photo of a red star", judge, method="knockout")
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        timeout: float = 60.0,
        retries: int = 4,
        batch_size: int = 8,
        concurrency: int = 4,
    ) -> None:
        """Name a server; nothing is sent before the first question.

        Args:
            url: where it is, ``http://host:port``.
            api_key: its key, if it wants one.
            timeout: seconds for one attempt at a request.
            retries: how often a request is tried again after connection errors, time-outs and the statuses 429 and 5xx.
            batch_size: pictures (or pairs) per request. Where the server finds that too much, they are sent in halves.
            concurrency: requests under way at a time, to keep all replicas busy.

        Raises:
            ModelError: not a URL, or settings that make no sense.
        """
        if batch_size < 1 or concurrency < 1:
            raise ModelError(f"batch_size and concurrency must be at least 1, not {batch_size} and {concurrency}")
        self._connection = Connection(url, api_key, timeout, retries)
        self._batch_size, self._concurrency = batch_size, concurrency

    @cached_property
    def name(self) -> str:
        """What the model at the other end is called.

        Raises:
            RemoteError: the server cannot be reached.
        """
        found = self._connection.get("/health")
        if not isinstance(found, dict) or not isinstance(found.get("model"), str):
            raise RemoteError(f"{self._connection.url}: says nothing of its model; is it a `rewarddance serve`?")
        return found["model"]

    def close(self) -> None:
        """Let go of the sockets."""
        self._connection.close()

    def __enter__(self) -> RemoteRewardModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def score(
        self,
        images: ImageInput | Sequence[ImageInput],
        prompt: str | Sequence[str],
        instruction: str | Instruction = DEFAULT_INSTRUCTION,
        explain: bool = False,
        batch_size: int | None = None,
        progress: bool = False,
        cancel: Callable[[], bool] | None = None,
    ) -> list[Judgement]:
        """Judge each picture on its own; see :meth:`RewardModel.score`.

        Args:
            images: one or several: PIL images, paths, or float tensors [3, H, W] / [B, 3, H, W] in [0, 1].
            prompt: what they were to show; one for all, or one each.
            instruction: a name that the server knows, or a record.
            explain: have the model write a chain of thought before its verdict.
            batch_size: pictures per request.
            progress: show progress on stderr.
            cancel: asked while answers are awaited; once it returns true, :class:`Cancelled` is raised.

        Raises:
            ImageError, PromptTextError, InstructionError: as in process.
            RemoteError: the server cannot be reached, refuses, or answers what cannot be.
        """
        candidates = as_images(images)
        asked = prompts_for(prompt, len(candidates))
        common = {"instruction": _named(instruction), "explain": explain}

        def body(part: range) -> dict[str, Any]:
            shown = [encoded(candidates[index]) for index in part]
            return {"images": shown, "prompt": [asked[index] for index in part], **common}

        expected = [
            Judgement(0.0, "", (), index, None, "" if explain else None, False) for index in range(len(candidates))
        ]
        return self._judge("/score", body, expected, batch_size, progress, cancel)

    def compare(
        self,
        candidates: ImageInput | Sequence[ImageInput],
        reference: ImageInput | Sequence[ImageInput],
        prompt: str | Sequence[str],
        instruction: str | Instruction = DEFAULT_INSTRUCTION,
        debias: bool = True,
        explain: bool = False,
        batch_size: int | None = None,
        progress: bool = False,
        cancel: Callable[[], bool] | None = None,
    ) -> list[Judgement]:
        """Judge each candidate against a reference; see :meth:`RewardModel.compare`.

        Args:
            candidates: one or several, as in :meth:`score`.
            reference: one for all, or one each.
            prompt: what they were to show; one for all, or one each.
            instruction: a name that the server knows, or a record.
            debias: ask both orders and average the log-odds, so that the rewards of (a, b) and (b, a) add up to one.
            explain: have the model write a chain of thought before its verdict.
            batch_size: pairs per request.
            progress: show progress on stderr.
            cancel: asked while answers are awaited; once it returns true, :class:`Cancelled` is raised.

        Raises:
            ImageError, PromptTextError, InstructionError: as in process.
            RemoteError: the server cannot be reached, refuses, or answers what cannot be.
        """
        judged, against = as_images(candidates), as_images(reference)
        check_count(len(against), len(judged))
        asked = prompts_for(prompt, len(judged))
        common = {"instruction": _named(instruction), "explain": explain, "debias": debias}

        def body(part: range) -> dict[str, Any]:
            shown = {
                "candidates": [encoded(judged[index]) for index in part],
                "reference": [encoded(against[index]) for index in part] if len(against) > 1 else encoded(against[0]),
            }
            return {**shown, "prompt": [asked[index] for index in part], **common}

        expected = [
            Judgement(0.0, "", (), index, index if len(against) > 1 else 0, "" if explain else None, debias)
            for index in range(len(judged))
        ]
        return self._judge("/compare", body, expected, batch_size, progress, cancel)

    def _judge(
        self,
        path: str,
        body: Callable[[range], dict[str, Any]],
        expected: Sequence[Judgement],
        batch_size: int | None,
        progress: bool,
        cancel: Callable[[], bool] | None,
    ) -> list[Judgement]:
        check_batch_size(batch_size)
        size, count = batch_size or self._batch_size, len(expected)

        def ask(part: range, stop: threading.Event) -> list[Judgement]:
            try:
                answer = self._connection.post(path, body(part), stop)
            except Refused as error:
                if error.status == TOO_LARGE and len(part) > 1:
                    half = len(part) // 2
                    return ask(part[:half], stop) + ask(part[half:], stop)
                if error.kind in _KINDS:
                    place = f"candidate {part[0]}" if len(part) == 1 else f"candidates {part[0]} to {part[-1]}"
                    raise _KINDS[error.kind](f"{place}: {error.reason}") from error
                raise
            return _checked(self._connection.url + path, answer, expected[part.start : part.stop])

        parts = [range(start, min(start + size, count)) for start in range(0, count, size)]
        return gather(ask, parts, self._concurrency, progress, cancel)


def _named(instruction: str | Instruction) -> str | dict[str, Any]:
    return instruction if isinstance(instruction, str) else instruction_record(instruction)


def _checked(url: str, answer: Any, expected: Sequence[Judgement]) -> list[Judgement]:
    """Judgements out of an answer, once it is certain that they are those asked for."""
    items = answer.get("judgements") if isinstance(answer, dict) else None
    if not isinstance(items, list) or len(items) != len(expected):
        found = f"{len(items)} judgements" if isinstance(items, list) else "no judgements"
        raise RemoteError(f"{url}: answered with {found} where {len(expected)} were asked for")
    return [_judgement(url, item, own, index) for index, (item, own) in enumerate(zip(items, expected, strict=True))]


def _judgement(url: str, item: Any, expected: Judgement, index: int) -> Judgement:
    def check(right: bool, what: str) -> None:
        if not right:
            raise RemoteError(f"{url}: judgement {index} of the answer cannot be right: {what}")

    check(isinstance(item, dict), f"it is no object but {str(item)[:80]}")
    value, reward = item.get("log_odds"), item.get("reward")
    check(is_finite(value), f"its log-odds are {value!r}")
    near = is_finite(reward) and abs(reward - sigmoid(value)) <= _TOLERANCE
    check(near, f"its reward is {reward!r}, and log-odds of {value!r} do not give that")
    check(item.get("candidate") == index, f"it is of candidate {item.get('candidate')!r}")
    criteria, explanation, debiased = item.get("criteria"), item.get("explanation"), item.get("debiased")
    named = isinstance(item.get("instruction"), str) and isinstance(criteria, list)
    check(named and all(isinstance(name, str) for name in criteria), "it does not say what it was judged by")
    explained = isinstance(explanation, str) if expected.explanation is not None else explanation is None
    check(explained, f"its explanation is {str(explanation)[:80]!r}")
    check(debiased is expected.debiased, f"whether it is debiased is {debiased!r}")
    check((item.get("reference") is None) is (expected.reference is None), "it is of the other kind of question")
    return Judgement(
        float(value),
        item["instruction"],
        tuple(criteria),
        expected.candidate,
        expected.reference,
        explanation,
        expected.debiased,
    )


def is_finite(value: Any) -> bool:
    """Whether it is a number that can be reckoned with."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
