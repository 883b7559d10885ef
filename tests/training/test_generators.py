"""The shared sampler against each pipeline's own."""

from __future__ import annotations

import pytest
import torch

from diffusers_ext.sampling.decoding import Canvas
from diffusers_ext.training.diffusion import denoise, noise_for
from diffusers_ext.training.errors import LoraTrainingError
from diffusers_ext.training.generators import Generator, canvas_for
from tests.sampling.tiny import built

PROMPTS = ["a photo of a red star", "a photo of three squares"]
FAMILIES = {
    "Stable Diffusion 1.5": {"guidance_scale": 1.0},
    "Stable Diffusion XL": {"guidance_scale": 1.0},
    "Stable Diffusion 3": {"guidance_scale": 1.0},
    "FLUX": {"guidance_scale": 3.5},
    "Qwen-Image": {"true_cfg_scale": 1.0, "negative_prompt": None},
    "Wan": {"guidance_scale": 1.0},
    "Wan, image to video": {"guidance_scale": 1.0},
    "Wan 2.1, image to video": {"guidance_scale": 1.0},
    "Wan 2.2, image to video": {"guidance_scale": 1.0},
}


def generator_of(name):
    pipeline, options = built(name)
    canvas = Canvas(options["height"], options["width"], options.get("num_frames", 1))
    encoding = {name: options[name] for name in ("max_sequence_length",) if name in options}
    return Generator(pipeline, canvas, encoding), options


def condition_of(generator, options):
    """Of both prompts, and of the picture that they begin with, if they do."""
    condition = generator.encode(PROMPTS)
    if "image" in options:
        condition |= generator.begin([options["image"]] * 2, torch.device("cpu"))
    return condition


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_pictures_are_the_pipelines_own(name):
    generator, options = generator_of(name)
    noise = noise_for(generator.shape, [(0,), (1,)])
    condition = condition_of(generator, options)

    def predict(latents, level):
        output = generator.output(generator.denoiser, latents, level.timestep, condition)
        return level.split(generator.predicts, latents, output)

    found = generator.decode(denoise(predict, noise, generator.schedule(5)))
    pipeline = generator.pipeline
    pipeline.scheduler = generator._scheduler
    output = pipeline(prompt=PROMPTS, latents=noise.clone(), output_type="pt", **{**options, **FAMILIES[name]})
    expected = output.frames if name.startswith("Wan") else output.images
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


@pytest.mark.parametrize("name", [name for name in FAMILIES if "image to video" in name])
@torch.no_grad()
def test_videos_begin_with_pictures_of_their_own(name):
    generator, options = generator_of(name)
    pictures = [options["image"], options["image"].rotate(180)]
    noise = noise_for(generator.shape, [(0,)]).expand(2, *generator.shape)
    condition = generator.encode(PROMPTS[:1] * 2) | generator.begin(pictures, torch.device("cpu"))
    level = generator.level(torch.full((2,), 0.5))
    together = generator.output(generator.denoiser, noise, level.timestep, condition)
    for row in range(2):
        alone = {name: value[row : row + 1] for name, value in condition.items()}
        found = generator.output(generator.denoiser, noise[:1], level.timestep[:1], alone)
        torch.testing.assert_close(found, together[row : row + 1], atol=1e-4, rtol=1e-4)
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_nothing_is_learned_of_a_first_frame_that_is_given():
    """Wan 2.2 has it in its latents: what is predicted there is what was given, whatever the denoiser says."""
    generator, options = generator_of("Wan 2.2, image to video")
    condition = condition_of(generator, options)
    level = generator.level(torch.tensor([0.2, 0.9]))
    noise = noise_for(generator.shape, [(0,), (1,)])
    generator.denoiser.requires_grad_(True)
    output = generator.output(generator.denoiser, noise, level.timestep, condition)
    clean = level.split("flow", noise, output).clean
    torch.testing.assert_close(clean[:, :, :1], condition["beginning"], atol=1e-4, rtol=1e-4)
    first, second = (
        torch.autograd.grad(part.sum(), list(generator.denoiser.parameters()), retain_graph=True, allow_unused=True)
        for part in (clean[:, :, :1], clean[:, :, 1:])
    )
    assert all(item is None or not item.any() for item in first) and any(
        item.any() for item in second if item is not None
    )


def test_a_pipeline_of_two_denoisers_is_refused():
    pipeline, options = built("Wan")
    pipeline.register_to_config(boundary_ratio=0.9)
    with pytest.raises(LoraTrainingError, match="two denoisers"):
        Generator(pipeline, Canvas(options["height"], options["width"], 9))


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("Stable Diffusion 1.5", (21, 16, 1), "height: .* multiples of 2, not 21"),
        ("FLUX", (32, 33, 1), "width: .* multiples of"),
        ("Wan", (32, 32, 8), "frames: .* one more than a multiple of 4, not 8; take 5"),
        ("Wan", (32, 40, 9), "width: .* multiples of 16, not 40; take 32"),
    ],
)
def test_a_size_that_a_family_has_no_latents_of_is_refused(name, size, message):
    with pytest.raises(LoraTrainingError, match=message):
        canvas_for(built(name)[0], *size)


def test_noise_of_a_picture_depends_on_its_own_seed_alone():
    both = noise_for((3, 4), [(0, 1), (0, 2)])
    torch.testing.assert_close(both[1:], noise_for((3, 4), [(0, 2)]), rtol=0, atol=0)
    assert not torch.equal(both[0], both[1])


def test_a_pipeline_that_is_not_known_is_refused_with_those_that_are():
    pipeline, options = built("PixArt-Sigma")
    with pytest.raises(LoraTrainingError, match=r"PixArtSigmaPipeline.*FluxPipeline"):
        Generator(pipeline, Canvas(options["height"], options["width"]))
