"""The page in a real headless Chromium."""

from __future__ import annotations

import time

import pytest

from diffusers_ext.data.votes import VoteStore

pytestmark = pytest.mark.slow
PATIENCE = 180_000
EVIL = (
    "<img src=x onerror=\"document.title='taken'\"> ${document.title='taken'} <script>document.title='taken'</script>"
)


@pytest.fixture
def page(chromium, page_url):
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(PATIENCE)
    page.broken, page.hosts = [], set()
    page.on("pageerror", lambda error: page.broken.append(str(error)))
    page.on("request", lambda request: page.hosts.add(request.url.split("/")[2]) if "//" in request.url else None)
    page.goto(page_url)
    page.locator("#compare-go").wait_for()
    yield page
    assert not page.broken
    assert {host for host in page.hosts if host} == {page_url.split("/")[2]}, "something was fetched from elsewhere"
    page.close()


def tab(page, name):
    page.get_by_role("tab", name=name).click()


WATCH = """() => {
  window.written = [];
  const look = () => document.querySelectorAll('.rd-writing pre').forEach((place) => written.push(place.innerText));
  new MutationObserver(look).observe(document.querySelector('#compare-result'), {childList: true, subtree: true});
}"""


def test_two_pictures_are_compared_and_explained_word_by_word(page):
    page.get_by_text("a photo of a green triangle").first.click()
    page.locator("#compare-b img").wait_for()
    page.get_by_label("video-reward-5m").locator("visible=true").check()
    page.get_by_label("Explain the first criterion").locator("visible=true").check()
    page.evaluate(WATCH)
    page.locator("#compare-go").click()
    page.locator(".rd-thought:not(.rd-writing)").nth(1).wait_for()
    parts = {part.removesuffix("▍") for part in page.evaluate("window.written")}
    whole = page.locator(".rd-thought pre").first.inner_text()
    assert any(part and whole.startswith(part) and part != whole for part in parts)
    assert page.locator(".rd-table tbody tr").count() == 5
    assert page.locator(".rd-headline").count() == 2
    assert "Candidate" in page.locator(".rd-thought").first.inner_text()
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(1000)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_videos_are_compared_and_played(page):
    page.get_by_role("tab", name="Videos").click()
    page.get_by_text("a video of a green circle moving up").first.click()
    page.locator("#compare-videos-b video").wait_for()
    page.wait_for_function("document.querySelector('#compare-videos-b video').readyState >= 2")
    page.locator("#compare-videos-go").click()
    page.locator("#compare-videos-result .rd-headline strong", has_text="B is better").wait_for()
    assert page.locator("#compare-videos-result .rd-table tbody tr").count() == 3


def test_a_result_is_shared_by_a_link(page, chromium):
    page.get_by_text("a photo of a white cross").first.click()
    page.locator("#compare-b img").wait_for()
    page.locator("#compare-go").click()
    page.locator(".rd-table").wait_for()
    shown = page.locator(".rd-table").inner_text()
    page.locator("#compare-result ~ *").get_by_text("Share", exact=True).first.click()
    page.locator("#compare-share").click()
    page.wait_for_function("document.querySelector('#compare-link :is(input, textarea)').value.startsWith('http')")
    link = page.locator("#compare-link :is(input, textarea)").input_value()
    other = chromium.new_page()
    other.set_default_timeout(PATIENCE)
    other.goto(link)
    other.get_by_text("From a link").wait_for()
    assert other.locator(".rd-table").inner_text() == shown
    assert other.get_by_label("Prompt").first.input_value() == "a photo of a white cross"
    other.goto(link[:-20])
    other.get_by_text("holds no result").wait_for()
    other.close()


def status_of(page, said):
    page.locator("#training-status dd", has_text=said).first.wait_for()


def test_a_run_is_trained_stopped_gone_on_with_and_its_lora_is_painted_with(page, chromium, page_url, runs_folder):
    page.set_default_timeout(3 * PATIENCE)
    tab(page, "Training")
    page.locator("#training-name :is(input, textarea)").fill("../outside")
    page.locator("#training-go").click()
    page.get_by_text("will not do").wait_for()
    page.locator("#training-name :is(input, textarea)").fill("first")
    page.get_by_label("Iterations", exact=True).fill("200")
    page.locator("#training-go").click()
    status_of(page, "of 200")
    page.reload()  # which forgets nothing
    tab(page, "Training")
    status_of(page, "training")
    page.locator("#training-name :is(input, textarea)").fill("second")
    page.locator("#training-go").click()
    page.get_by_text("room for one at a time").wait_for()
    other = chromium.new_page()
    other.set_default_timeout(3 * PATIENCE)
    other.goto(page_url)
    tab(other, "Training")
    other.wait_for_function("parseInt(document.querySelectorAll('#training-status dd')[1]?.innerText) >= 3")
    other.locator("#training-stop").click()
    status_of(page, "stopped")  # both see it
    other.close()
    done = int(page.locator("#training-status dd").nth(1).inner_text().split()[0])
    assert 3 <= done < 200
    page.get_by_label("Iterations in all").fill(str(done + 2))
    page.locator("#training-on").click()
    status_of(page, f"{done + 2} of {done + 2}")
    status_of(page, "finished")
    page.locator("#training-grids img").nth(1).wait_for()
    for line in ("evaluation", "learned from", "within a prompt", "all prompts", "features"):
        page.locator("#training-curves svg").get_by_text(line, exact=True).first.wait_for()
    page.locator("#training-give").click()
    with page.expect_download() as download:
        page.locator("#training-files a", has_text="").first.click()
    assert download.value.suggested_filename == "first.safetensors"
    assert [item.name for item in runs_folder.iterdir() if item.is_dir()] == ["first"]

    tab(page, "Best of N")
    page.get_by_text("Models and settings").locator("visible=true").click()
    page.get_by_label("LoRA").locator("visible=true").click()
    page.get_by_role("option", name="first").click()
    page.wait_for_function(
        "[...document.querySelectorAll('input[aria-label=Guidance]')].some((item) => item.value == '1')"
    )
    page.locator("#search-go").click()
    page.locator("#search-counts dd", has_text="160").wait_for()  # 8 samples, 20 steps, no guidance
    assert page.locator("#search-gallery img").count() >= 8


def test_a_second_job_of_the_same_visitor_is_refused_and_a_stopped_one_makes_room(page):
    tab(page, "Guided")
    page.get_by_text("Models and settings").locator("visible=true").click()
    page.get_by_label("Steps").locator("visible=true").fill("200")
    page.locator("#guided-go").click()
    page.wait_for_timeout(2000)
    tab(page, "Best of N")
    page.locator("#search-go").click()
    page.get_by_text("you have a job running").wait_for()
    tab(page, "Guided")
    page.locator("#guided-stop").click()
    tab(page, "Best of N")
    page.locator("#search-go").click()
    page.locator("#search-counts dd", has_text="160").wait_for()


def test_what_is_written_never_becomes_part_of_the_page(page, picture_files):
    for side, file in zip("ab", picture_files, strict=False):
        page.locator(f"#compare-{side} input[type=file]").set_input_files(file)
        page.locator(f"#compare-{side} img").wait_for()
    page.get_by_label("Prompt").first.fill(EVIL)
    page.get_by_text("Criteria of your own").click()
    page.get_by_label("One a line").fill("<b>x</b>: <img src=x onerror=\"document.title='taken'\">")
    page.locator("#compare-go").click()
    page.locator(".rd-table").wait_for()
    assert "<b>x</b>" in page.locator(".rd-table").inner_text()
    page.get_by_label("One a line").fill("overall: <b>twice</b>")  # an error that is shown in a corner
    page.locator("#compare-go").click()
    page.get_by_text("same name").wait_for()
    page.wait_for_timeout(1000)
    assert page.title() == "RewardDance"


def test_samples_are_ranked_and_the_best_can_be_had(page, tmp_path):
    from PIL import Image

    tab(page, "Best of N")
    page.locator("#search-go").click()
    page.locator("#search-counts dd", has_text="160").wait_for()  # 8 samples, 20 steps, no guidance
    page.locator("#search-gallery img").nth(7).wait_for()
    with page.expect_download() as download:
        page.locator("#search-download").click()
    download.value.save_as(tmp_path / "best.png")
    assert Image.open(tmp_path / "best.png").text["prompt"] == "a photo of three squares"


def test_votes_by_keyboard_are_kept_and_undone(page, votes_file):
    before = len(VoteStore(votes_file))
    tab(page, "Arena")
    page.locator("#arena-next").click()
    page.locator(".rd-prompt").wait_for()
    shown = page.locator("#arena-pair img").first
    for key, word in (("ArrowLeft", "left"), ("t", "tie"), ("b", "both bad")):
        old = shown.get_attribute("src")
        page.keyboard.press(key)
        page.locator("#arena-said", has_text=f"You chose {word}").wait_for()
        page.wait_for_function("old => document.querySelector('#arena-pair img').getAttribute('src') != old", arg=old)
    page.keyboard.press("u")
    page.get_by_text("was taken back").wait_for()
    assert [vote.choice for vote in VoteStore(votes_file)][before:] == ["a", "tie"]
    page.get_by_placeholder("one at random").press("b")  # writing is no voting
    page.wait_for_timeout(1000)
    assert len(VoteStore(votes_file)) == before + 2


def test_guidance_is_shown_and_a_closed_browser_frees_its_work(page, chromium, page_url):
    from gradio_client import Client

    tab(page, "Guided")
    started = time.monotonic()
    page.locator("#guided-go").click()
    page.locator("#guided-counts .rd-facts").nth(1).wait_for()
    page.locator("#guided-plot svg").get_by_text("guided, best").wait_for()
    whole = time.monotonic() - started  # two runs of 20 steps
    other = chromium.new_page()
    other.set_default_timeout(30_000)
    other.goto(page_url)
    other.get_by_role("tab", name="Guided").click(timeout=PATIENCE)
    other.get_by_text("Models and settings").locator("visible=true").click()
    other.get_by_label("Steps").locator("visible=true").fill("200")
    other.locator("#guided-go").click()
    other.wait_for_timeout(3000)
    other.close()
    started = time.monotonic()
    settings = ("generator", "reward-5m", "alignment", 1, 4, 3.0)
    Client(page_url, verbose=False).predict("a photo of a star", 1, "pointwise", *settings, api_name="/best_of_n")
    assert time.monotonic() - started < 5 * whole  # all of it would take ten times as long
