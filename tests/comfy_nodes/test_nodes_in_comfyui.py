from __future__ import annotations

import copy
import io
import time

import numpy as np
import pytest
from comfyui import PROMPT, Refused, node
from PIL import Image

from diffusers_ext import rank
from diffusers_ext.data import load

pytestmark = pytest.mark.comfyui

NODES = {
    "RewardDanceLoadRewardModel",
    "RewardDanceInstruction",
    "RewardDanceScoreImages",
    "RewardDanceCompare",
    "RewardDanceBestOfN",
    "RewardDanceGate",
    "RewardDanceGuidedSampler",
    "RewardDanceGuider",
    "RewardDanceScoreVideo",
    "RewardDanceTrainLoRA",
    "RewardDanceSavePreference",
    "RewardDanceNanoCheckpoint",
}


@pytest.fixture(scope="session")
def described(comfyui):
    return {name: item for name, item in comfyui.get("/object_info").items() if name.startswith("RewardDance")}


def test_the_server_starts_with_the_pack_quickly_and_without_a_warning(comfyui):
    log = comfyui.log.split("Starting server")[0]
    assert not any(word in log.lower() for word in ("warning", "traceback", "import failed", "cannot import"))
    [line] = [line for line in log.splitlines() if line.endswith("custom_nodes/rewarddance")]
    assert float(line.split()[0]) < 0.5


def test_every_node_is_there_and_says_what_it_and_each_of_its_sockets_is(described):
    assert set(described) == NODES
    for name, item in described.items():
        assert item["category"] == "RewardDance" and item["description"], name
        for kind in ("required", "optional"):
            for key, (_, options) in item["input"].get(kind, {}).items():
                assert options["tooltip"], f"{name}.{key}"
        assert all(item["output_tooltips"]), name


def test_scores_are_those_of_python(comfyui, scoring, scenes, judge):
    run = comfyui.run(scoring)
    expected = [item.reward for item in judge.score(scenes, PROMPT)]
    assert run.outputs["score"]["rewards"] == pytest.approx(expected, abs=1e-3)


def test_an_instruction_reaches_the_judge(comfyui, scoring, scenes, judge):
    scoring["by"] = node("RewardDanceInstruction", preset="aesthetics")
    scoring["score"]["inputs"]["instruction"] = ["by", 0]
    expected = [item.reward for item in judge.score(scenes, PROMPT, instruction="aesthetics")]
    assert comfyui.run(scoring).outputs["score"]["rewards"] == pytest.approx(expected, abs=1e-3)


def test_a_comparison_with_its_reasons_is_that_of_python(comfyui, uploaded, scenes, judge):
    graph = {**uploaded, "compare": comparison("scene0", "scene2", explain=True)}
    shown = comfyui.run(graph).outputs["compare"]
    [expected] = judge.compare([scenes[0]], scenes[2], PROMPT, explain=True)
    assert shown["reward"] == [pytest.approx(expected.reward, abs=1e-3)]
    assert shown["text"] == [expected.explanation]
    pictures = [comfyui.picture(shown[side][0]) for side in ("a_images", "b_images")]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)


@pytest.mark.parametrize("method", ["pointwise", "anchored", "knockout", "round-robin"])
def test_best_of_n_ranks_as_python_does(comfyui, uploaded, scenes, judge, method):
    shown = comfyui.run({**uploaded, "best": best_of(method=method, keep=2)}).outputs["best"]
    expected = rank(scenes, PROMPT, judge, method=method)
    assert tuple(shown["order"]) == expected.order
    assert shown["values"] == pytest.approx([expected.rewards[index] for index in expected.order], abs=1e-3)
    assert shown["kept"] == [2]


def test_best_of_n_keeps_the_latents_of_what_it_keeps(comfyui, uploaded, scenes):
    graph = {
        **uploaded,
        "nano": node("RewardDanceNanoCheckpoint"),
        "encoded": node("VAEEncode", pixels=["batch", 0], vae=["nano", 2]),
        "best": best_of(keep=1, latents=["encoded", 0]),
        "decoded": node("VAEDecode", samples=["best", 1], vae=["nano", 2]),
        "saved": node("SaveImage", images=["decoded", 0], filename_prefix="kept"),
    }
    run = comfyui.run(graph)
    [saved] = run.outputs["saved"]["images"]
    found = pixels(comfyui, saved)
    errors = [np.abs(found - np.asarray(scene, dtype=float)).mean() for scene in scenes]
    assert int(np.argmin(errors)) == run.outputs["best"]["order"][0]
    assert min(errors) < 8  # the autoencoder is small


def test_latents_are_asked_for_only_where_they_are_used(comfyui, uploaded):
    graph = {
        **uploaded,
        "nano": node("RewardDanceNanoCheckpoint"),
        "best": best_of(),
        "decoded": node("VAEDecode", samples=["best", 1], vae=["nano", 2]),
        "saved": node("SaveImage", images=["decoded", 0], filename_prefix="never"),
    }
    run = comfyui.run(graph)  # what is missing is said to the browser, and stands in no history
    assert "best" in run.outputs
    assert "saved" not in run.outputs


@pytest.mark.parametrize(("threshold", "ran"), [(0.0, False), (1.0, True)])
def test_the_gate_runs_the_other_way_only_if_nothing_passes(comfyui, scoring, threshold, ran):
    graph = {
        **scoring,
        "again": node("ImageInvert", image=["scene0", 0]),
        "gate": node(
            "RewardDanceGate",
            images=["batch", 0],
            rewards=["score", 0],
            threshold=threshold,
            otherwise=["again", 0],
        ),
        "saved": node("SaveImage", images=["gate", 0], filename_prefix=f"gate{threshold}"),
    }
    run = comfyui.run(graph)
    assert len(run.outputs["saved"]["images"]) == (1 if ran else 4)


def test_a_gate_that_nothing_passes_ends_quietly(comfyui, scoring):
    graph = {
        **scoring,
        "gate": node("RewardDanceGate", images=["batch", 0], rewards=["score", 0], threshold=1.0),
        "saved": node("SaveImage", images=["gate", 0], filename_prefix="none"),
    }
    run = comfyui.run(graph)
    assert run.status == "success"
    assert "saved" not in run.outputs


def test_preferences_are_added_to_the_file_and_read_back(comfyui, uploaded, scenes):
    graph = {
        **uploaded,
        "compare": comparison("scene0", "scene2"),
        "saved": node(
            "RewardDanceSavePreference",
            image_a=["scene0", 0],
            image_b=["scene2", 0],
            prompt=PROMPT,
            choice="tie",
            name="votes",
            a_is_better=["compare", 1],
        ),
    }
    comfyui.run(graph)
    second = copy.deepcopy(graph)
    second["saved"]["inputs"] |= {"choice": "b"}
    del second["saved"]["inputs"]["a_is_better"]
    assert comfyui.run(second).outputs["saved"]["text"] == ["2 in votes.jsonl"]
    file = comfyui.folder / "output" / "preferences" / "votes.jsonl"
    found = load(file)
    assert [item.choice for item in found.records] == ["a", "b"]
    assert not found.problems
    assert (file.parent / found.records[0].a).is_file()


def test_a_choice_is_kept_in_a_damaged_file_too_and_the_damage_is_told(comfyui, uploaded):
    file = comfyui.folder / "output" / "preferences" / "damaged.jsonl"
    file.parent.mkdir(exist_ok=True)
    file.write_text("not json\n", encoding="utf-8")
    graph = {
        **uploaded,
        "saved": node(
            "RewardDanceSavePreference",
            image_a=["scene0", 0],
            image_b=["scene1", 0],
            prompt=PROMPT,
            choice="a",
            name="damaged",
        ),
    }
    [told] = comfyui.run(graph).outputs["saved"]["text"]
    assert told.startswith("1 in damaged.jsonl\n1 more cannot be read: ")
    assert file.read_text(encoding="utf-8").startswith("not json\n")
    assert [item.choice for item in load(file).records] == ["a"]


def test_a_video_is_scored_as_by_python(comfyui, uploaded, scenes):
    from diffusers_ext import RewardModel
    from diffusers_ext.rewards.videos import Clip

    graph = {
        **uploaded,
        "judge": node(
            "RewardDanceLoadRewardModel", model="nano for videos (shipped)", quantization="none", device="auto"
        ),
        "video": node("CreateVideo", images=["batch", 0], fps=8.0),
        "score": node(
            "RewardDanceScoreVideo",
            reward_model=["judge", 0],
            video=["video", 0],
            prompt=PROMPT,
            frames=0,
            explain=False,
        ),
    }
    [expected] = RewardModel.default_for_videos(device="cpu").score_video(Clip(tuple(scenes)), PROMPT)
    assert comfyui.run(graph).outputs["score"]["rewards"] == [pytest.approx(expected.reward, abs=1e-3)]


def test_what_did_not_change_does_not_run_again(comfyui, scoring):
    comfyui.run(scoring)
    again = comfyui.run(scoring)
    assert again.cached == set(scoring)
    assert len(again.outputs["score"]["rewards"]) == 4
    scoring["score"]["inputs"]["prompt"] = "a photo of a blue circle"
    assert comfyui.run(scoring).cached == set(scoring) - {"score"}


def test_two_prompts_in_the_queue_are_both_answered(comfyui, scoring):
    prompts = [PROMPT, "a photo of a green square"]
    graphs = [copy.deepcopy(scoring) for _ in prompts]
    for graph, prompt in zip(graphs, prompts, strict=True):
        graph["score"]["inputs"]["prompt"] = prompt
    runs = [comfyui.wait(number) for number in [comfyui.queue(graph) for graph in graphs]]
    assert [int(np.argmax(run.outputs["score"]["rewards"])) == 2 for run in runs] == [False, True]


def test_interrupting_stops_a_long_judgement_soon(comfyui, scoring):
    scoring["many"] = node("RepeatImageBatch", image=["batch", 0], amount=64)
    scoring["score"]["inputs"] |= {"images": ["many", 0], "explain": True}
    number = comfyui.queue(scoring)
    while not comfyui.get("/queue")["queue_running"]:
        time.sleep(0.02)
    time.sleep(1.0)
    start = time.monotonic()
    comfyui.http.post("/interrupt")
    run = comfyui.wait(number)
    assert any(name == "execution_interrupted" for name, _ in run.events)
    assert time.monotonic() - start < 1.0


def score(**options):
    inputs = {"reward_model": ["judge", 0], "images": ["batch", 0], "prompt": PROMPT, "explain": False}
    return node("RewardDanceScoreImages", **{**inputs, **options})


def load_model(**options):
    inputs = {"model": "nano (shipped)", "quantization": "none", "device": "auto", "id_or_url": ""}
    return node("RewardDanceLoadRewardModel", **{**inputs, **options})


ONE_LATENT = {"latent": node("EmptySD3LatentImage", width=64, height=64, batch_size=1)}


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ({"bad": lambda: best_of(images=["scene0", 0], method="knockout")}, "one picture has nothing to be compared"),
        ({"bad": lambda: comparison("batch", "scene0")}, "image_a: got a batch of 4, expected one picture"),
        ({"bad": lambda: score(prompt=" ")}, "the prompt is empty"),
        ({"bad": lambda: best_of(latents=["latent", 0]), **ONE_LATENT}, "latents: got 1 for 4 pictures"),
        ({"bad": lambda: best_of(reference=["scene0", 0], method="knockout")}, "a reference goes with 'anchored'"),
        (
            {"end": lambda: score(reward_model=["bad", 0]), "bad": lambda: load_model(quantization="torchao-int4")},
            "torchao-int4",
        ),
        (
            {"end": lambda: score(reward_model=["bad", 0]), "bad": lambda: load_model(id_or_url="no/such folder")},
            "there is no such folder, and it is not the id of a model on the hub",
        ),
        (
            {"bad": lambda: score(reward_model=["far", 0]), "far": lambda: load_model(id_or_url="http://127.0.0.1:9")},
            "http://127.0.0.1:9",
        ),
    ],
)
def test_bad_input_is_one_sentence_on_the_node(comfyui, uploaded, graph, message):
    made = {name: item() if callable(item) else item for name, item in graph.items()}
    error = comfyui.run({**uploaded, **made}).error
    assert error["node_id"] == "bad"
    assert message in error["exception_message"]
    assert "\n" not in error["exception_message"].strip()


def test_a_model_that_is_not_there_is_answered_with_those_that_are_and_where_it_was_looked_for(comfyui, uploaded):
    with pytest.raises(Refused) as refused:
        comfyui.queue({**uploaded, "judge": load_model(model="lost"), "score": score()})
    [message] = refused.value.errors["judge"]
    assert "'lost'" in message and "'nano (shipped)'" in message
    assert str(comfyui.folder / "models" / "reward_models") in message


@pytest.mark.parametrize("kind", ["EmptySD3LatentImage", "SolidMask"])
def test_sockets_take_neither_latents_nor_masks(comfyui, uploaded, kind):
    options = {"batch_size": 1} if kind == "EmptySD3LatentImage" else {"value": 1.0}
    wrong = node(kind, width=64, height=64, **options)
    with pytest.raises(Refused) as refused:
        comfyui.queue({**uploaded, "wrong": wrong, "score": score(images=["wrong", 0])})
    assert "IMAGE" in refused.value.errors["score"][0]


def test_a_model_in_the_folder_is_found_and_loaded(comfyui, uploaded, untrained_model_folder, untrained_judge, scenes):
    (comfyui.folder / "models" / "reward_models" / "mine").symlink_to(untrained_model_folder)
    options = comfyui.get("/object_info")["RewardDanceLoadRewardModel"]["input"]["required"]["model"][1]["options"]
    assert "mine" in options
    found = comfyui.run({**uploaded, "judge": load_model(model="mine"), "score": score()}).outputs["score"]["rewards"]
    assert found == pytest.approx([item.reward for item in untrained_judge.score(scenes, PROMPT)], abs=1e-3)


def test_a_quantized_judge_says_what_pythons_says(comfyui, uploaded, scenes):
    from diffusers_ext import RewardModel
    from diffusers_ext.nano import DEFAULT_REWARD_MODEL

    run = comfyui.run({**uploaded, "judge": load_model(quantization="nf4"), "score": score()})
    if run.status == "error" and "bitsandbytes" in run.error["exception_message"]:
        pytest.skip(run.error["exception_message"])
    expected = RewardModel.from_pretrained(DEFAULT_REWARD_MODEL, "nf4", "cpu").score(scenes, PROMPT)
    assert run.outputs["score"]["rewards"] == pytest.approx([item.reward for item in expected], abs=2e-2)


def test_transparency_is_laid_over_white_as_in_python(comfyui, uploaded, scenes, judge):
    graph = {
        **uploaded,
        "mask": node("SolidMask", value=0.5, width=64, height=64),
        "clear": node("JoinImageWithAlpha", image=["scene0", 0], alpha=["mask", 0]),
        "score": score(images=["clear", 0]),
    }
    clear = scenes[0].convert("RGBA")
    clear.putalpha(128)
    [expected] = judge.score(clear, PROMPT)
    assert comfyui.run(graph).outputs["score"]["rewards"] == [pytest.approx(expected.reward, abs=1e-2)]


def test_pictures_of_two_sizes_can_be_compared(comfyui, uploaded, scenes, judge):
    large = {"image": ["scene2", 0], "upscale_method": "nearest-exact", "width": 128, "height": 128, "crop": "disabled"}
    graph = {**uploaded, "large": node("ImageScale", **large), "compare": comparison("scene0", "large")}
    [expected] = judge.compare([scenes[0]], scenes[2].resize((128, 128), 0), PROMPT)
    assert comfyui.run(graph).outputs["compare"]["reward"] == [pytest.approx(expected.reward, abs=1e-3)]


def comparison(one, other, **options):
    inputs = {"reward_model": ["judge", 0], "prompt": PROMPT, "debias": True, "explain": False, **options}
    return node("RewardDanceCompare", image_a=[one, 0], image_b=[other, 0], **inputs)


def best_of(**options):
    inputs = {"reward_model": ["judge", 0], "images": ["batch", 0], "prompt": PROMPT, "keep": 1, "debias": True}
    return node("RewardDanceBestOfN", **{**inputs, "method": "pointwise", **options})


def pixels(comfyui, saved):
    return np.asarray(Image.open(io.BytesIO(comfyui.picture(saved))), dtype=float)
