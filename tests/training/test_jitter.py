"""Jitter against pictures whose change can be told, and its gradient against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffusers_ext.training.jitter import Jitter, jittered

SEEDS = [(0, 1, number) for number in range(6)]


def flat(count: int = 6, **size: int) -> torch.Tensor:
    return torch.full((count, 3, size.get("height", 20), size.get("width", 20)), 0.5, dtype=torch.float64)


def test_it_moves_what_is_shown_by_no_more_than_asked():
    images = torch.zeros(6, 3, 20, 20)
    images[:, :, 10, 10] = 1
    found = jittered(images, Jitter(shift=0.1, light=0.0, noise=0.0), SEEDS)
    places = (found[:, 0] == 1).nonzero()[:, 1:]
    assert len(places) == 6 and (places - 10).abs().max() <= 2 and len({tuple(item) for item in places.tolist()}) > 1


def test_light_and_noise_are_as_strong_as_asked():
    lit = jittered(flat(), Jitter(light=0.1, noise=0.0), SEEDS)
    assert (lit.std((1, 2, 3)) < 1e-6).all() and (lit / 0.5 - 1).abs().max() <= 0.1 and lit.std() > 0.01
    noisy = jittered(flat(), Jitter(light=0.0, noise=0.1), SEEDS)
    assert (noisy.std((1, 2, 3)) <= 0.105).all() and noisy.std() > 0.02


def test_a_picture_is_changed_by_its_own_seed_alone():
    images = torch.rand(6, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    found = jittered(images, Jitter(), SEEDS)
    torch.testing.assert_close(found[3:5], jittered(images[3:5], Jitter(), SEEDS[3:5]))
    assert found.min() >= 0 and found.max() <= 1


def test_frames_of_a_video_move_together():
    video = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).expand(4, 3, 16, 16)[None]
    found = jittered(video, Jitter(noise=0.0), [(1,)])
    assert found.shape == video.shape
    torch.testing.assert_close(found[0, 0], found[0, 3])


def test_the_gradient_is_that_of_finite_differences():
    rng = np.random.default_rng(0)
    image = torch.tensor(rng.uniform(0.3, 0.7, (1, 3, 6, 6)), requires_grad=True)
    weights = torch.tensor(rng.normal(size=(1, 3, 6, 6)))

    def value(pixels: torch.Tensor) -> torch.Tensor:
        return (weights * jittered(pixels, Jitter(shift=0.2), [(3, 4)])).sum()

    value(image).backward()
    direction = torch.tensor(rng.normal(size=(1, 3, 6, 6)))
    with torch.no_grad():
        expected = (value(image + 1e-6 * direction) - value(image - 1e-6 * direction)) / 2e-6
    assert float((image.grad * direction).sum()) == pytest.approx(float(expected), rel=1e-6)
