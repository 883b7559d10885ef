"""The page as a process, asked by `gradio_client` and plain HTTP."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from page_processes import served
from PIL import Image

from diffusers_ext import RewardModel
from diffusers_ext.data.votes import VoteStore
from diffusers_ext.nano.oracle import judge as oracle
from diffusers_ext.nano.preferences import sample_prompt, sample_scene_for
from diffusers_ext.nano.render import render

gradio_client = pytest.importorskip("gradio_client", reason="these tests ask the page by gradio_client")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def client(url, **options):
    return gradio_client.Client(url, verbose=False, httpx_kwargs={"timeout": 300}, **options)


def compared(page, a, b, prompt, judges=("reward-5m",), criteria=("overall",), own="", explain=False):
    files = [gradio_client.handle_file(str(path)) for path in (a, b)]
    return page.predict(*files, prompt, list(judges), list(criteria), own, explain, api_name="/compare")


def test_twenty_clients_at_once_get_their_own_answers(page_url, tmp_path):
    rng = np.random.default_rng(0)
    asked = []
    for number in range(20):
        spec = sample_prompt(rng)
        files = [tmp_path / f"{number}{side}.png" for side in "ab"]
        for file in files:
            Image.fromarray(render(sample_scene_for(rng, sample_prompt(rng)))).save(file)
        asked.append((*files, spec.text))
    judge = RewardModel.default("cpu")
    expected = [judge.compare(str(a), str(b), prompt)[0].reward for a, b, prompt in asked]

    def visit(number):
        page = client(page_url)
        return [compared(page, *asked[(number + turn) % 20])[1] for turn in range(2)]

    with ThreadPoolExecutor(20) as visitors:
        found = list(visitors.map(visit, range(20)))
    for number, answers in enumerate(found):
        for turn, answer in enumerate(answers):
            place = (number + turn) % 20
            assert answer["prompt"] == asked[place][2]
            assert answer["verdicts"][0]["probability_of_a"] == pytest.approx(expected[place], abs=1e-3)


def test_twenty_voters_at_once_lose_no_vote(page_url, votes_file):
    before = len(VoteStore(votes_file))

    def visit(number):
        page = client(page_url)
        key, left, *_ = page.predict("a photo of a star", api_name="/next_pair")
        choice = ["a", "b", "tie", "both bad"][number % 4]
        for _ in range(2):  # the second is the same vote, sent again
            page.predict(choice, key, api_name="/vote")
        return key, choice, Image.open(left).convert("RGB").tobytes()

    with ThreadPoolExecutor(20) as visitors:
        cast = list(visitors.map(visit, range(20)))
    kept = {vote.key: vote for vote in VoteStore(votes_file)}
    assert len(kept) == before + 20
    assert len({key for key, _, _ in cast}) == 20
    for key, choice, left in cast:
        assert kept[key].choice == choice
        assert Image.open(io.BytesIO(kept[key].a)).tobytes() == left


def test_a_voter_without_eyes_votes_by_the_oracle_undoes_and_exports(page_url, tmp_path):
    page = client(page_url)
    prompt = "a photo of a red star"
    for _ in range(3):
        key, left, right, _ = page.predict(prompt, api_name="/next_pair")
        right_ones = [oracle(Image.open(path).convert("RGB"), prompt).correct for path in (left, right)]
        choice = {(True, False): "a", (False, True): "b", (True, True): "tie"}.get(tuple(right_ones), "both bad")
        said, standing = page.predict(choice, key, api_name="/vote")
        assert "You chose" in said and "95% interval" in standing
    key, *_, told, _ = page.predict(api_name="/undo")
    assert "taken back" in told
    page.predict(choice, key, api_name="/vote")
    shutil.unpack_archive(page.predict(api_name="/export_votes"), tmp_path)
    from diffusers_ext.data import load

    assert not load(tmp_path / "votes.jsonl").problems


def test_searches_and_guidance_have_endpoints(page_url):
    page = client(page_url)
    settings = ("generator", "reward-5m", "alignment", 1, 4, 3.0)
    gallery, _, _, found, best = page.predict("a photo of a red star", 5, "knockout", *settings, api_name="/best_of_n")
    assert len(gallery) == len(found["samples"]) == 5
    assert found["method"] == "knockout" and found["evaluations"] == 5 * 4 * 2
    told = Image.open(best).text
    assert told["prompt"] == "a photo of a red star" and int(told["seed"]) == found["samples"][0]["seed"]
    *_, guided = page.predict("a photo of a red star", "beam search", 4, 1, 2, 1.0, *settings, api_name="/guided")
    assert guided["base"]["evaluations"] == guided["guided"]["evaluations"]


def test_videos_have_an_endpoint(page_url, tmp_path):
    pytest.importorskip("av")
    from gradio_app.examples import write_video_pairs

    a, b, prompt = write_video_pairs(tmp_path)[0]
    files = [gradio_client.handle_file(path) for path in (a, b)]
    asked = (prompt, ["video-reward-5m"], ["video-overall"], "", True)
    _, found = client(page_url).predict(*files, *asked, api_name="/compare_videos")
    judge = RewardModel.default_for_videos("cpu")
    expected = judge.compare_videos(a, b, prompt)[0].reward
    assert found["verdicts"][0]["probability_of_a"] == pytest.approx(expected, abs=1e-3)
    thought = judge.compare_videos(a, b, prompt, debias=False, explain=True)[0].explanation
    assert found["after_reasoning"][0]["about_a"] == thought
    picture = tmp_path / "still.png"
    Image.new("RGB", (64, 64)).save(picture)
    with pytest.raises(Exception, match=r"video A: .*still picture"):
        client(page_url).predict(gradio_client.handle_file(str(picture)), files[1], *asked, api_name="/compare_videos")


def test_a_run_is_begun_watched_and_had_through_endpoints(page_url, runs_folder):
    page = client(page_url)
    settings = ("quick", "as the recipe says", "alignment", "as the recipe says", 2, 5, 0.01, 1)
    for name, told in (("../x", "will not do"), ("X", "will not do")):
        with pytest.raises(Exception, match=told):
            page.predict(name, *settings, "", api_name="/start_training")
    with pytest.raises(Exception, match="not in the list of choices"):
        page.predict("x", "/etc/passwd", *settings[1:], "", api_name="/start_training")
    page.predict("by-program", *settings, "a photo of a star\na photo of a cross", api_name="/start_training")
    with pytest.raises(Exception, match="room for one at a time"):
        client(page_url).predict("another", *settings, "", api_name="/start_training")
    run = client(page_url).predict("by-program", api_name="/training")
    while run["state"] == "training":
        time.sleep(0.5)
        run = page.predict("by-program", api_name="/training")
    assert (run["state"], run["iterations"], run["reason"]) == ("finished", 2, None)
    assert [item["iteration"] for item in run["evaluations"]] == [0, 1, 2]
    assert run["config"]["seed"] == 5 and run["config"]["prompts"] == "prompts.txt"
    files = page.predict("by-program", api_name="/lora_of_training")
    assert [Path(file).name for file in files] == ["by-program.safetensors", "by-program-comfyui.safetensors"]
    assert Path(files[0]).read_bytes() == (runs_folder / "by-program/pytorch_lora_weights.safetensors").read_bytes()
    with pytest.raises(Exception, match="nothing is left"):
        page.predict("by-program", 2, api_name="/resume_training")
    painted = ("generator", "reward-5m", "alignment", 1, 4, 1.0)
    *_, found, best = page.predict("a photo of a star", 2, "pointwise", *painted, "by-program", api_name="/best_of_n")
    assert Image.open(best).text["lora"] == "by-program" and found["evaluations"] == 2 * 4
    for name, told in (("none", "there is no run"), ("../by-program", "there is no run")):
        with pytest.raises(Exception, match=told):
            page.predict("a photo of a star", 2, "pointwise", *painted, name, api_name="/best_of_n")
    for file in ("run.yaml", "state.pt", "training.log"):
        path = urllib.parse.quote(str(runs_folder / "by-program" / file))
        assert status(f"{page_url}/gradio_api/file={path}") in (403, 404)


def status(url, **options):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, **options), timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_nothing_outside_of_its_folders_is_served(page_url, votes_file, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    for path in ("/etc/passwd", votes_file, ROOT / "pyproject.toml", tmp_path / "secret.png", "../../etc/passwd"):
        assert status(f"{page_url}/gradio_api/file={urllib.parse.quote(str(path))}") in (403, 404)
    place = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}  # as if it had been uploaded
    told = asked(page_url, "compare", [place, place, "a photo of a star", ["reward-5m"], ["overall"], "", False])
    assert "event: error" in told
    assert "Pillow" not in told, "it was opened"


def asked(url, endpoint, values):
    """By plain HTTP, with nothing that a client would do first."""
    body = json.dumps({"data": values}).encode()
    request = urllib.request.Request(f"{url}/gradio_api/call/{endpoint}", body, {"Content-Type": "application/json"})
    number = json.load(urllib.request.urlopen(request, timeout=60))["event_id"]
    return urllib.request.urlopen(f"{url}/gradio_api/call/{endpoint}/{number}", timeout=60).read().decode()


def test_bad_input_is_told_in_words_and_the_page_goes_on(page_url, tmp_path, picture_files):
    page = client(page_url)
    (tmp_path / "broken.png").write_bytes(picture_files[0].read_bytes()[:300])
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (900, 900, 3), dtype=np.uint8)).save(tmp_path / "big.png")
    for a, prompt, options, told in (
        (tmp_path / "broken.png", "a star", {}, "picture A: damaged"),
        (picture_files[0], " ", {}, "prompt is empty"),
        (picture_files[0], "a star", {"judges": ["/etc"]}, "reward-5m"),
        (picture_files[0], "a star", {"criteria": []}, "criterion"),
        (tmp_path / "big.png", "a star", {}, "(?i)413|large|exceed|size"),
    ):
        with pytest.raises(Exception, match=told):
            compared(page, a, picture_files[1], prompt, **options)
    assert compared(page, *picture_files[:2], "<b>a star</b>")[1]["prompt"] == "<b>a star</b>"


def test_a_model_that_fails_leaves_the_page_up_and_says_why(tmp_path, picture_files):
    (tmp_path / "votes.sqlite").mkdir()
    with served(
        "--model", tmp_path / "none", "--model", "http://127.0.0.1:9", "--votes", tmp_path / "votes.sqlite"
    ) as (
        url,
        _,
    ):
        page = client(url)
        with pytest.raises(Exception, match="there is no such folder"):
            compared(page, *picture_files[:2], "a star", judges=[str(tmp_path / "none")])
        with pytest.raises(Exception, match="cannot be written"):
            page.predict("a photo of a star", api_name="/next_pair")
        assert status(url) == 200


def test_only_those_who_can_log_in_get_in():
    with served(REWARDDANCE_APP_AUTH="ann:secret") as (url, _):
        assert status(f"{url}/config") == 401
        assert client(url, auth=("ann", "secret")).view_api(return_format="dict")["named_endpoints"]
        with pytest.raises(Exception, match=r"(?i)log|auth|credential"):
            client(url, auth=("ann", "wrong"))


def test_a_vote_that_was_confirmed_outlives_the_page(tmp_path):
    file = tmp_path / "votes.sqlite"
    with served("--votes", file) as (url, process):
        page = client(url)
        key, *_ = page.predict("a photo of a star", api_name="/next_pair")
        page.predict("b", key, api_name="/vote")
        os.kill(process.pid, signal.SIGKILL)
    assert [(vote.key, vote.choice) for vote in VoteStore(file)] == [(key, "b")]


def test_the_files_of_a_space_start_as_they_are(tmp_path):
    for name in ("diffusers_ext", "gradio_app"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "gradio_app" / "space", tmp_path, dirs_exist_ok=True)
    head = (tmp_path / "README.md").read_text(encoding="utf-8").split("---")[1]
    assert "sdk: gradio" in head and "app_file: app.py" in head
    with served(start=(sys.executable, "app.py"), cwd=tmp_path) as (url, _):
        assert "/compare" in client(url).view_api(return_format="dict")["named_endpoints"]
