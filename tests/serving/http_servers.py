from __future__ import annotations

import asyncio
import threading
import time
from contextlib import contextmanager

import uvicorn


@contextmanager
def running(app):
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


class Trouble:
    """Goes before a server, and does to each request in turn what a list says; after that it lets them pass."""

    def __init__(self, app, *troubles):
        self.app, self.troubles, self.seen = app, list(troubles), []

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        self.seen.append({name.decode(): value.decode() for name, value in scope["headers"]})
        trouble = self.troubles.pop(0) if self.troubles else None
        if trouble is None:
            await self.app(scope, receive, send)
            return
        while (await receive()).get("more_body"):
            pass
        await trouble(send)


def answering(status, content=b"", **headers):
    async def trouble(send):
        fields = [(name.replace("_", "-").encode(), str(value).encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": content})

    return trouble


async def hanging(send):
    await asyncio.sleep(30)


async def dripping(send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(100):
        await send({"type": "http.response.body", "body": b" ", "more_body": True})
        await asyncio.sleep(0.05)


async def breaking_off(send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
    await send({"type": "http.response.body", "body": b'{"judgements": [', "more_body": True})
    raise ConnectionResetError
