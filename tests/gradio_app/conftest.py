from __future__ import annotations

import shutil

import pytest
from page_processes import served


@pytest.fixture(scope="session")
def votes_file(tmp_path_factory):
    return tmp_path_factory.mktemp("arena") / "votes.sqlite"


@pytest.fixture(scope="session")
def runs_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("training") / "runs"


QUICK = """
out: runs/quick
judges: [{instruction: alignment}]
rank: 4
alpha: 8
iterations: 4
groups: 2
group_size: 4
sampling_steps: 4
learning_rate: 0.01
evaluate_every: 2
evaluation_count: 4
evaluation_size: 2
evaluation_steps: 4
alarms: {stop: false}
"""
"""As short a run on the nano generator as there can be."""


@pytest.fixture(scope="session")
def page_url(votes_file, runs_folder):
    runs_folder.parent.mkdir(exist_ok=True)
    recipe = runs_folder.parent / "quick.yaml"
    recipe.write_text(QUICK, encoding="utf-8")
    options = ("--votes", votes_file, "--runs", runs_folder, "--recipe", recipe, "--max-samples", 8, "--max-upload", 1)
    with served(*options) as (url, _):
        yield url


@pytest.fixture(scope="session")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="tests in a browser need playwright")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found:
        pytest.skip("tests in a browser need chromium: apt-get install chromium")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()
