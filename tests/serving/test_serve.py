from __future__ import annotations

import base64
import io
import json
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("ray.serve", reason="needs Ray Serve (pip install 'rewarddance[serve]')")

import httpx
import ray
from PIL import Image
from ray_clusters import free_port, ray_cluster

from diffusers_ext.ranking import rank
from diffusers_ext.rewards.connection import IDEMPOTENCY_HEADER, Refused
from diffusers_ext.rewards.errors import ImageError, InstructionError, PromptTextError
from diffusers_ext.rewards.instructions import Example, Instruction
from diffusers_ext.rewards.judgement import Judgement
from diffusers_ext.rewards.remote import RemoteRewardModel
from diffusers_ext.rewards.videos import Clip, VideoError

pytestmark = pytest.mark.slow
PROMPT = "a red star"
KEY = "open sesame ü"


@pytest.fixture(scope="module")
def metrics_port():
    port = free_port()
    with ray_cluster(port):
        yield port


@pytest.fixture(scope="module")
def url(metrics_port, untrained_model_folder):
    from diffusers_ext.serving.app import build, run
    from diffusers_ext.serving.bodies import Limits

    own = {"mine": Instruction("mine", "Judge how red it is.", ("redness",))}
    limits = Limits(body_bytes=2**20, pictures=12, pixels=100 * 100)
    port = free_port()
    application = build(
        str(untrained_model_folder), device="cpu", replicas=2, limits=limits, api_key=KEY, instructions=own
    )
    run(application, port=port)
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def judge(url):
    with RemoteRewardModel(url, KEY, batch_size=4) as judge:
        yield judge


@pytest.fixture
def metric(metrics_port):
    from prometheus_client.parser import text_string_to_metric_families

    def read(name, **labels):
        text = httpx.get(f"http://127.0.0.1:{metrics_port}/metrics").text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    return read


def settled(read):
    """A metric once it no longer changes: Ray reports them every so often."""
    value, since = read(), time.monotonic()
    while time.monotonic() - since < 3:
        time.sleep(0.2)
        if (found := read()) != value:
            value, since = found, time.monotonic()
    return value


def same(found, expected):
    assert [item.reward for item in found] == pytest.approx([item.reward for item in expected], abs=1e-3)
    for one, other in zip(found, expected, strict=True):
        for field in ("instruction", "criteria", "candidate", "reference", "explanation", "debiased"):
            assert getattr(one, field) == getattr(other, field)


def file(image, kind="PNG"):
    found = io.BytesIO()
    image.save(found, kind)
    return base64.b64encode(found.getvalue()).decode()


def post(url, path, body, key=KEY, name=None, timeout=60):
    headers = {"Authorization": f"Bearer {key}".encode()} if key else {}
    if name:
        headers[IDEMPOTENCY_HEADER] = name
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = httpx.post(url + path, content=content, headers=headers, timeout=timeout)
    assert "Traceback" not in answer.text
    return answer


def test_rewards_are_those_in_process(judge, untrained_judge, pictures, picture_files):
    asked = [f"{PROMPT} {number}" for number in range(6)]
    same(judge.score(pictures, asked), untrained_judge.score(pictures, asked))
    for debias in (True, False):
        expected = untrained_judge.compare(pictures[:3], pictures[3:6], PROMPT, debias=debias)
        same(judge.compare(pictures[:3], pictures[3:6], PROMPT, debias=debias), expected)
    examples = (Example("a star", picture_files[1], True, picture_files[2]),)
    by = Instruction("shown", "Judge how red it is.", ("redness", "shape"), examples=examples)
    same(judge.score(pictures[:2], PROMPT, by), untrained_judge.score(pictures[:2], PROMPT, by))
    found, expected = (rank(pictures[:4], PROMPT, each, "round-robin") for each in (judge, untrained_judge))
    assert found.order == expected.order


def test_videos_are_judged_as_in_process(judge, untrained_judge, pictures):
    clips = [Clip(tuple(pictures[start:] + pictures[:start]), 4.0) for start in range(3)]
    same(judge.score_video(clips, PROMPT, frames=2), untrained_judge.score_video(clips, PROMPT, frames=2))
    options = {"instruction": "first-frame", "first_frame": pictures[:2], "frames": 2}
    expected = untrained_judge.compare_videos(clips[:2], clips[1:], PROMPT, **options)
    same(judge.compare_videos(clips[:2], clips[1:], PROMPT, **options), expected)
    apart = untrained_judge.compare_videos(clips[:2], clips[2], PROMPT, debias=False, rate=2.0)
    same(judge.compare_videos(clips[:2], clips[2], PROMPT, debias=False, rate=2.0), apart)
    long = Clip(tuple(pictures * 4))
    same(judge.score_video(long, PROMPT), untrained_judge.score_video(long, PROMPT))


def test_videos_that_cannot_be_judged_are_refused_as_in_process(url, judge, pictures):
    answer = post(url, "/score-video", {"videos": [{"frames": []}], "prompt": PROMPT})
    assert answer.status_code == 422 and "videos[0]: the video has no frames" in answer.text
    with pytest.raises(VideoError, match="not all of one size"):
        frames = [file(pictures[0]), file(pictures[1].resize((32, 32)))]
        raise_as_client(judge, {"videos": [{"frames": frames}], "prompt": PROMPT})
    too_many = {"videos": [{"frames": [file(pictures[0])] * 13}], "prompt": PROMPT}
    assert post(url, "/score-video", too_many).status_code == 413


def raise_as_client(judge, body):
    judge._judge("/score-video", lambda part: body, [Judgement(0.0, "", ())], None, False, None)


def test_the_servers_own_instructions_are_known_by_name(judge, untrained_judge, pictures):
    by = Instruction("mine", "Judge how red it is.", ("redness",))
    same(judge.score(pictures[:2], PROMPT, "mine"), untrained_judge.score(pictures[:2], PROMPT, by))


def test_the_errors_are_those_in_process(judge, pictures):
    with pytest.raises(InstructionError, match="Did you mean 'mine'"):
        judge.score(pictures[0], PROMPT, "min")
    with pytest.raises(PromptTextError, match="IMG_CONTEXT"):
        judge.score(pictures[:2], ["a star", "a <IMG_CONTEXT> star"])
    with pytest.raises(ImageError, match="101x100 pixels"):
        judge.score(pictures[0].resize((101, 100)), PROMPT)


def test_health_needs_no_key_and_names_the_model(url, untrained_judge):
    answer = httpx.get(f"{url}/health")
    assert (answer.status_code, answer.json()) == (
        200,
        {"status": "ok", "model": untrained_judge.name, "video_frames": 8, "replicas": 2},
    )


@pytest.mark.parametrize("key", [None, "", "open sesame", f"{KEY}x", KEY.upper()])
def test_without_the_key_nothing_is_judged(url, pictures, key):
    answer = post(url, "/score", {"images": file(pictures[0]), "prompt": PROMPT}, key)
    assert answer.status_code == 401
    assert "API key" in answer.json()["error"]["message"]


def bad_bodies(picture):
    good = {"images": [file(picture)], "prompt": PROMPT}
    return {
        "Invalid JSON": (422, b"{"),
        "Input should be an object": (422, []),
        "images: Field required": (422, {"prompt": PROMPT}),
        "best: Extra inputs": (422, {**good, "best": 1}),
        "explain: Input should be a valid boolean": (422, {**good, "explain": "yes"}),
        "prompt is empty": (422, {**good, "prompt": " "}),
        "2 prompts for 1": (422, {**good, "prompt": ["a", "b"]}),
        "no pictures": (422, {**good, "images": []}),
        "images[0]: not base64": (422, {**good, "images": "@@@"}),
        "not a picture in PNG or JPEG": (422, {**good, "images": base64.b64encode(b"GIF89a" * 9).decode()}),
        "candidate 0: the given picture: damaged": (
            422,
            {**good, "images": base64.b64encode(base64.b64decode(file(picture))[:3000]).decode()},
        ),
        "no instruction is named": (422, {**good, "instruction": "beauty"}),
        "needs a name and a text": (422, {**good, "instruction": {"name": "x", "text": " "}}),
        "task 'song'": (422, {**good, "instruction": {"name": "x", "text": "y", "task": "song"}}),
        "13 pictures in one request": (413, {**good, "images": [file(picture)] * 13}),
        "120x100 pixels": (413, {**good, "images": file(picture.resize((120, 100)))}),
        "more than the 1,048,576 bytes": (413, {**good, "prompt": "x" * 2**21}),
    }


def test_bad_requests_are_told_what_is_wrong(url, pictures):
    for complaint, (status, body) in bad_bodies(pictures[0]).items():
        answer = post(url, "/score", body)
        assert answer.status_code == status, complaint
        assert complaint in answer.json()["error"]["message"]
    answer = post(
        url, "/compare", {"candidates": [file(pictures[0])] * 3, "reference": [file(pictures[0])] * 2, "prompt": PROMPT}
    )
    assert (answer.status_code, answer.json()["error"]["type"]) == (422, "ImageError")
    assert post(url, "/nothing", {}).json()["error"]["message"] == "Not Found"
    assert httpx.get(f"{url}/score").status_code == 405


def test_jpeg_data_urls_and_single_pictures_are_taken(url, pictures, untrained_judge):
    encoded = file(pictures[0], "JPEG")
    answer = post(url, "/score", {"images": f"data:image/jpeg;base64,{encoded}", "prompt": PROMPT})
    shown = Image.open(io.BytesIO(base64.b64decode(encoded)))
    (expected,) = untrained_judge.score(shown, PROMPT)
    found = answer.json()["judgements"][0]
    assert found == {
        **json.loads(json.dumps(expected.as_dict())),
        "reward": found["reward"],
        "log_odds": found["log_odds"],
    }
    assert found["reward"] == pytest.approx(expected.reward, abs=1e-3)


def test_a_request_that_comes_twice_is_judged_and_counted_once(url, pictures, metric):
    before = settled(lambda: metric("ray_rewarddance_judgements_total"))
    body, name = {"images": [file(image) for image in pictures], "prompt": PROMPT}, str(uuid.uuid4())
    with ThreadPoolExecutor(3) as threads:  # at once, and again
        answers = list(threads.map(lambda _: post(url, "/score", body, name=name).json(), range(3)))
    answers.append(post(url, "/score", body, name=name).json())
    assert len(answers[0]["judgements"]) == 6
    assert all(answer == answers[0] for answer in answers)
    assert settled(lambda: metric("ray_rewarddance_judgements_total")) == before + 6
    other = post(url, "/score", {**body, "prompt": "a circle"}, name=name)
    assert (other.status_code, "used for another request" in other.text) == (422, True)


def test_a_client_that_gave_up_gets_the_answer_when_it_comes_back(url, pictures, metric):
    before = settled(lambda: metric("ray_rewarddance_judgements_total"))
    body, name = {"images": [file(image) for image in pictures] * 2, "prompt": "two stars"}, str(uuid.uuid4())
    with pytest.raises(httpx.TimeoutException):
        post(url, "/score", body, name=name, timeout=httpx.Timeout(10, read=0.02))
    assert len(post(url, "/score", body, name=name).json()["judgements"]) == 12
    assert settled(lambda: metric("ray_rewarddance_judgements_total")) == before + 12


def test_requests_are_counted_by_their_status(url, pictures, metric):
    labels = {"endpoint": "compare", "status": "401"}
    before = settled(lambda: metric("ray_rewarddance_requests_total", **labels))
    post(url, "/compare", {}, key="wrong")
    assert settled(lambda: metric("ray_rewarddance_requests_total", **labels)) == before + 1
    assert metric("ray_rewarddance_request_seconds_count", endpoint="score") > 0
    assert metric("ray_rewarddance_batch_size_count") > 0


def kill_one_replica():
    found = [item for item in ray.util.list_named_actors(all_namespaces=True) if "#judge#" in item["name"]]
    assert len(found) == 2
    ray.kill(ray.get_actor(found[0]["name"], namespace=found[0]["namespace"]))


def wait_for_replicas(url, count=2):
    deadline = time.monotonic() + 60
    while httpx.get(f"{url}/health").json().get("replicas") != count:
        assert time.monotonic() < deadline, f"not {count} replicas after a minute"
        time.sleep(0.5)


def test_when_a_replica_dies_in_mid_load_nothing_is_lost_or_judged_twice(url, pictures, untrained_judge, metric):
    asked = [f"{number} red stars" for number in range(240)]
    shown = [pictures[number % 6] for number in range(240)]
    expected = untrained_judge.score(shown, asked)
    again = metric("ray_rewarddance_questions_asked_again_total")
    for _ in range(5):  # until it has died over a question: now and then none is with it at that moment
        before = settled(lambda: metric("ray_rewarddance_judgements_total"))
        killed = threading.Event()

        def cancel(before=before, killed=killed):
            if not killed.is_set() and metric("ray_rewarddance_judgements_total") > before:
                killed.set()
                kill_one_replica()
            return False

        with RemoteRewardModel(url, KEY, batch_size=12, concurrency=6, timeout=120) as judge:
            found = judge.score(shown, asked, cancel=cancel)
        assert killed.is_set()
        same(found, expected)
        assert settled(lambda: metric("ray_rewarddance_judgements_total")) == before + 240
        if settled(lambda: metric("ray_rewarddance_questions_asked_again_total")) > again:
            return
        wait_for_replicas(url)
    pytest.fail("no replica ever died over a question")


def test_the_wrong_key_is_told_and_not_tried_again(url, pictures):
    with RemoteRewardModel(url, "wrong") as judge, pytest.raises(Refused, match="API key"):
        judge.score(pictures[0], PROMPT)
