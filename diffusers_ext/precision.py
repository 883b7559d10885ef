"""The precision that networks compute in: bfloat16 where the hardware multiplies in it, float32 where it does not.

Hardware without such instructions emulates them: a processor that has AVX2 alone takes thirty times as long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "float32", "bfloat16"]


def in_bfloat16(device: torch.device, precision: Precision = "auto") -> bool:
    """Whether to compute in bfloat16: as a configuration says, or, if it leaves the choice, where that is fast.

    Weights that learn stay in float32 either way; see :class:`torch.autocast`.
    """
    if precision != "auto":
        return precision == "bfloat16"
    import torch

    if device.type == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def autocast(device: torch.device, precision: Precision = "auto") -> torch.autocast:
    """Matrix products and convolutions in that precision, the rest and all weights in float32."""
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=in_bfloat16(device, precision))
