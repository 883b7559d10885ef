from __future__ import annotations

import json
import shutil
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    Qwen2_5_VLConfig,
    Qwen3VLConfig,
)

from diffusers_ext.cli.quantizing import quantize
from diffusers_ext.nano import REWARD_MODELS
from diffusers_ext.rewards.errors import ModelError
from diffusers_ext.rewards.model import RewardModel
from diffusers_ext.rewards.quantization import (
    SCHEMES,
    check_scheme,
    loading_options,
    modules_to_keep,
    save_quantized,
)

BNB = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
AO = pytest.mark.skipif(find_spec("torchao") is None, reason="needs torchao")
RUNNABLE = [
    pytest.param("nf4", marks=BNB),
    pytest.param("int8", marks=BNB),
    pytest.param("torchao-int8", marks=AO),
    pytest.param("torchao-fp8", marks=AO),
]
CPU = torch.device("cpu")
PROMPT = "a red star"


@pytest.fixture(scope="module")
def folder(untrained_model_folder, tmp_path_factory):
    copy = shutil.copytree(untrained_model_folder, tmp_path_factory.mktemp("source") / "model")
    weights = {name: value.half() for name, value in load_file(copy / "model.safetensors").items()}
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    (copy / "reward_config.json").write_text('{"temperature": 2.0}')
    (copy / "README.md").write_text("---\nlicense: apache-2.0\n---\n\n# model\n\nFigures.\n")
    (copy / "LICENSE").write_text("Anyone may use it.\n")
    (copy / "training.bin").write_bytes(b"not to be copied")
    return copy


@pytest.fixture(scope="module")
def load(folder):
    kept = {}

    def loaded(name=None, **options):
        key = (name, *sorted(options.items()))
        if key not in kept:
            kept[key] = RewardModel.from_pretrained(folder, name, "cpu", **options)
        return kept[key]

    return loaded


def log_odds(judge, pictures):
    asked = judge.compare(pictures[:3], pictures[3:], PROMPT), judge.score(pictures[:3], PROMPT)
    return np.array([item.log_odds for found in asked for item in found])


def is_quantized(module):
    return not module.weight.is_floating_point() or hasattr(module.weight, "__tensor_flatten__")


def quantized_names(model):
    return {name for name, module in model.named_modules() if isinstance(module, nn.Linear) and is_quantized(module)}


def linear_names(model, *parts):
    return {name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name.startswith(parts)}


def dequantized(module):
    import bitsandbytes

    weight = module.weight
    if hasattr(weight, "dequantize") and hasattr(weight, "__tensor_flatten__"):
        return weight.dequantize()
    if hasattr(weight, "quant_state"):
        return bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
    state = module.state
    return bitsandbytes.functional.int8_vectorwise_dequant(
        weight.data if state.CB is None else state.CB, weight.SCB if state.SCB is None else state.SCB
    )


def with_weights_of(judge, folder):
    plain = RewardModel.from_pretrained(folder, device="cpu")
    with torch.no_grad():
        for name in quantized_names(judge.model):
            module = judge.model.get_submodule(name)
            target = plain.model.get_submodule(name).weight
            assert not torch.equal(target, dequantized(module))
            target.copy_(dequantized(module))
    return plain


@pytest.mark.parametrize(
    "name",
    [pytest.param("nf4", marks=BNB), pytest.param("torchao-int8", marks=AO), pytest.param("torchao-fp8", marks=AO)],
)
def test_judges_as_a_plain_model_with_the_dequantized_weights_does(name, load, folder, pictures):
    judge = load(name)
    found = log_odds(judge, pictures)
    assert found == pytest.approx(log_odds(with_weights_of(judge, folder), pictures), abs=1e-3)
    assert found == pytest.approx(log_odds(load(), pictures), abs=1.0)
    assert found != pytest.approx(log_odds(load(), pictures), abs=1e-4)


class LlmInt8(nn.Module):
    """LLM.int8 as Dettmers et al. (2022) write it, in float64, with outliers above 6 kept."""

    def __init__(self, linear):
        super().__init__()
        self.weight, self.bias = linear.weight.double(), None if linear.bias is None else linear.bias.double()

    def forward(self, inputs):
        rows = inputs.half().double().flatten(0, -2)
        outlier = (rows.abs() >= 6).any(0)
        ordinary = rows.masked_fill(rows.abs() >= 6, 0)
        scale_x = ordinary.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
        scale_w = self.weight.abs().amax(1, keepdim=True) / 127
        weight = (self.weight / scale_w).round()
        exact = (ordinary / scale_x).round()
        exact[:, outlier] = 0
        out = (exact @ weight.T) * scale_x * scale_w.T + rows[:, outlier] @ (weight * scale_w)[:, outlier].T
        out = out if self.bias is None else out + self.bias
        return out.unflatten(0, inputs.shape[:-1]).to(inputs.dtype)


@BNB
def test_int8_judges_as_the_paper_has_it(load, folder, pictures):
    judge, reference = load("int8"), RewardModel.from_pretrained(folder, device="cpu")
    for name in quantized_names(judge.model):
        reference.model.set_submodule(name, LlmInt8(reference.model.get_submodule(name)))
    assert log_odds(judge, pictures) == pytest.approx(log_odds(reference, pictures), abs=0.1)
    inputs = torch.randn(2, 5, judge.model.config.text_config.hidden_size, generator=torch.Generator().manual_seed(0))
    inputs[0, 2, 7] = 20.0
    for name in sorted(name for name in quantized_names(judge.model) if "down_proj" not in name):
        with torch.no_grad():
            found, expected = (one.model.get_submodule(name)(inputs) for one in (judge, reference))
        torch.testing.assert_close(found, expected, rtol=0, atol=0.05)  # a number or two may round the other way
        assert (found - expected).abs().median() < 1e-3


@BNB
def test_nf4_weights_take_sixteen_values_in_each_block_and_int8_weights_are_within_half_a_step(load):
    plain = load().model
    for name in sorted(quantized_names(load("nf4").model)):
        blocks = dequantized(load("nf4").model.get_submodule(name)).reshape(-1, 64)
        assert max(block.unique().numel() for block in blocks) <= 16
        weight = plain.get_submodule(name).weight
        step = weight.abs().amax(1, keepdim=True) / 127
        assert ((dequantized(load("int8").model.get_submodule(name)) - weight).abs() <= 0.51 * step).all()


@pytest.mark.parametrize("name", RUNNABLE)
def test_the_language_model_is_quantized_and_nothing_else(name, load):
    model = load(name).model
    assert quantized_names(model) == linear_names(model, "model.language_model.layers")
    assert all(
        parameter.dtype == torch.float32 for parameter in model.parameters() if type(parameter) is torch.nn.Parameter
    )


@pytest.mark.parametrize("name", [pytest.param("nf4", marks=BNB), pytest.param("torchao-int8", marks=AO)])
def test_the_vision_tower_and_the_projector_are_quantized_where_asked(name, load, pictures):
    judge = load(name, quantize_vision=True)
    assert quantized_names(judge.model) == linear_names(judge.model, "model.")
    assert log_odds(judge, pictures) == pytest.approx(log_odds(load(), pictures), abs=1.5)


TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 128,
}
VISION = {"depth": 1, "hidden_size": 64, "out_hidden_size": 64, "num_heads": 2, "intermediate_size": 64}
QWEN = [
    Qwen2_5_VLConfig(text_config=TEXT, vision_config={**VISION, "fullatt_block_indexes": [0]}),
    Qwen3VLConfig(text_config={**TEXT, "head_dim": 32}, vision_config={**VISION, "deepstack_visual_indexes": [0]}),
]


def test_what_is_kept_is_read_off_the_config(folder):
    internvl = AutoConfig.from_pretrained(folder)
    assert set(modules_to_keep(internvl)) == {"model.vision_tower", "model.multi_modal_projector", "lm_head"}
    assert modules_to_keep(internvl, quantize_vision=True) == ["lm_head"]
    for config in QWEN:
        assert set(modules_to_keep(config)) == {"model.visual", "lm_head"}
        assert modules_to_keep(config, quantize_vision=True) == ["lm_head"]


@BNB
@pytest.mark.parametrize("config", QWEN, ids=lambda config: config.model_type)
def test_qwen_models_keep_what_sees_and_the_head(config, tmp_path):
    AutoModelForImageTextToText.from_config(config).save_pretrained(tmp_path)
    options = loading_options(str(tmp_path), AutoConfig.from_pretrained(tmp_path), "nf4", False, CPU, torch.float32)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path, **options)
    assert quantized_names(model) == linear_names(model, "model.language_model.layers")
    assert len(quantized_names(model)) == 7


def gradient_at_embeddings(judge, pictures):
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPT}]}]
    text = judge.processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    inputs = judge.processor(images=[pictures[0]], text=[text], return_tensors="pt")
    embedded = judge.model.get_input_embeddings()(inputs["input_ids"]).detach().requires_grad_()
    logits = judge.model(
        inputs_embeds=embedded, pixel_values=inputs["pixel_values"], attention_mask=inputs["attention_mask"]
    ).logits[0, -1]
    (logits[7] - logits[11]).backward()
    return embedded.grad


@BNB
def test_gradients_reach_the_embeddings_through_nf4_weights_also_after_scoring(load, folder, pictures):
    judge = load("nf4")
    judge.score(pictures[0], PROMPT)  # a pass without gradients is where bitsandbytes may repack the weights
    found = gradient_at_embeddings(judge, pictures)
    expected = gradient_at_embeddings(with_weights_of(judge, folder), pictures)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@BNB
def test_gradients_reach_the_pixels_through_nf4_weights(load, folder, pictures):
    quantized, plain = load("nf4"), with_weights_of(load("nf4"), folder)
    images = torch.from_numpy(np.array(pictures[0])).permute(2, 0, 1)[None] / 255
    found = []
    for judge in (quantized, plain):
        pixels = images.clone().requires_grad_()
        judge.log_odds(pixels, PROMPT, pictures[1]).sum().backward()
        found.append(pixels.grad)
    assert found[1].abs().max() > 1e-4
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", RUNNABLE)
def test_a_quantized_checkpoint_judges_as_the_model_quantized_on_loading(name, load, folder, pictures, tmp_path):
    out = tmp_path / "made" / "out"
    quantize(str(folder), out, scheme=name, device="cpu")
    judge = RewardModel.from_pretrained(out, device="cpu")
    assert np.array_equal(log_odds(judge, pictures), log_odds(load(name), pictures))
    assert quantized_names(judge.model) == quantized_names(load(name).model)
    assert judge.config.temperature == 2.0
    again = RewardModel.from_pretrained(out, name, "cpu")
    assert np.array_equal(log_odds(again, pictures), log_odds(judge, pictures))
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert (out / "model.safetensors").stat().st_size < (folder / "model.safetensors").stat().st_size


@BNB
def test_a_judge_that_comes_with_the_package_is_quantized_by_its_name(pictures, tmp_path):
    out = tmp_path / "smaller"
    quantize("reward-200k", out, device="cpu")
    judge = RewardModel.from_pretrained(out, device="cpu")
    known = RewardModel.from_pretrained(REWARD_MODELS["reward-200k"], "nf4", "cpu")
    assert np.array_equal(log_odds(judge, pictures), log_odds(known, pictures))
    assert judge.config == known.config


@BNB
def test_a_quantized_checkpoint_brings_all_but_the_weights_along(folder, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    quantize(str(folder), tmp_path / "out", scheme="nf4", device="cpu", json=True)
    report = json.loads(capsys.readouterr().out)
    assert report["bytes"] == (tmp_path / "out" / "model.safetensors").stat().st_size
    assert (report["quantization"], report["out"]) == ("nf4", str(tmp_path / "out"))
    before, after = ({path.name: path for path in parent.iterdir()} for parent in (folder, tmp_path / "out"))
    assert set(before) - set(after) == {"training.bin"}
    for name in set(after) - {"README.md", "config.json", "generation_config.json", "model.safetensors"}:
        assert after[name].read_bytes() == before[name].read_bytes()
    card = after["README.md"].read_text()
    assert card.startswith("---\nlicense: apache-2.0\n---\n\n> Quantized from `model`:")
    assert all(f"`{name}`" in card for name in ("model.vision_tower", "model.multi_modal_projector", "lm_head"))
    assert card.endswith("\n\n# model\n\nFigures.\n")


@BNB
def test_a_checkpoint_made_in_another_precision_loads(folder, pictures, tmp_path):
    half = RewardModel.from_pretrained(folder, "nf4", "cpu", torch.bfloat16)
    expected = log_odds(half, pictures)
    save_quantized(half.model, str(folder), "nf4", tmp_path / "out")
    judge = RewardModel.from_pretrained(tmp_path / "out", device="cpu")
    assert judge.model.config.quantization_config.bnb_4bit_compute_dtype == torch.float32
    assert log_odds(judge, pictures) == pytest.approx(expected, abs=0.3)


@BNB
def test_a_full_disk_leaves_nothing_behind(folder, tmp_path):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    out = tmp_path / "out"
    judge = RewardModel.from_pretrained(folder, "nf4", "cpu")
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(ModelError, match="could not be written"):
            save_quantized(judge.model, str(folder), "nf4", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(folder, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match="not empty"):
        quantize(str(folder), tmp_path, device="cpu")
    with pytest.raises(ModelError, match="is a file"):
        quantize(str(folder), tmp_path / "notes.txt", device="cpu")
    assert (tmp_path / "notes.txt").read_text() == "mine"


@AO
def test_weights_that_torchao_cannot_store_are_refused(folder, tmp_path):
    from torchao.quantization.quantize_.workflows.nf4.nf4_tensor import to_nf4

    model = RewardModel.from_pretrained(folder, "torchao-int8", "cpu").model
    layer = model.get_submodule(min(quantized_names(model)))
    layer.weight = nn.Parameter(to_nf4(torch.randn(64, 256), 64, 2), requires_grad=False)
    with pytest.raises(ModelError, match="NF4Tensor as safetensors"):
        save_quantized(model, str(folder), "torchao-int8", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_scheme_is_refused_and_the_others_are_named(folder, tmp_path):
    for call in (
        lambda: RewardModel.from_pretrained(folder, "int3", "cpu"),
        lambda: quantize(str(folder), tmp_path / "out", scheme="int3", device="cpu"),
    ):
        with pytest.raises(ModelError, match=r"'int3' is not known; it can be 'nf4', .*'torchao-fp8' or None"):
            call()


def test_a_scheme_whose_library_is_not_there_is_refused():
    with pytest.raises(ModelError, match="needs no_such_library: pip install 'rewarddance"):
        check_scheme(replace(SCHEMES["nf4"], library="no_such_library"), CPU, torch.float32)


@AO
def test_a_scheme_that_does_not_run_on_the_device_is_refused_and_those_that_do_are_named(folder):
    with pytest.raises(ModelError, match=r"'torchao-int4' does not run on cpu, only on cuda; on cpu there is .*None"):
        RewardModel.from_pretrained(folder, "torchao-int4", "cpu")
    with pytest.raises(ModelError, match="computes in bfloat16, not in float32"):
        check_scheme(SCHEMES["torchao-int4"], torch.device("cuda"), torch.float32)


def test_quantize_vision_alone_is_refused(folder):
    with pytest.raises(ModelError, match="name a quantization too"):
        RewardModel.from_pretrained(folder, device="cpu", quantize_vision=True)


@BNB
def test_a_quantized_checkpoint_is_not_quantized_again(folder, tmp_path):
    save_quantized(RewardModel.from_pretrained(folder, "nf4", "cpu").model, str(folder), "nf4", out := tmp_path / "out")
    with pytest.raises(ModelError, match="quantized already, as nf4"):
        RewardModel.from_pretrained(out, "int8", "cpu")
    with pytest.raises(ModelError, match="quantized already"):
        RewardModel.from_pretrained(out, "nf4", "cpu", quantize_vision=True)


def test_a_checkpoint_that_others_quantized_says_how(untrained_model_folder, tmp_path):
    copy = shutil.copytree(untrained_model_folder, tmp_path / "model")
    config = json.loads((copy / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq", "bits": 4, "group_size": 128}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="quantized already, as awq"):
        RewardModel.from_pretrained(copy, "nf4", "cpu")
    if find_spec("gptqmodel") is None:
        with pytest.raises(ModelError, match="could not be loaded"):
            RewardModel.from_pretrained(copy, device="cpu")


def test_attention_implementations_agree(load, pictures):
    assert load().model.config._attn_implementation == "sdpa"
    assert load(attention="eager").model.config._attn_implementation == "eager"
    assert log_odds(load(attention="eager"), pictures) == pytest.approx(log_odds(load(), pictures), abs=1e-4)


def test_attention_that_is_not_there_is_refused(folder):
    with pytest.raises(ModelError, match="'xformers' is not known; it can be 'sdpa', 'eager', 'flash_attention_2' or"):
        RewardModel.from_pretrained(folder, device="cpu", attention="xformers")
    with pytest.raises(ModelError, match=r"needs flash-attn|runs on a GPU"):
        RewardModel.from_pretrained(folder, device="cpu", attention="flash_attention_2")
