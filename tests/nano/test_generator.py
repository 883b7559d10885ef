from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusion3Pipeline

from diffusers_ext.nano import DEFAULT_PIPELINE, GENERATOR_OPTIONS
from diffusers_ext.nano.autoencoder import (
    SCALING_FACTOR,
    SHIFT_FACTOR,
    AutoencoderRecipe,
    build_autoencoder,
    pictures,
    train_autoencoder,
)
from diffusers_ext.nano.export import export_generator
from diffusers_ext.nano.generator import (
    EMPTY_TOKENS,
    KIND_SHARES,
    PROMPT_LENGTH,
    CaptionedPictures,
    GeneratorRecipe,
    Trainable,
    build_pipeline,
    build_silent_t5,
    build_tokenizer,
    sample_sigmas,
    tokenize,
    train_generator,
)
from diffusers_ext.nano.oracle import judge
from diffusers_ext.nano.scenes import PROMPT_KINDS, all_prompts, parse_prompt
from diffusers_ext.states import read_state

PROMPTS = ["a photo of a red circle and a blue square", "a photo of four crosses", ""]


def small_autoencoder() -> AutoencoderTiny:
    """One of the same kind and latents that encodes the thousands of pictures a run begins with in a second."""
    thin = (8, 8, 8, 8)
    return AutoencoderTiny(
        latent_channels=16,
        encoder_block_out_channels=thin,
        decoder_block_out_channels=thin,
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
        scaling_factor=SCALING_FACTOR,
        shift_factor=SHIFT_FACTOR,
    )


@pytest.fixture(scope="module")
def pipeline():
    torch.manual_seed(0)
    found = build_pipeline(build_autoencoder())
    found.set_progress_bar_config(disable=True)
    return found


@pytest.fixture(scope="module")
def saved(pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("generator")
    pipeline.save_pretrained(folder)
    return folder


def paint(pipeline, prompts, seed=0, **options):
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 4, "guidance_scale": 1.0, "max_sequence_length": 1, **options}
    generators = [torch.Generator().manual_seed(seed + number) for number in range(len(prompts))]
    return pipeline(prompts, generator=generators, output_type="np", **options).images


def test_a_saved_pipeline_paints_the_same_pictures(pipeline, saved):
    loaded = StableDiffusion3Pipeline.from_pretrained(saved)
    first, again = paint(pipeline, PROMPTS), paint(loaded, PROMPTS)
    assert first.shape == (3, 64, 64, 3)
    assert np.array_equal(first, again)
    assert np.array_equal(first, paint(loaded, PROMPTS))
    assert not np.array_equal(first, paint(loaded, PROMPTS, seed=9))


def test_the_shipped_options_run(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    (image,) = pipeline(PROMPTS[0], generator=torch.Generator().manual_seed(0), **GENERATOR_OPTIONS).images
    assert image.size == (64, 64)


def test_guidance_and_all_of_t5_run(pipeline):
    images = paint(pipeline, PROMPTS[:1], guidance_scale=3.0, max_sequence_length=EMPTY_TOKENS)
    assert np.isfinite(images).all()


@pytest.mark.parametrize("kind", PROMPT_KINDS)
def test_every_word_is_one_token_and_no_prompt_is_cut(kind):
    tokenizer = build_tokenizer()
    for spec in all_prompts(kind):
        tokens = tokenizer(spec.text + ".").input_ids
        assert len(tokens) == len(spec.text.split()) + 3 <= PROMPT_LENGTH
        assert tokenizer.unk_token_id not in tokens[:-1]
        words = tokenizer.convert_ids_to_tokens(tokenizer(spec.text, add_special_tokens=False).input_ids)
        assert [word.removesuffix("</w>") for word in words] == spec.text.split()


def test_prompts_are_padded_as_the_pipeline_pads_them(pipeline):
    tokens = tokenize(pipeline.tokenizer, PROMPTS)
    assert tokens.shape == (3, PROMPT_LENGTH)
    assert (tokens[:, 0] == pipeline.tokenizer.bos_token_id).all()
    assert tokens[2, 1] == pipeline.tokenizer.eos_token_id
    assert pipeline.tokenizer.decode(tokens[0], skip_special_tokens=True).strip() == PROMPTS[0]


@pytest.mark.parametrize("empty_tokens", [1, EMPTY_TOKENS])
def test_training_encodes_prompts_as_the_pipeline_does(pipeline, empty_tokens):
    with torch.inference_mode():
        sequence, pooled = Trainable(pipeline).encode(tokenize(pipeline.tokenizer, PROMPTS), empty_tokens)
        expected, _, expected_pooled, _ = pipeline.encode_prompt(
            PROMPTS, PROMPTS, PROMPTS, do_classifier_free_guidance=False, max_sequence_length=empty_tokens
        )
    torch.testing.assert_close(sequence, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(pooled, expected_pooled, atol=1e-6, rtol=0)
    assert sequence.shape == (3, PROMPT_LENGTH + empty_tokens, 160)
    assert not torch.allclose(pooled[0], pooled[1])


def test_the_silent_t5_says_nothing():
    encoder, tokenizer = build_silent_t5()
    tokens = tokenizer("anything at all", return_tensors="pt").input_ids
    assert (encoder(tokens).last_hidden_state == 0).all()


def test_sigmas_lie_between_clean_and_noise():
    sigmas = sample_sigmas(np.random.default_rng(0), 20000)
    assert sigmas.dtype == torch.float32
    assert ((sigmas > 0) & (sigmas < 1)).all()
    # The flow shift of 3 takes the median of both halves, 1/2, to 3/4.
    assert float(sigmas.median()) == pytest.approx(0.75, abs=0.01)
    assert torch.equal(sigmas, sample_sigmas(np.random.default_rng(0), 20000))


def test_the_shift_is_the_schedulers(pipeline):
    pipeline.scheduler.set_timesteps(4)
    base = torch.linspace(1, 1 / 1000, 4)
    assert pipeline.scheduler.config.shift == 3.0
    assert float(pipeline.scheduler.sigmas[0]) == pytest.approx(float(3 * base[0] / (1 + 2 * base[0])))


def test_training_pictures_are_what_the_autoencoder_takes():
    found = pictures(np.random.default_rng(0), 6, degraded=0.5)
    assert found.shape == (6, 3, 64, 64)
    assert found.dtype == torch.float32
    assert float(found.min()) >= -1 and float(found.max()) <= 1
    latents = build_autoencoder().encode(found).latents
    assert latents.shape == (6, 16, 8, 8)


def test_the_autoencoder_trains_and_loads(tmp_path):
    trained = train_autoencoder(tmp_path, AutoencoderRecipe(steps=2, batch_size=2))
    loaded = AutoencoderTiny.from_pretrained(tmp_path)
    assert (loaded.config.scaling_factor, loaded.config.shift_factor) == (SCALING_FACTOR, SHIFT_FACTOR)
    images = pictures(np.random.default_rng(1), 2)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(images).sample, trained(images).sample, atol=1e-5, rtol=1e-5)
    torch.manual_seed(0)
    start = build_autoencoder().state_dict()
    assert any(not torch.equal(start[name], value) for name, value in loaded.state_dict().items())


@pytest.mark.parametrize("slips", [0.0, 0.4])
def test_a_share_of_the_captions_is_wrong_by_the_oracle(slips):
    painter = StableDiffusion3Pipeline.from_pretrained(DEFAULT_PIPELINE)
    pictures = CaptionedPictures(painter.vae, painter.tokenizer, 300, slips)
    rng = np.random.default_rng(0)
    pictures.draw(rng, 300)
    latents, tokens = pictures.sample(rng, 300)
    with torch.inference_mode():
        decoded = painter.vae.decode(latents / SCALING_FACTOR + SHIFT_FACTOR).sample
    texts = painter.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    specs = [parse_prompt(text) for text in texts]
    images = painter.image_processor.postprocess(decoded, output_type="pil")
    right = np.mean([judge(image, spec).correct for image, spec in zip(images, specs, strict=True)])
    assert right == pytest.approx(1 - slips, abs=0.08)  # the autoencoder costs a little
    assert any(spec.is_held_out for spec in specs)
    kinds = [spec.kind for spec in specs]
    for kind, share in KIND_SHARES.items():
        assert kinds.count(kind) / 300 == pytest.approx(share, abs=0.1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    small_autoencoder().save_pretrained(folder / "autoencoder")
    recipe = GeneratorRecipe(steps=2, batch_size=16, kept_pictures=2100, empty_tokens_every=2, slips=0.3)
    return folder, recipe, train_generator(folder / "generator", folder / "autoencoder", recipe)


def test_the_generator_trains_and_loads(trained):
    folder, _, painter = trained
    loaded = StableDiffusion3Pipeline.from_pretrained(folder / "generator")
    assert np.array_equal(paint(painter, PROMPTS), paint(loaded, PROMPTS))
    state = read_state(folder / "generator" / "training.pt")
    assert state["step"] == 2
    average, model = (state[name] for name in ("average", "model"))
    transformer = loaded.transformer.state_dict()
    for name, value in transformer.items():
        assert torch.equal(value, average[f"transformer.{name}"])
    assert any(not torch.equal(average[name], model[name]) for name in model)
    with torch.inference_mode():
        sequence, *_ = loaded.encode_prompt("a photo of a star", None, None, do_classifier_free_guidance=False)
    assert (sequence[0, PROMPT_LENGTH:] == 0).all()


def test_the_generator_goes_on_from_its_state(trained):
    folder, recipe, painter = trained
    again = train_generator(folder / "generator", folder / "autoencoder", recipe)
    assert np.array_equal(paint(painter, PROMPTS), paint(again, PROMPTS))


def test_an_exported_generator_paints_nearly_the_same(trained, tmp_path):
    folder, _, painter = trained
    export_generator(folder / "generator", tmp_path / "shipped")
    assert not list((tmp_path / "shipped").rglob("training.pt"))
    assert not any("_name_or_path" in path.read_text() for path in (tmp_path / "shipped").rglob("*.json"))
    loaded = StableDiffusion3Pipeline.from_pretrained(tmp_path / "shipped")
    assert loaded.transformer.dtype == loaded.text_encoder.dtype == loaded.vae.dtype == torch.float32
    assert np.abs(paint(painter, PROMPTS) - paint(loaded, PROMPTS)).max() < 0.02
    sizes = [sum(f.stat().st_size for f in path.rglob("diffusion*.safetensors")) for path in (folder, tmp_path)]
    assert sizes[1] < 0.55 * sizes[0]
    torch.testing.assert_close(loaded.text_encoder.state_dict(), painter.text_encoder.state_dict(), atol=0, rtol=0)
