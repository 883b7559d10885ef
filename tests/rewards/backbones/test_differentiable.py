from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_ext.rewards.errors import ImageError, ModelError, PromptTextError
from diffusers_ext.rewards.model import RewardModel
from tests.rewards.backbones.differences import check_gradient

PROMPT = "a red star"
SIZES = ((56, 56), (120, 60), (200, 90), (33, 47))


def tensor_of(picture):
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255


def smooth(width, height):
    rng = np.random.default_rng(width)
    coarse = Image.fromarray(rng.integers(30, 226, (5, 5, 3)).astype(np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def doubled(judge):
    return RewardModel(copy.deepcopy(judge.model).double(), judge.processor, judge.name, judge.config)


@pytest.mark.parametrize("size", SIZES)
def test_the_tensor_path_makes_the_pixels_that_pillow_makes(judge, size):
    picture = smooth(*size)
    by_pillow, by_torch = judge.backbone.pixels([picture]), judge.backbone.pixels_of(tensor_of(picture))
    assert by_pillow.rows == by_torch.rows
    assert by_pillow.values.shape == by_torch.values.shape
    assert (by_pillow.grid is None) or torch.equal(by_pillow.grid, by_torch.grid)
    # Pillow rounds to 8 bits after each of its two passes; deviations are about 0.27.
    gap = (by_pillow.values - by_torch.values).abs() * 0.27 * 255
    assert gap.max() < 2.0
    assert gap.mean() < 0.5


@pytest.mark.parametrize("size", SIZES)
def test_pictures_of_the_right_size_give_the_same_verdict_and_others_almost(judge, size):
    picture, other = smooth(*size), smooth(64, 56)
    with torch.no_grad():
        scored = judge.log_odds(tensor_of(picture), PROMPT)
        compared = judge.log_odds(tensor_of(picture), PROMPT, reference=other)
    expected = judge.score(picture, PROMPT)[0], judge.compare(picture, other, PROMPT)[0]
    gaps = [abs(float(one) - two.log_odds) for one, two in zip((scored, compared), expected, strict=True)]
    assert max(gaps) < (1e-4 if size == (56, 56) else 2e-2)


def test_a_batch_gives_what_its_members_give_alone(judge):
    images = torch.cat([tensor_of(smooth(64, 56).rotate(angle)) for angle in (0, 180)])
    reference = smooth(56, 56)
    longer = "another much longer prompt"
    with torch.no_grad():
        together = judge.log_odds(images, [PROMPT, longer], reference)
        alone = [judge.log_odds(images[:1], PROMPT, reference), judge.log_odds(images[1:], longer, reference)]
    assert together.tolist() == pytest.approx([float(value) for value in alone], abs=1e-4)


@pytest.mark.parametrize("debias", [False, True])
def test_the_gradient_is_that_of_finite_differences(judge, debias):
    exact = doubled(judge)
    images = tensor_of(smooth(60, 58)).double().requires_grad_()
    reference = tensor_of(smooth(56, 64)).double()

    def value(pixels):
        return exact.log_odds(pixels, PROMPT, reference, debias=debias)[0]

    assert check_gradient(value, images).abs().max() > 0


def test_checkpointing_changes_memory_and_nothing_else(judge):
    images = tensor_of(smooth(64, 56)).requires_grad_()
    results = []
    for checkpointing in (False, True):
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, saved=saved: saved.append(x.numel()) or x, lambda x: x):
            value = judge.log_odds(images, PROMPT, smooth(56, 56), checkpointing=checkpointing)
        results.append((value.detach(), torch.autograd.grad(value.sum(), images)[0], sum(saved)))
    (one, one_gradient, much), (other, other_gradient, little) = results
    assert torch.allclose(one, other, atol=1e-5)
    assert torch.allclose(one_gradient, other_gradient, atol=1e-5)
    assert little < 0.6 * much
    assert not judge.model.training
    assert not any(module.training for module in judge.model.modules())


def test_a_reference_that_requires_a_gradient_gets_one(judge):
    images, reference = tensor_of(smooth(56, 56)), tensor_of(smooth(64, 56)).requires_grad_()
    judge.log_odds(images, PROMPT, reference).sum().backward()
    assert reference.grad.abs().max() > 0


def test_climbing_the_gradient_raises_the_reward(judge):
    images = tensor_of(smooth(56, 56))
    start = judge.score(images, PROMPT)[0].log_odds
    for _ in range(10):
        images = images.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(judge.log_odds(images, PROMPT).sum(), images)
        images = (images + 0.02 * gradient.sign()).clamp(0, 1)
    assert judge.score(images.detach(), PROMPT)[0].log_odds > start + 0.01


def test_the_reranker_has_a_gradient_too(reranker):
    images = tensor_of(smooth(64, 64)).requires_grad_()
    reranker.log_odds(images, PROMPT).sum().backward()
    assert images.grad.abs().max() > 0


@pytest.mark.parametrize(
    "images",
    [torch.rand(3, 8), torch.rand(1, 4, 8, 8), torch.full((1, 3, 8, 8), 2.0), torch.full((1, 3, 8, 8), torch.nan)],
)
def test_bad_tensors_are_refused(judge, images):
    with pytest.raises(ImageError):
        judge.log_odds(images, PROMPT)


def test_other_bad_input_is_refused(judge):
    images = torch.rand(3, 3, 56, 56)
    with pytest.raises(ImageError, match="2 references for 3"):
        judge.log_odds(images, PROMPT, torch.rand(2, 3, 56, 56))
    with pytest.raises(PromptTextError):
        judge.log_odds(images, "")


def test_a_filter_that_cannot_be_differentiated_is_named(judge, monkeypatch):
    monkeypatch.setattr(judge.processor.image_processor, "resample", 1)
    with pytest.raises(ModelError, match="lanczos"):
        judge.log_odds(torch.rand(1, 3, 100, 30), PROMPT)
