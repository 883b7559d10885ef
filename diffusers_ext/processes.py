"""What several processes need for training together, whatever it is that they train."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .configuring import Wrong

if TYPE_CHECKING:
    from accelerate import Accelerator


def check_sharing(accelerator: Accelerator, name: str, shared: int, wrong: Wrong) -> None:
    """See that the processes know each other, and that each gets as much as the others.

    Args:
        accelerator: of this process.
        name: the key of what is shared, for the error.
        shared: how many of it there are.
        wrong: what is raised.

    Raises:
        RewardDanceError: (as `wrong`) they do not.
    """
    count, launched = accelerator.num_processes, int(os.environ.get("WORLD_SIZE", "1"))
    if launched > count:
        raise wrong(
            f"{launched} processes were launched that know nothing of each other, since Accelerate found no GPUs; on "
            "CPUs take `accelerate launch --cpu --num_processes ...` and no file"
        )
    if shared % count:
        raise wrong(f"{name}: {shared} cannot be shared among {count} processes")


def check_fsdp(accelerator: Accelerator, quantization: str | None, wrong: Wrong) -> None:
    """See that FSDP is of the version and with the options that training here goes with.

    Raises:
        RewardDanceError: (as `wrong`) it is not, or weights are to be quantized.
    """
    if not accelerator.is_fsdp2:
        raise wrong("fsdp_version: FSDP 1 is not served; set it to 2, as in the fsdp.yaml that is shipped")
    if accelerator.state.fsdp_plugin.activation_checkpointing:
        raise wrong("fsdp_activation_checkpointing: leave it off; `checkpointing` of the run does the same")
    if quantization is not None:
        raise wrong("quantization: FSDP does not shard quantized weights, so take ddp.yaml for QLoRA")
