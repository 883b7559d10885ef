from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / "example_workflows").glob("*.json"))
EXTRAS = {"httpx>=0.27", "peft>=0.17", "pyyaml>=6"}
LOCALES = {name: json.loads((ROOT / "locales" / name / "nodeDefs.json").read_text("utf-8")) for name in ("en", "zh")}


def test_the_root_of_the_pack_does_nothing_outside_of_comfyui():
    code = "import sys; sys.path[:0] = [{!r}]; import {}; print(sorted({{'torch', 'comfy_nodes'}} & set(sys.modules)))"
    found = subprocess.run(
        [sys.executable, "-c", code.format(str(ROOT.parent), ROOT.name)], capture_output=True, text=True, check=True
    )
    assert found.stdout == "[]\n"


def test_requirements_are_those_of_the_package_without_torch_and_with_what_servers_and_training_need():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needed = {line for line in project["dependencies"] if not line.startswith("torch")}
    assert {line for lines in project["optional-dependencies"].values() for line in lines} >= EXTRAS
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    assert {line for line in lines if line and not line.startswith("#")} == needed | EXTRAS


def test_install_says_so_when_it_is_run_with_a_python_that_is_not_comfyuis(tmp_path):
    venv.create(tmp_path / "bare", with_pip=False)
    python = tmp_path / "bare" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    found = subprocess.run([python, ROOT / "install.py"], capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert "has no torch, so it is not ComfyUI's Python" in found.stdout


def test_both_languages_name_the_same_things():
    assert outline(LOCALES["zh"]) == outline(LOCALES["en"])


def outline(node):
    return {key: outline(value) for key, value in node.items()} if isinstance(node, dict) else None


def test_every_node_has_a_help_page():
    pages = (ROOT / "comfy_nodes" / "web" / "docs").glob("*.md")
    assert {page.stem for page in pages} == set(LOCALES["en"])


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda file: file.stem)
def test_every_example_has_a_preview_and_an_api_form_of_the_same_nodes(workflow):
    drawn = json.loads(workflow.read_text("utf-8"))
    asked = json.loads((workflow.parent / "api" / workflow.name).read_text("utf-8"))
    assert {str(node["id"]): node["type"] for node in drawn["nodes"]} == {
        key: node["class_type"] for key, node in asked.items()
    }
    assert any(node["class_type"] in LOCALES["en"] for node in asked.values())
    with Image.open(workflow.with_suffix(".jpg")) as preview:
        assert min(preview.size) > 400


def test_the_icon_is_a_square_of_the_size_that_the_registry_takes():
    icon = ElementTree.parse(ROOT / "comfy_nodes" / "web" / "icon.svg").getroot()
    assert icon.get("width") == icon.get("height") == "400"  # at most 800 x 400
