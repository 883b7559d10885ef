"""A LoRA on every family: it learns, it can step back to the base, and what is saved is what was learned."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from diffusers_ext.sampling.decoding import Canvas
from diffusers_ext.training.diffusion import noise_for
from diffusers_ext.training.generators import Generator
from diffusers_ext.training.policy import Policy, add_lora
from diffusers_ext.training.saving import COMFYUI_FILE, comfyui_form, save_lora
from tests.sampling.tiny import built, picture

FAMILIES = (
    "Stable Diffusion 1.5", "Stable Diffusion XL", "Stable Diffusion 3", "FLUX", "Qwen-Image", "Wan",
    "Wan 2.1, image to video", "Wan 2.2, image to video",
)  # fmt: skip
PROMPTS = ["a photo of a red star", "a photo of three squares"]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_lora_learns_steps_back_and_comes_back_from_disk(name, tmp_path):
    generator = generator_of(name)
    noise, condition = noise_for(generator.shape, [(0,), (1,)]), generator.encode(PROMPTS)
    if generator.calling.begin is not None:
        condition |= generator.begin([picture()] * 2, torch.device("cpu"))
    level = generator.level(torch.tensor([0.3, 0.7]))
    with torch.no_grad():
        base = generator.output(generator.denoiser, noise, level.timestep, condition)
    lora = add_lora(generator, rank=2, alpha=3, targets=None, seed=0)
    policy = Policy(generator)

    def output():
        return generator.output(policy.network, noise, level.timestep, condition)

    torch.testing.assert_close(output(), base)
    output().square().mean().backward()
    # The last block's words lead nowhere in some families.
    gradients = {key: item.grad.clone() for key, item in policy.learned.items() if item.grad is not None}
    assert sum(bool(value.abs().max() > 0) for value in gradients.values()) >= len(gradients) / 4
    generator.denoiser.enable_gradient_checkpointing()
    generator.denoiser.zero_grad()
    output().square().mean().backward()
    for key, value in gradients.items():
        torch.testing.assert_close(policy.learned[key].grad, value)

    with torch.no_grad():
        for item in policy.learned.values():
            item.add_(torch.randn(item.shape, generator=torch.Generator().manual_seed(1)) / 4)
        learned = output()
        assert (learned - base).abs().max() > 1e-4
        with policy.acting_as({}):
            torch.testing.assert_close(output(), base)
        torch.testing.assert_close(output(), learned)
        family, part = type(generator.pipeline).__name__, generator.calling.denoiser
        save_lora(tmp_path, generator.denoiser, part, family, lora, {"iterations": 1})
        fresh = generator_of(name)
        fresh.pipeline.load_lora_weights(tmp_path)
        torch.testing.assert_close(fresh.output(fresh.denoiser, noise, level.timestep, condition), learned)

        # ComfyUI adds alpha / rank * up @ down to the weights that a name stands for.
        merged, weights = generator_of(name), load_file(tmp_path / COMFYUI_FILE)
        for layer, module in merged.denoiser.named_modules():
            names = comfyui_form(_factors(layer), part, family, 3.0)
            key = next(name for name in names if name.endswith(".alpha")).removesuffix(".alpha")
            if f"{key}.alpha" in weights:
                one, two = ("lora_A", "lora_B") if f"{key}.lora_A.weight" in weights else ("lora_down", "lora_up")
                down, up = weights.pop(f"{key}.{one}.weight"), weights.pop(f"{key}.{two}.weight")
                module.weight += weights.pop(f"{key}.alpha") / len(down) * up @ down
        assert not weights
        found = merged.output(merged.denoiser, noise, level.timestep, condition)
        torch.testing.assert_close(found, learned, atol=1e-4, rtol=1e-4)


def test_wans_layers_go_by_its_authors_names():
    found = comfyui_form(
        {
            **_factors("blocks.0.attn1.to_out.0"),
            **_factors("blocks.1.attn2.to_q"),
            **_factors("blocks.1.attn2.add_k_proj"),
            **_factors("blocks.1.ffn.net.2"),
        },
        "transformer",
        "WanPipeline",
        1.0,
    )
    layers = {key.removesuffix(".alpha") for key in found if key.endswith(".alpha")}
    assert layers == {
        "diffusion_model.blocks.0.self_attn.o",
        "diffusion_model.blocks.1.cross_attn.q",
        "diffusion_model.blocks.1.cross_attn.k_img",
        "diffusion_model.blocks.1.ffn.2",
    }


def _factors(layer):
    return {f"{layer}.lora_A.weight": torch.ones(1, 1), f"{layer}.lora_B.weight": torch.ones(1, 1)}


def generator_of(name):
    pipeline, options = built(name)
    canvas = Canvas(options["height"], options["width"], options.get("num_frames", 1))
    encoding = {key: options[key] for key in ("max_sequence_length",) if key in options}
    return Generator(pipeline, canvas, encoding)
