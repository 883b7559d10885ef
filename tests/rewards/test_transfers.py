"""Numbers to a GPU and back are the same there and here."""

from __future__ import annotations

import pytest
import torch

from diffusers_ext.rewards.transfers import fetching, sent

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")),
]


@pytest.mark.parametrize("device", DEVICES)
def test_numbers_come_back_as_they_went(device):
    values = torch.arange(6.0)[::2]
    there = sent(values, torch.device(device))
    assert there.device.type == device and torch.equal(there.cpu(), values)
    assert sent(there, torch.device("cpu")).tolist() == fetching(there)() == values.tolist()
