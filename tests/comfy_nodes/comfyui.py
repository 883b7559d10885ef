"""A real ComfyUI with the pack in it, and a client that runs graphs there.

COMFYUI_PATH names the folder of one, COMFYUI_PYTHON its Python (by default the one that runs the tests), into which
`install.py` put the package. A server is started on the CPU in a folder of its own, with nothing in it but this pack
and a node of the tests' own.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
PACK = "rewarddance"
TINY = Path(__file__).with_name("tiny_ltxv.py")
API_KEY = "secret"
PROMPT = "a photo of a red star and a blue circle"


@dataclass(frozen=True)
class Run:
    """What became of a prompt."""

    status: str
    outputs: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]

    @property
    def error(self) -> dict[str, Any]:
        [found] = [event for name, event in self.events if name == "execution_error"]
        return found

    @property
    def cached(self) -> set[str]:
        return {node for name, event in self.events if name == "execution_cached" for node in event["nodes"]}


class Refused(Exception):
    """The server would not take a graph; `errors` are its nodes' messages."""

    def __init__(self, answer: dict[str, Any]) -> None:
        nodes = answer.get("node_errors", {})
        self.errors = {key: [item["details"] for item in node["errors"]] for key, node in nodes.items()}
        super().__init__(str(answer))


class ComfyUI:
    def __init__(self, url: str, folder: Path, process: int) -> None:
        self.url, self.folder, self.process = url, folder, process
        self.http = httpx.Client(base_url=url, timeout=60)

    @property
    def log(self) -> str:
        return (self.folder / "server.log").read_text(encoding="utf-8", errors="replace")

    def get(self, path: str) -> Any:
        return self.http.get(path).raise_for_status().json()

    def queue(self, graph: dict[str, Any]) -> str:
        answer = self.http.post("/prompt", json={"prompt": graph}).json()
        if "prompt_id" not in answer or answer.get("node_errors"):
            raise Refused(answer)
        return answer["prompt_id"]

    def wait(self, number: str, seconds: float = 300) -> Run:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := self.get(f"/history/{number}").get(number):
                status = found["status"]
                return Run(status["status_str"], found["outputs"], [tuple(item) for item in status["messages"]])
            time.sleep(0.05)
        raise TimeoutError(self.log[-2000:])

    def run(self, graph: dict[str, Any]) -> Run:
        return self.wait(self.queue(graph))

    def upload(self, file: Path) -> str:
        with file.open("rb") as content:
            answer = self.http.post("/upload/image", files={"image": (file.name, content)}, data={"overwrite": "true"})
        return answer.json()["name"]

    def picture(self, saved: dict[str, str]) -> bytes:
        return self.http.get("/view", params=saved).raise_for_status().content

    def memory(self) -> float:
        """Resident memory of the server in MiB."""
        status = Path(f"/proc/{self.process}/status").read_text(encoding="utf-8")
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024


def missing() -> str | None:
    """Why there is no ComfyUI to test with, or None."""
    path = os.environ.get("COMFYUI_PATH")
    if not path:
        return "set COMFYUI_PATH to the folder of a ComfyUI (and COMFYUI_PYTHON to its Python) to test the node pack"
    return None if (Path(path) / "main.py").is_file() else f"COMFYUI_PATH is {path}, which holds no main.py"


@contextlib.contextmanager
def serving(folder: Path):
    for name in ("custom_nodes", "models/reward_models", "input", "output", "temp", "user"):
        (folder / name).mkdir(parents=True)
    (folder / "custom_nodes" / PACK).symlink_to(ROOT)
    (folder / "custom_nodes" / TINY.name).symlink_to(TINY)
    port = free_port()
    command = [os.environ.get("COMFYUI_PYTHON", sys.executable), "main.py", "--cpu", "--disable-api-nodes"]
    places = ["--base-directory", folder, "--database-url", f"sqlite:///{folder / 'user' / 'comfyui.db'}"]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *map(str, places), "--port", str(port)],
            cwd=os.environ["COMFYUI_PATH"],
            env={**os.environ, "REWARDDANCE_API_KEY": API_KEY},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        server = ComfyUI(f"http://127.0.0.1:{port}", folder, process.pid)
        _until_up(server, process)
        yield server
    finally:
        process.terminate()
        process.wait(30)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _until_up(server: ComfyUI, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise RuntimeError(f"ComfyUI ended at once:\n{server.log}")
        with contextlib.suppress(httpx.TransportError):
            server.get("/system_stats")
            return
        time.sleep(0.2)
    raise TimeoutError(f"ComfyUI did not start:\n{server.log}")


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def sampled() -> dict[str, Any]:
    """The node that joins "noise", "guider", "sampler" and "sigmas", for the latents of "empty"."""
    parts = {name: [name, 0] for name in ("noise", "guider", "sampler", "sigmas")}
    return node("SamplerCustomAdvanced", **parts, latent_image=["empty", 0])


def saved(comfyui: ComfyUI, run: Run, name: str = "saved") -> np.ndarray:
    """The pictures that a node has saved: [B, H, W, 3] in [0, 255]."""
    shown = [Image.open(io.BytesIO(comfyui.picture(item))) for item in run.outputs[name]["images"]]
    return np.stack([np.asarray(picture, float) for picture in shown])
