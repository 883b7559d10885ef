from __future__ import annotations

import pytest
import torch

from benchmarks.memory import NF4, memory
from benchmarks.vlms import SIZES, Size


def test_four_bits_take_what_bitsandbytes_takes():
    functional = pytest.importorskip("bitsandbytes.functional")
    weights = torch.randn(4096, 4096)
    packed, state = functional.quantize_4bit(weights, quant_type="nf4", compress_statistics=True)
    found = packed.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes
    assert found / weights.numel() == pytest.approx(NF4, rel=1e-3)


def test_an_8b_and_a_26b_fit_where_they_should():
    assert memory(SIZES["8b"], quantize_vision=False).total <= 8 * 2**30
    assert memory(SIZES["26b"], quantize_vision=True).total <= 20 * 2**30


def test_keys_and_values_are_those_that_the_engine_keeps():
    size = Size((64, 3, 4, 96), (48, 3, 4, 96), 2, picture=56, patch=14)
    kept = 2 * 2 * 3 * 2 * 16 * ((50 + 4) + 16 * ((50 + 4) + (4 + 50)))
    assert memory(size, quantize_vision=False).cache == kept
