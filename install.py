"""Installs RewardDance into the Python that runs this file, which should be ComfyUI's; ComfyUI-Manager runs it so.

Torch, torchvision and torchaudio stay exactly as they are. What is there already is left alone, so running it again
changes nothing and needs no network.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, distributions, version
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent
TORCH = ("torch", "torchvision", "torchaudio")


def main() -> int:
    """Install what is missing; 0 if all is there in the end."""
    held = [f"{name}=={found}" for name in TORCH if (found := _version(name))]
    if not held or not held[0].startswith("torch=="):
        print(f"RewardDance: {sys.executable} has no torch, so it is not ComfyUI's Python; run this file with that one")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join(held) + "\n", encoding="utf-8")
        if _install("-r", str(ROOT / "requirements.txt"), "-c", str(constraints)) != 0:
            return _failed("its requirements")
    print(f"RewardDance: all requirements are there; {', '.join(held)} left as they are")
    if _is_installed():
        print("RewardDance: was installed already; restart ComfyUI if it is running")
        return 0
    # With a setuptools that can build it, nothing has to be fetched for the build.
    own = () if int((_version("setuptools") or "0").split(".")[0]) < 77 else ("--no-build-isolation",)
    if _install("--no-deps", *own, "-e", str(ROOT)) != 0:
        return _failed("the package itself")
    print(f"RewardDance: installed from {ROOT}; restart ComfyUI if it is running")
    return 0


def _install(*arguments: str) -> int:
    uv = shutil.which("uv")
    if find_spec("pip"):
        command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    elif uv:  # environments made by uv have no pip
        command = [uv, "pip", "install", "--python", sys.executable, "--quiet"]
    else:
        print("RewardDance: this Python has no pip; python -m ensurepip gives it one")
        return 1
    return subprocess.run([*command, *arguments], check=False).returncode


def _failed(what: str) -> int:
    print(f"RewardDance: {what} could not be installed (see above); nothing was taken away, try again online")
    return 1


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _is_installed() -> bool:
    """Whether the package is here as a link to this very folder."""
    # More than one may be found: what builds the package leaves notes in this folder.
    notes = [found.read_text("direct_url.json") for found in distributions(name="rewarddance")]
    origins = [json.loads(note) for note in notes if note]
    return any(item["url"] == ROOT.as_uri() and item.get("dir_info", {}).get("editable") for item in origins)


if __name__ == "__main__":
    sys.exit(main())
