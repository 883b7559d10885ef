"""What processes share among them, put together: with FSDP each holds a part of every weight and of its moments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .config import RewardTraining, TrainingError

if TYPE_CHECKING:
    from accelerate import Accelerator


def refuse_unfit(accelerator: Accelerator, config: RewardTraining) -> None:
    """Refuse ways to share that would not learn what one process learns.

    Raises:
        TrainingError: a batch that cannot be shared out evenly, an engine that is not served, or one that does not go
            with quantized weights.
    """
    from accelerate.utils import DistributedType

    count, engine = accelerator.num_processes, accelerator.distributed_type
    if config.batch_size % count:
        raise TrainingError(f"batch_size: {config.batch_size} cannot be shared among {count} processes")
    if engine == DistributedType.FSDP:
        if not accelerator.is_fsdp2:
            raise TrainingError("fsdp_version: FSDP 1 is not served; set it to 2, as in the fsdp.yaml that is shipped")
        if accelerator.state.fsdp_plugin.activation_checkpointing:
            raise TrainingError("fsdp_activation_checkpointing: leave it off; `checkpointing` of the run does the same")
        if config.quantization is not None:
            raise TrainingError(
                "quantization: FSDP does not shard quantized weights, so it saves nothing; take ddp.yaml for QLoRA"
            )
    elif engine == DistributedType.DEEPSPEED:
        raise TrainingError("DeepSpeed is not served; fsdp.yaml shards the same things")


def shards(accelerator: Accelerator) -> bool:
    """Whether a process holds but a part of the weights."""
    return bool(accelerator.is_fsdp2)


def release(student: nn.Module) -> None:
    """Let go of what a forward pass that no backward pass follows has gathered, which FSDP would keep."""
    for module in student.modules():
        if hasattr(module, "reshard"):
            module.reshard()


def learned_weights(student: nn.Module) -> dict[str, Tensor]:
    """What learns, whole and on the CPU. To be called by all processes; only the first of them may look at it."""
    return {name: whole(item).detach().cpu() for name, item in student.named_parameters() if item.requires_grad}


def moments(student: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    """The optimizer's state, whole and on the CPU, by the names of weights; as :func:`learned_weights`."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

    return get_optimizer_state_dict(
        student, optimizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )


def take_up_moments(student: nn.Module, optimizer: torch.optim.Optimizer, state: Any) -> None:
    """Give every process its part of an optimizer's state, which all of them have whole."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

    set_optimizer_state_dict(student, optimizer, state, options=StateDictOptions(full_state_dict=True))


@torch.no_grad()
def take_up_weights(student: nn.Module, learned: dict[str, Tensor]) -> None:
    """Put what was learned into a student whose weights are whole."""
    parameters = dict(student.named_parameters())
    for name, value in learned.items():
        parameters[name].copy_(value)


def whole(item: Tensor) -> Tensor:
    """A tensor of which this process may hold but a part."""
    return item.full_tensor() if hasattr(item, "full_tensor") else item
