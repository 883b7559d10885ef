"""What processes share among them, put together: with FSDP and DeepSpeed each holds a part of what learns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule

from ..processes import check_fsdp, check_sharing
from . import zero
from .config import RewardTraining, TrainingError
from .state import State

if TYPE_CHECKING:
    from accelerate import Accelerator


def settle(accelerator: Accelerator, config: RewardTraining) -> None:
    """See that what is learned will be what one process learns, before anything is loaded.

    Raises:
        TrainingError: a batch that cannot be shared out evenly, an engine that is not served, or one that does not go
            with quantized weights.
    """
    check_sharing(accelerator, "batch_size", config.batch_size, TrainingError)
    if accelerator.distributed_type == "FSDP":
        check_fsdp(accelerator, config.quantization, TrainingError)
    elif accelerator.distributed_type == "DEEPSPEED":
        if accelerator.state.deepspeed_plugin.zero_stage > 2:
            raise TrainingError("zero_stage: 3 is not served; take 2, or fsdp.yaml, which shards weights too")
        if config.quantization is not None:
            raise TrainingError("quantization: DeepSpeed cannot hold quantized weights; take ddp.yaml for QLoRA")
        zero.configure(accelerator, config)


def shards(accelerator: Accelerator) -> bool:
    """Whether a process holds but a part of what learns."""
    return accelerator.distributed_type in ("FSDP", "DEEPSPEED")


def share(accelerator: Accelerator, student: nn.Module, optimizer: Any, state: State | None) -> tuple[Any, Any]:
    """Hand a whole student and its optimizer to the engine, as they were in a state where there is one.

    Returns:
        The student to be called, and the optimizer.
    """
    if state is not None:
        take_up_weights(student, state.learned)
    exact = learned_weights(student) if accelerator.distributed_type == "DEEPSPEED" else {}
    wrapped, optimizer = accelerator.prepare(student, optimizer)
    if accelerator.distributed_type == "DEEPSPEED":
        zero.take_up_weights(student, exact)
    if state is None:
        return wrapped, optimizer
    if accelerator.distributed_type == "DEEPSPEED":
        zero.take_up_moments(student, optimizer.optimizer, state.moments)
    else:
        options = StateDictOptions(full_state_dict=True)
        set_optimizer_state_dict(student, optimizer.optimizer, state.moments, options=options)
    return wrapped, optimizer


def state_of(accelerator: Accelerator, step: int, student: nn.Module, optimizer: Any) -> State:
    """What a run goes on from. To be called by all processes; only the first of them may look at it."""
    if accelerator.distributed_type == "DEEPSPEED":
        return State(step, zero.weights(student), zero.moments(student, optimizer.optimizer))
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return State(
        step, learned_weights(student), get_optimizer_state_dict(student, optimizer.optimizer, options=options)
    )


def learned_weights(student: nn.Module) -> dict[str, Tensor]:
    return {name: whole(item).detach().cpu() for name, item in student.named_parameters() if item.requires_grad}


@torch.no_grad()
def take_up_weights(student: nn.Module, learned: dict[str, Tensor]) -> None:
    """Put what was learned into a student whose weights are whole."""
    parameters = dict(student.named_parameters())
    for name, value in learned.items():
        parameters[name].copy_(value)


def release(student: nn.Module) -> None:
    """Let go of what a forward pass that no backward pass follows has gathered, which FSDP would keep."""
    for module in student.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole(item: Any) -> Any:
    """A tensor of which this process may hold but a part; anything else as it is."""
    return item.full_tensor() if hasattr(item, "full_tensor") else item
