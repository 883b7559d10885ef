from __future__ import annotations

import base64
import io
import json
import math
import threading

import pytest
import torch
from PIL import Image

pytest.importorskip("httpx", reason="needs httpx (pip install 'rewarddance[serve]')")
pytest.importorskip("fastapi", reason="needs fastapi (pip install 'rewarddance[serve]')")

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from http_servers import Trouble, answering, breaking_off, hanging, running

from benchmarks.vlms import SIZES, build
from diffusers_ext.ranking import rank
from diffusers_ext.rewards.config import RewardConfig
from diffusers_ext.rewards.errors import ImageError, InstructionError, ModelError, PromptTextError
from diffusers_ext.rewards.instructions import Example, Instruction
from diffusers_ext.rewards.model import RewardModel
from diffusers_ext.rewards.openai_compatible import OpenAIRewardModel, RerankerRewardModel, log_odds
from diffusers_ext.rewards.remote import RemoteError

PROMPT = "a photo of a red star"
KEY = "sk-local"


class Network:
    """A judge's network behind the requests that vLLM takes: whole questions by its own processor, all logits."""

    def __init__(self, judge):
        self.judge, self.bodies, self.lock = judge, [], threading.Lock()
        self.app = FastAPI()
        self.app.post("/v1/chat/completions")(self.chat)
        self.app.post("/classify")(self.classify)

    def logits(self, text, images):
        inputs = self.judge.processor(images=images, text=text, return_tensors="pt")
        with torch.inference_mode():
            return self.judge.model(**inputs).logits[0, -1].float()

    def text(self, body, **options):
        images = []

        def part(item):
            if item["type"] == "text":
                return item
            content = item["image_url"]["url"].removeprefix("data:image/png;base64,")
            images.append(Image.open(io.BytesIO(base64.b64decode(content))))
            return {"type": "image"}

        messages = [
            {**message, "content": content if isinstance(content, str) else [part(item) for item in content]}
            for message in body["messages"]
            for content in [message["content"]]
        ]
        options = {key: body[key] for key in ("continue_final_message", "add_generation_prompt") if key in body}
        options.setdefault("add_generation_prompt", "continue_final_message" not in body)
        return self.judge.processor.apply_chat_template(messages, tokenize=False, **options), images

    async def chat(self, body: dict):
        return await run_in_threadpool(self.completion, body)

    def completion(self, body):
        with self.lock:
            self.bodies.append(body)
            text, images = self.text(body)
            decode = self.judge.tokenizer.decode
            written = ""
            listed = []
            for _ in range(body["max_tokens"]):
                values = self.logits(text + written, images).log_softmax(-1)
                top = values.topk(body.get("top_logprobs", 1))
                pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
                listed.append([{"token": decode([number]), "logprob": value} for number, value in pairs])
                token = int(top.indices[0])
                if token == self.judge.tokenizer.eos_token_id:
                    break
                written += decode([token])
                if any(stop in written for stop in body.get("stop", ())):
                    break
        for stop in body.get("stop", ()):
            written = written.split(stop)[0]
        choice = {"index": 0, "message": {"role": "assistant", "content": written}, "finish_reason": "length"}
        if body.get("logprobs"):
            choice["logprobs"] = {"content": [{**tops[0], "top_logprobs": tops} for tops in listed]}
        return {"model": body["model"], "choices": [choice]}

    async def classify(self, body: dict):
        return await run_in_threadpool(self.classification, body)

    def classification(self, body):
        with self.lock:
            self.bodies.append(body)
            assert (body["use_activation"], body["add_generation_prompt"]) == (False, True)
            values = self.logits(*self.text(body))
            words = self.judge.tokenizer.get_vocab()
            value = float(values[words["yes"]] - values[words["no"]])
        return {"data": [{"index": 0, "label": "LABEL_0", "probs": [value], "num_classes": 1}]}


@pytest.fixture(scope="module")
def judge():
    # Shipped, not untrained: of an untrained one, yes and no are not among the likeliest tokens.
    shipped = RewardModel.default("cpu")
    settings = RewardConfig(
        shipped.config.temperature, shipped.config.pointwise_temperature, shipped.config.cot_temperature, 6
    )
    return RewardModel(shipped.model, shipped.processor, shipped.name, settings)


@pytest.fixture(scope="module")
def network(judge):
    return Network(judge)


@pytest.fixture(scope="module")
def url(network):
    with running(network.app) as url:
        yield url


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr("diffusers_ext.rewards.connection._BACKOFF", 0.01)


@pytest.fixture
def client(url, judge):
    return OpenAIRewardModel(url, "nano", KEY, config=judge.config)


def same(found, expected):
    assert [item.reward for item in found] == pytest.approx([item.reward for item in expected], abs=1e-3)
    for one, other in zip(found, expected, strict=True):
        for field in ("instruction", "criteria", "candidate", "reference", "explanation", "debiased"):
            assert getattr(one, field) == getattr(other, field)


def test_scores_are_those_in_process(client, judge, pictures, network):
    same(client.score(pictures, PROMPT, "alignment"), judge.score(pictures, PROMPT, "alignment"))
    body = network.bodies[-1]
    assert (body["max_tokens"], body["logprobs"], body["top_logprobs"], body["temperature"]) == (1, True, 20, 0)


@pytest.mark.parametrize("debias", [True, False])
def test_comparisons_are_those_in_process(client, judge, pictures, debias):
    expected = judge.compare(pictures[:2], pictures[2:4], PROMPT, debias=debias)
    same(client.compare(pictures[:2], pictures[2:4], PROMPT, debias=debias), expected)
    expected = judge.compare(pictures[:2], pictures[5], PROMPT, debias=debias)
    same(client.compare(pictures[:2], pictures[5], PROMPT, debias=debias), expected)


def test_explanations_are_those_in_process(client, judge, pictures):
    same(client.score(pictures[:2], PROMPT, explain=True), judge.score(pictures[:2], PROMPT, explain=True))
    expected = judge.compare(pictures[0], pictures[1], PROMPT, explain=True)
    same(client.compare(pictures[0], pictures[1], PROMPT, explain=True), expected)


def test_examples_are_shown(client, judge, pictures, picture_files):
    examples = (Example("a star", picture_files[1], True, picture_files[2]),)
    by = Instruction("mine", "Judge how red it is.", ("redness",), examples=examples)
    same(client.score(pictures[0], PROMPT, by), judge.score(pictures[0], PROMPT, by))


def test_ranking_works_with_it_unchanged(client, judge, pictures):
    found, expected = (rank(pictures[:3], PROMPT, each, "round-robin") for each in (client, judge))
    assert found.order == expected.order


def test_the_errors_are_those_in_process(client, pictures):
    with pytest.raises(PromptTextError):
        client.score(pictures[0], " ")
    with pytest.raises(ImageError):
        client.compare(pictures[:3], pictures[:2], PROMPT)
    with pytest.raises(InstructionError):
        client.score(pictures[0], PROMPT, "overal")
    with pytest.raises(ValueError, match="batch_size"):
        client.score(pictures[0], PROMPT, batch_size=0)


def test_spellings_are_put_together():
    listed = {"yes": 0.3, " Yes": 0.2, "no": 0.1, " NO": 0.05, "maybe": 0.2, "yesterday": 0.1, "not": 0.05}
    found = log_odds([(token, math.log(value)) for token, value in listed.items()])
    assert found == pytest.approx(math.log(0.5 / 0.15))


def test_a_side_that_is_not_listed_counts_as_much_as_it_could():
    listed = [("yes", math.log(0.9)), ("maybe", math.log(0.04)), ("perhaps", math.log(0.01))]
    assert log_odds(listed) == pytest.approx(math.log(0.9 / 0.01))
    listed[0] = ("No", math.log(0.9))
    assert log_odds(listed) == pytest.approx(-math.log(0.9 / 0.01))


def test_a_model_that_says_something_else_is_told():
    with pytest.raises(ModelError, match="'<think>', 'Well'"):
        log_odds([("<think>", -0.1), ("Well", -3.0)])


def completion(**choice):
    return answering(200, json.dumps({"choices": [{"index": 0, **choice}]}).encode())


def listing(*pairs):
    top = [{"token": token, "logprob": value} for token, value in pairs]
    return completion(logprobs={"content": [{"token": "yes", "top_logprobs": top}]})


@pytest.mark.parametrize(
    ("trouble", "complaint"),
    [
        (answering(200, b"<html>"), "not JSON"),
        (answering(200, b"[]"), "no choice"),
        (answering(200, b'{"choices": [1, 2]}'), "no choice"),
        (completion(), "no log-probabilities"),
        (completion(logprobs=None), "no log-probabilities"),
        (completion(logprobs={"content": []}), "no log-probabilities"),
        (listing(), "no log-probabilities"),
        (listing(("yes", float("nan")), ("no", -1.0)), "not all finite"),
        (listing(("yes", "-1"), ("no", -1.0)), "not all finite"),
        (listing((None, -1.0)), "not all finite"),
        (listing(("yes", 12.5), ("no", 11.0)), "not all below zero"),
        (listing(("I", -0.1)), "neither yes nor no"),
        (answering(400, b'{"error": {"message": "no such model"}}'), "no such model"),
        (answering(401, b'{"detail": "who are you"}'), "who are you.*API key"),
    ],
)
def test_nonsense_is_not_taken_for_a_verdict(network, pictures, trouble, complaint):
    app = Trouble(network.app, trouble)
    with running(app) as url, pytest.raises(RemoteError, match=complaint):
        OpenAIRewardModel(f"{url}/v1/", "nano", KEY).score(pictures[0], PROMPT)
    assert len(app.seen) == 1
    assert app.seen[0]["authorization"] == f"Bearer {KEY}"


def test_passing_trouble_is_sat_out_and_lasting_trouble_told(network, judge, pictures):
    app = Trouble(network.app, answering(500), breaking_off, answering(429), hanging)
    with running(app) as url:
        client = OpenAIRewardModel(url, "nano", timeout=1.5, config=judge.config)
        same(client.score(pictures[0], PROMPT), judge.score(pictures[0], PROMPT))
        app.troubles = [None, *[answering(502)] * 9]
        client = OpenAIRewardModel(url, "nano", retries=1, concurrency=1, config=judge.config)
        with pytest.raises(RemoteError, match="502") as caught:
            client.score(pictures[:3], PROMPT)
    same(list(caught.value.judged.values()), judge.score(pictures[:1], PROMPT))


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vlm") / "tiny-reranker"
    folder.mkdir()
    build("qwen3_vl", SIZES["tiny"], folder).save_pretrained(folder)
    return RewardModel.from_pretrained(folder, device="cpu")


def test_a_reranker_gives_the_scores_that_it_gives_in_process(reranker, pictures):
    with running(Network(reranker).app) as url:
        client = RerankerRewardModel(url, "reranker")
        asked = ["a red star", "a circle", "two squares"]
        found = client.score(pictures[:3], asked, "alignment")
        same(found, reranker.score(pictures[:3], asked, "alignment"))
        assert len({item.log_odds for item in found}) == 3
        with pytest.raises(ModelError, match="one picture at a time"):
            client.compare(pictures[0], pictures[1], PROMPT)
        with pytest.raises(ModelError, match="cannot explain"):
            client.score(pictures[0], PROMPT, explain=True)


@pytest.mark.parametrize("content", [b'{"data": [{"probs": [0.2, 0.8]}]}', b'{"data": [{"probs": [NaN]}]}', b"{}"])
def test_a_server_that_does_not_classify_so_is_told(pictures, content):
    async def app(scope, receive, send):
        if scope["type"] == "http":
            await answering(200, content)(send)

    with running(app) as url, pytest.raises(RemoteError, match="one logit was expected"):
        RerankerRewardModel(url, "reranker").score(pictures[0], PROMPT)
