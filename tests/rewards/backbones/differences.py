"""Derivatives by finite differences."""

from __future__ import annotations

import pytest
import torch


def check_gradient(value, point):
    """The gradient of a float64 function at a point, along three random directions; returns it.

    transformers takes norms in float32 even in a float64 model, so steps must be long; Richardson mends that.
    """
    (gradient,) = torch.autograd.grad(value(point), point)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        direction = torch.randn(point.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            coarse, fine = (
                float(value(point + step * direction) - value(point - step * direction)) / (2 * step)
                for step in (1e-2, 5e-3)
            )
        measured = (4 * fine - coarse) / 3
        assert float((gradient * direction).sum()) == pytest.approx(measured, rel=2e-3, abs=2e-5)
    return gradient
