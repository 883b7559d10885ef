"""What every judge behind HTTP needs: a connection that tries again, and several requests under way at a time."""

from __future__ import annotations

import json
import math
import random
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Final

from .arguments import judging
from .errors import Cancelled, ModelError
from .judgement import Judgement

IDEMPOTENCY_HEADER: Final = "Idempotency-Key"
"""Names a request, so that a server that has answered it before does not do so again."""
TOO_LARGE: Final = 413
_TOO_MANY: Final = 429
_BACKOFF: Final = 0.25
_LONGEST_BACKOFF: Final = 20.0
_PATIENCE: Final = 0.05
_ANSWER_BYTES: Final = 64 * 2**20


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


def is_finite(value: Any) -> bool:
    """Whether it is a number that can be reckoned with."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
