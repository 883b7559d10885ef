"""What runs in ComfyUI's Python without its server."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from comfyui import ROOT, missing

pytestmark = pytest.mark.comfyui

MANAGED = """
import gc, sys, weakref
sys.path[:0] = [{comfy!r}, {root!r}]
sys.argv = ["main.py", "--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import torch
from comfy import model_management
from comfy_nodes.judges import hold
from diffusers_ext.nano import DEFAULT_REWARD_MODEL

held = hold(DEFAULT_REWARD_MODEL, None, torch.device("cpu"))
picture = torch.rand(3, 64, 64)
ask = lambda: held.ready().score([picture], "a photo of a red star")[0].log_odds
first = ask()
[loaded] = model_management.loaded_models()
assert loaded is held.patcher
assert held.patcher.loaded_size() == sum(w.nbytes for w in held.judge.model.state_dict().values())
assert held.patcher.partially_unload(torch.device("cpu"), 1) == 0
model_management.unload_all_models()
assert model_management.loaded_models() == [] and held.patcher.loaded_size() == 0
assert ask() == first
gone = weakref.ref(held.judge.model)
del held, loaded
gc.collect()
assert gone() is None
print("managed")
"""


@pytest.fixture
def python():
    if reason := missing():
        pytest.skip(reason)
    return os.environ.get("COMFYUI_PYTHON", sys.executable)


def test_comfyui_counts_the_judge_unloads_it_and_forgets_it(python):
    code = MANAGED.format(comfy=os.environ["COMFYUI_PATH"], root=str(ROOT))
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd="/", check=False)
    assert found.stdout.endswith("managed\n"), found.stderr


def test_installing_again_changes_nothing_and_needs_no_network(python):
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    found = subprocess.run(
        [python, ROOT / "install.py"], capture_output=True, text=True, env={**os.environ, **nowhere}, check=False
    )
    assert found.returncode == 0, found.stderr
    assert "left as they are" in found.stdout
    assert "was installed already" in found.stdout
