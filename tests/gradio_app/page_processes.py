from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import pytest


@contextmanager
def served(*options, start=(sys.executable, "-m", "gradio_app"), cwd=None, **environment):
    """The page as a real process, with no network but its own; gives its address and the process."""
    pytest.importorskip("gradio", reason="the page needs gradio: pip install 'rewarddance[gradio]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    surroundings = {**os.environ, "HF_HUB_OFFLINE": "1", "GRADIO_SERVER_PORT": str(port), **environment}
    process = subprocess.Popen([*start, *map(str, options)], env=surroundings, cwd=cwd)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert process.poll() is None, "the page did not start"
            try:
                urllib.request.urlopen(url, timeout=5)
                break
            except OSError:
                time.sleep(0.2)
        yield url, process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
