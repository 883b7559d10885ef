"""The shared sampler against each pipeline's own."""

from __future__ import annotations

import pytest
import torch

from diffusers_ext.sampling.decoding import Canvas
from diffusers_ext.training.diffusion import denoise, noise_for
from diffusers_ext.training.errors import LoraTrainingError
from diffusers_ext.training.generators import Generator
from tests.sampling.tiny import built

PROMPTS = ["a photo of a red star", "a photo of three squares"]
FAMILIES = {
    "Stable Diffusion 1.5": {"guidance_scale": 1.0},
    "Stable Diffusion XL": {"guidance_scale": 1.0},
    "Stable Diffusion 3": {"guidance_scale": 1.0},
    "FLUX": {"guidance_scale": 3.5},
    "Qwen-Image": {"true_cfg_scale": 1.0, "negative_prompt": None},
    "Wan": {"guidance_scale": 1.0},
}


def generator_of(name):
    pipeline, options = built(name)
    canvas = Canvas(options["height"], options["width"], options.get("num_frames", 1))
    encoding = {name: options[name] for name in ("max_sequence_length",) if name in options}
    return Generator(pipeline, canvas, encoding), options


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_pictures_are_the_pipelines_own(name):
    generator, options = generator_of(name)
    noise = noise_for(generator.shape, [(0,), (1,)])
    condition = generator.encode(PROMPTS)

    def predict(latents, level):
        output = generator.output(generator.denoiser, latents, level.timestep, condition)
        return level.split(generator.predicts, latents, output)

    found = generator.decode(denoise(predict, noise, generator.schedule(5)))
    pipeline = generator.pipeline
    pipeline.scheduler = generator._scheduler
    output = pipeline(PROMPTS, latents=noise.clone(), output_type="pt", **{**options, **FAMILIES[name]})
    expected = output.frames if name == "Wan" else output.images
    torch.testing.assert_close(found.clamp(0, 1), expected.clamp(0, 1), atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_are_encoded_on_the_device_that_is_named_wherever_the_denoiser_waits(name):
    generator, _ = generator_of(name)
    expected = generator.encode(PROMPTS)
    generator.encoding["device"] = torch.device("cpu")
    generator.denoiser.to("meta")
    found = generator.encode(PROMPTS)
    assert found.keys() == expected.keys()
    for part, value in expected.items():
        assert found[part].equal(value)


@pytest.mark.parametrize("name", FAMILIES)
def test_training_levels_agree_with_the_schedule(name):
    """A level drawn for training tells the denoiser the same timestep for the same noise as the sampler does."""
    generator, _ = generator_of(name)
    schedule, drawn = generator.schedule(5), generator.level(torch.linspace(0, 0.9999, 4000))
    for index in range(1, 5):
        nearest = int((drawn.noise - schedule.noise[index]).abs().argmin())
        assert float(drawn.timestep[nearest]) == pytest.approx(float(schedule.timesteps[index]), abs=2.0)
        assert float(drawn.signal[nearest]) == pytest.approx(float(schedule.signal[index]), abs=2e-3)


def test_noise_of_a_picture_depends_on_its_own_seed_alone():
    both = noise_for((3, 4), [(0, 1), (0, 2)])
    torch.testing.assert_close(both[1:], noise_for((3, 4), [(0, 2)]), rtol=0, atol=0)
    assert not torch.equal(both[0], both[1])


def test_a_pipeline_that_is_not_known_is_refused_with_those_that_are():
    pipeline, options = built("PixArt-Sigma")
    with pytest.raises(LoraTrainingError, match=r"PixArtSigmaPipeline.*FluxPipeline"):
        Generator(pipeline, Canvas(options["height"], options["width"]))
