"""Numbers on their way to a GPU and back, without waiting for the rest of its work.

A copy to or from ordinary memory waits until the GPU has done everything it was given before, so that no batch could be
laid out while one is computed, and the GPU would be idle meanwhile. Copies to and from pinned memory do not wait.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def sent(values: Tensor, device: torch.device) -> Tensor:
    """The same tensor on a device."""
    if values.device.type != "cpu" or device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def fetching(values: Tensor) -> Callable[[], list[Any]]:
    """Begin to fetch a tensor; called, what is returned waits for it alone and gives its numbers."""
    if values.device.type != "cuda":
        return values.tolist
    numbers = values.to("cpu", non_blocking=True)
    there = torch.cuda.Event()
    there.record(torch.cuda.current_stream(values.device))

    def fetched() -> list[Any]:
        there.synchronize()
        return numbers.tolist()

    return fetched
