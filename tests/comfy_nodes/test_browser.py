"""The frontend in a real, headless Chromium: CHROMIUM names its file, if it is not on the path."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.comfyui

WORKFLOWS = sorted((Path(__file__).parents[2] / "example_workflows").glob("*.json"))
READY = "() => window.app?.graph && window.app.extensionManager && window.LiteGraph.registered_node_types.KSampler"


@pytest.fixture(scope="module")
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright to test the frontend")
    file = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not file:
        pytest.skip("set CHROMIUM to a Chromium to test the frontend")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=file, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def wrong():
    """What went wrong in the pack's files, in any page."""
    return []


@pytest.fixture(scope="module")
def opened(chromium, comfyui, wrong):
    """Opens the frontend in a language."""

    def open_page(locale):
        comfyui.http.post("/settings", json={"Comfy.TutorialCompleted": True, "Comfy.Locale": locale})
        page = chromium.new_page(viewport={"width": 1600, "height": 900})
        page.on("console", lambda said: wrong.append(said.text) if concerns_pack(said) else None)
        page.on("pageerror", lambda error: wrong.append(error.stack) if "rewarddance" in (error.stack or "") else None)
        page.goto(comfyui.url)
        page.wait_for_function(READY, timeout=120_000)
        return page

    return open_page


@pytest.fixture(scope="module")
def english(opened):
    return opened("en")


@pytest.fixture
def page(english, wrong):
    yield english
    assert not wrong


def concerns_pack(said):
    return said.type in ("error", "warning") and "rewarddance" in (said.text + said.location.get("url", "")).lower()


def load(page, file):
    page.evaluate("async graph => { await app.loadGraphData(graph) }", json.loads(file.read_text("utf-8")))


def workflow(name):
    [file] = [file for file in WORKFLOWS if file.stem == name]
    return file


def run(page, name, shown):
    load(page, workflow(name))
    page.wait_for_function("shown => !document.querySelector(shown)", arg=shown)  # that of the workflow before is gone
    page.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_selector(shown, timeout=120_000)


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_an_example_asks_for_what_its_api_form_says(page, file):
    load(page, file)
    asked = page.evaluate("async () => (await app.graphToPrompt()).output")
    expected = json.loads((file.parent / "api" / file.name).read_text("utf-8"))
    assert {key: (node["class_type"], node["inputs"]) for key, node in asked.items()} == {
        key: (node["class_type"], node["inputs"]) for key, node in expected.items()
    }


def test_best_of_n_ranks_candidates_marks_what_it_keeps_and_shows_all_again_after_a_change_of_tabs(page, tmp_path):
    run(page, "best-of-16", ".rewarddance-card")
    cards = page.locator(".rewarddance-card")
    assert cards.count() == 16
    kept = [rank for rank in range(16) if "rewarddance-kept" in cards.nth(rank).get_attribute("class")]
    assert kept == [0, 1, 2, 3]
    values = [float(text.split()[1]) for text in page.locator(".rewarddance-value").all_inner_texts()]
    assert values == sorted(values, reverse=True)
    page.wait_for_function(
        "() => [...document.querySelectorAll('.rewarddance-card img')].every(picture => picture.naturalWidth === 64)"
    )
    page.screenshot(path=tmp_path / "best-of-16.png")
    page.evaluate("() => app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    page.wait_for_function("() => !document.querySelector('.rewarddance-card') && app.graph._nodes.length === 0")
    page.locator(".workflow-tab").nth(-2).click()
    page.wait_for_function("() => document.querySelectorAll('.rewarddance-card').length === 16", timeout=60_000)


def test_compare_shows_both_pictures_the_reward_and_the_reasons(page, tmp_path):
    run(page, "compare-with-reasons", ".rewarddance-bar")
    page.wait_for_function(
        "() => [...document.querySelectorAll('.rewarddance-stage img')].map(each => each.naturalWidth) == '64,64'"
    )
    words = page.locator(".rewarddance-words").inner_text()
    reward = float(words.split("= ")[1])
    assert words.startswith("A is better" if reward > 0.5 else "B is better")
    assert len(page.locator(".rewarddance-text").inner_text().split()) > 5
    over = page.locator(".rewarddance-stage img").nth(1)
    before = over.evaluate("picture => getComputedStyle(picture).clipPath")
    page.locator(".rewarddance-handle").fill("80")
    after = over.evaluate("picture => getComputedStyle(picture).clipPath")
    assert ("50%" in before) and ("20%" in after)
    page.screenshot(path=tmp_path / "compare.png")


def test_what_is_shown_is_no_part_of_the_saved_workflow(page):
    load(page, workflow("compare-with-reasons"))
    [node] = [
        item
        for item in page.evaluate("() => JSON.parse(JSON.stringify(app.graph.serialize())).nodes")
        if item["type"] == "RewardDanceCompare"
    ]
    assert node["widgets_values"] == ["", True, True]


def test_chinese_users_read_chinese(opened):
    page = opened("zh")
    title = page.evaluate("() => window.LiteGraph.registered_node_types.RewardDanceCompare.title")
    assert title == "比较"


def test_examples_previews_and_help_pages_are_served(comfyui):
    assert set(comfyui.get("/workflow_templates")["rewarddance"]) == {file.stem for file in WORKFLOWS}
    for file in WORKFLOWS:
        found = comfyui.http.get(f"/api/workflow_templates/rewarddance/{file.stem}.jpg")
        assert found.headers["content-type"] == "image/jpeg"
    page = comfyui.http.get("/extensions/rewarddance/docs/RewardDanceCompare.md")
    assert page.text.startswith("# Compare")


def test_english_texts_are_those_of_the_nodes(comfyui):
    told = comfyui.get("/i18n")["en"]["nodeDefs"]
    for name, item in comfyui.get("/object_info").items():
        if not name.startswith("RewardDance"):
            continue
        given = {**item["input"].get("required", {}), **item["input"].get("optional", {})}
        assert told[name]["display_name"] == item["display_name"]
        assert told[name]["description"] == item["description"]
        assert {key: entry["tooltip"] for key, entry in told[name].get("inputs", {}).items()} == {
            key: options["tooltip"] for key, (_, options) in given.items()
        }
        named = [(entry["name"], entry["tooltip"]) for entry in told[name]["outputs"].values()]
        assert named == list(zip(item["output_name"], item["output_tooltips"], strict=True))
