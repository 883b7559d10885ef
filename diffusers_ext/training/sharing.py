"""What processes share among them: always the pictures of an iteration, and with FSDP 2 the frozen denoiser too.

The LoRA is tiny beside it, is exchanged for other weights all the time, and is saved by the first process alone; so it
stays whole in every process, and its gradients are averaged here. A forward pass of a denoiser that is spread is made
by all processes together: whatever they do, all of them have to call it equally often.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import nn

from ..processes import check_fsdp, check_sharing
from .config import LoraTraining
from .errors import LoraTrainingError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from .policy import Policy


def settle(accelerator: Accelerator, config: LoraTraining) -> None:
    """See that what is learned will be what one process learns, before anything is loaded.

    Raises:
        LoraTrainingError: groups that cannot be shared out evenly, an engine that is not served, or one that does not
            go with quantized weights.
    """
    check_sharing(accelerator, "groups", config.groups, LoraTrainingError)
    if accelerator.distributed_type == "DEEPSPEED":
        raise LoraTrainingError(
            "distributed_type: DeepSpeed is not served, since it spreads what learns, here a small LoRA that has to be "
            "whole to be exchanged for other weights; take ddp.yaml, or fsdp.yaml, which spreads the frozen denoiser"
        )
    if shards(accelerator):
        check_fsdp(accelerator, config.quantization, LoraTrainingError)
        if accelerator.state.fsdp_plugin.cpu_ram_efficient_loading:
            raise LoraTrainingError(
                "fsdp_cpu_ram_efficient_loading: leave it off; judges and LoRAs would be empty in all processes but one"
            )


def shards(accelerator: Accelerator) -> bool:
    """Whether a process holds but a part of the denoiser."""
    return bool(accelerator.distributed_type == "FSDP")


def share(accelerator: Accelerator, policy: Policy, optimizer: Any) -> tuple[Any, Any]:
    """Hand a policy's denoiser and its optimizer to the engine.

    Returns:
        The denoiser to be called, and the optimizer.

    Raises:
        LoraTrainingError: an engine that would not leave the LoRA whole.
    """
    denoiser: nn.Module = policy.generator.denoiser
    if shards(accelerator):
        plugin = accelerator.state.fsdp_plugin
        plugin.ignored_modules = [
            module
            for module in denoiser.modules()
            if any(item.requires_grad for item in module.parameters(recurse=False))
        ]
        # What is ignored is not put onto the device either.
        for item in policy.learned.values():
            item.data = item.data.to(accelerator.device)
        # UNets name kinds of blocks of which they may have none.
        kinds = {type(module).__name__ for module in denoiser.modules()}
        plugin.transformer_cls_names_to_wrap = [
            name for name in getattr(denoiser, "_no_split_modules", None) or () if name in kinds
        ]
    network, optimizer = accelerator.prepare(denoiser, optimizer)
    kept = dict(denoiser.named_parameters())
    if any(kept[name] is not item for name, item in policy.learned.items()):
        raise LoraTrainingError(
            "fsdp_version: these releases of torch and Accelerate would spread the LoRA too; FSDP 2 wants torch 2.7 or "
            "later, and an Accelerate as new: pip install --upgrade torch accelerate"
        )
    return network, optimizer


def average_gradients(accelerator: Accelerator, learned: Iterable[nn.Parameter]) -> None:
    """Average over the processes what no engine averages."""
    if shards(accelerator):
        for item in learned:
            if item.grad is not None:
                item.grad = accelerator.reduce(item.grad, "mean")


def dealt(accelerator: Accelerator, count: int) -> list[list[int]]:
    """Of `count` things, turn by turn which each process takes; all have equally many, so a few may be taken twice."""
    processes = accelerator.num_processes
    return [
        [(turn * processes + process) % count for process in range(processes)]
        for turn in range(math.ceil(count / processes))
    ]
