from __future__ import annotations

import shutil

import pytest
from page_processes import served


@pytest.fixture(scope="session")
def votes_file(tmp_path_factory):
    return tmp_path_factory.mktemp("arena") / "votes.sqlite"


@pytest.fixture(scope="session")
def page_url(votes_file):
    with served("--votes", votes_file, "--max-samples", 8, "--max-upload", 1) as (url, _):
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
