from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager

import httpx


def missing():
    """Why there is no vLLM to test with, or None."""
    path = os.environ.get("VLLM")
    if not path:
        return "set VLLM to the path of a `vllm` command to test with a real one (its CPU build will do)"
    return None if shutil.which(path) else f"VLLM is {path}, which is no command"


@contextmanager
def vllm(model, folder, *options):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [os.environ["VLLM"], "serve", model, "--host", "127.0.0.1", "--port", port, "--dtype", "float32"]
    offline = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    log = folder / "vllm.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*map(str, command), "--enforce-eager", "--max-model-len", "2048", "--max-num-seqs", "8", *options],
            env={**os.environ, **offline},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        until_up(url, process, log)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def until_up(url, process, log):
    for _ in range(600):
        if process.poll() is not None:
            break
        try:
            httpx.get(f"{url}/health").raise_for_status()
            return
        except httpx.TransportError:
            time.sleep(1)
    raise RuntimeError(f"vLLM did not start:\n{log.read_text(errors='replace')[-8000:]}")
