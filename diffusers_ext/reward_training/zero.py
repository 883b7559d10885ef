"""DeepSpeed's ZeRO, stages 1 and 2: every process holds the model, and a part of the optimizer's float32 copy of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from ..precision import in_bfloat16
from .config import RewardTraining

if TYPE_CHECKING:
    from accelerate import Accelerator

MOMENTS: Final = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps of every weight, besides the number of its steps."""


def configure(accelerator: Accelerator, config: RewardTraining) -> None:
    """Tell DeepSpeed what a run's own file says: it wants to know before it is handed the model."""
    accelerator.state.deepspeed_plugin.deepspeed_config |= {
        "train_micro_batch_size_per_gpu": config.batch_size // accelerator.num_processes,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.clip,
        "bf16": {"enabled": in_bfloat16(accelerator.device, config.precision)},
    }


def weights(student: nn.Module) -> dict[str, Tensor]:
    """What learns, whole and in float32, on the CPU. To be called by all processes."""
    from deepspeed.utils import safe_get_full_fp32_param

    return {name: safe_get_full_fp32_param(item).cpu() for name, item in _learned(student)}


def take_up_weights(student: nn.Module, learned: dict[str, Tensor]) -> None:
    """Put what was learned into the float32 copy; the model itself may have rounded it."""
    from deepspeed.utils import safe_set_full_fp32_param

    for name, item in _learned(student):
        safe_set_full_fp32_param(item, learned[name].to(item.device))


def moments(student: nn.Module, optimizer: Any) -> dict[str, Any]:
    """The optimizer's state as one process would have it, by the names of weights. To be called by all processes."""
    from deepspeed.utils import safe_get_full_optimizer_state

    _link(optimizer)
    (step, *_) = (state["step"] for state in optimizer.optimizer.state.values())
    state = {
        name: {"step": step.clone().cpu()} | {key: safe_get_full_optimizer_state(item, key).cpu() for key in MOMENTS}
        for name, item in _learned(student)
    }
    names = [[name for name, item in _learned(student) if (item.ndim >= 2) == matrices] for matrices in (True, False)]
    groups = [
        {**{key: value for key, value in group.items() if key != "params"}, "params": found}
        for group, found in zip(optimizer.param_groups, filter(None, names), strict=True)
    ]
    return {"state": state, "param_groups": groups}


def take_up_moments(student: nn.Module, optimizer: Any, state: dict[str, Any]) -> None:
    """Give every process its part of an optimizer's state."""
    from deepspeed.utils import safe_set_full_optimizer_state

    step = next(iter(state["state"].values()))["step"]
    # DeepSpeed makes room for them at the first step; here that comes earlier.
    for group in optimizer.optimizer.param_groups:
        for flat in group["params"]:
            room = {key: torch.zeros_like(flat) for key in MOMENTS}
            optimizer.optimizer.state[flat] = {"step": step.clone(), **room}
    _link(optimizer)
    for name, item in _learned(student):
        for key in MOMENTS:
            safe_set_full_optimizer_state(item, state["state"][name][key].to(item.device), key)


def _link(optimizer: Any) -> None:
    """Tie the moments to the weights; DeepSpeed (0.19) does so once the first group was stepped, for that one alone."""
    optimizer._hp_optimizer_states_linked = False
    optimizer._lazy_init_hp_params_optimizer_state()


def _learned(student: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, item) for name, item in student.named_parameters() if item.requires_grad]
