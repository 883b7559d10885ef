"""A run before its first step: what is loaded, frozen, encoded and wrapped."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..hushing import hushed
from ..pipelines import open_pipeline
from ..precision import in_bfloat16
from ..rewards.addresses import is_address
from ..rewards.instructions import get_instruction
from .config import LoraTraining
from .errors import LoraTrainingError
from .evaluating import Exam, nano_prompts_only
from .generators import Generator, calling_of, canvas_for
from .inputs import Inputs
from .policy import Policy, add_lora
from .rewards import load_judge
from .sharing import settle, shards, share
from .studio import Studio


@dataclass(frozen=True)
class Setup:
    """What the loop starts from.

    Attributes:
        studio: generator, policy and judges.
        optimizer: of what is learned.
        lora: peft's LoraConfig.
        inputs: prompts to learn from and to be measured on, and what else files say.
        exam: how the run is measured.
    """

    studio: Studio
    optimizer: torch.optim.Optimizer
    lora: Any
    inputs: Inputs
    exam: Exam


def prepare(config: LoraTraining, inputs: Inputs) -> Setup:
    """Load and wrap all that a run needs; see :func:`~diffusers_ext.training.train_lora` for what it raises."""
    from accelerate import Accelerator, DistributedDataParallelKwargs

    out = Path(config.out)
    (out / "samples").mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(
        mixed_precision="no",  # what is set here is set for the whole life of the process, so each run sees to its own
        log_with=list(config.trackers) or None,
        project_dir=str(out),
        # Much is painted without gradient, and a forward pass need not wait for other processes. The last block of some
        # families has layers whose output is not used.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=True)],
    )
    settle(accelerator, config)
    if config.trackers:
        accelerator.init_trackers("rewarddance")
    with nullcontext() if config.pipeline else hushed():
        # What is to be spread over GPUs need not fit on one of them first.
        home = torch.device("cpu") if shards(accelerator) else accelerator.device
        generator = _load_generator(config, accelerator.device, home)
    if config.algorithm.name in ("grpo", "ddpo") and generator.flows != (config.algorithm.name == "grpo"):
        other = "predicts velocities; take grpo" if generator.flows else "is no flow; take ddpo"
        raise LoraTrainingError(
            f"algorithm: {config.algorithm.name} does not fit {type(generator.pipeline).__name__}, which {other}, nft, "
            "refl or draft"
        )
    if not generator.calling.moving:
        _check_pictures(config, inputs, type(generator.pipeline).__name__)
    unique = list(dict.fromkeys([*inputs.prompts, *inputs.asked, *([""] if config.guides else [])]))
    with nullcontext() if config.pipeline else hushed():
        conditions = generator.encode(unique)
    generator.forget_text_encoders()
    lora = add_lora(generator, config.rank, config.alpha, config.targets, config.seed)
    if config.checkpointing:
        generator.denoiser.enable_gradient_checkpointing()
    policy = Policy(generator, in_bfloat16(accelerator.device, config.precision))
    judges = tuple(load_judge(item, accelerator.device, inputs.own) for item in config.judges)
    for judge in judges:
        if config.algorithm.climbs_gradient and judge.remote:
            raise LoraTrainingError(
                f"judges: {judge.config.model} runs elsewhere and gives no gradient, which {config.algorithm.name} "
                "needs; load the judge here, or take nft, grpo or ddpo"
            )
    second = load_judge(config.second_judge, accelerator.device, inputs.own) if config.second_judge else None
    optimizer = torch.optim.AdamW(
        policy.learned.values(), lr=config.learning_rate, betas=(0.9, 0.999), weight_decay=config.weight_decay
    )
    policy.network, optimizer = share(accelerator, policy, optimizer)
    studio = Studio(
        config,
        accelerator,
        generator,
        policy,
        judges,
        conditions,
        {prompt: place for place, prompt in enumerate(unique)},
        generator.schedule(config.sampling_steps).to(accelerator.device),
    )
    oracle = second is None and nano_prompts_only(inputs.asked)
    exam = Exam(
        inputs.asked, config.evaluation_size, config.evaluation_steps, config.evaluation_guidance, second, oracle
    )
    return Setup(studio, optimizer, lora, inputs, exam)


def _check_pictures(config: LoraTraining, inputs: Inputs, family: str) -> None:
    if config.frames > 1:
        raise LoraTrainingError(f"frames: {family} paints pictures; leave it out")
    for judge in config.judges:
        if not is_address(judge.model) and get_instruction(judge.instruction, inputs.own).task != "t2i":
            raise LoraTrainingError(f"judges: {judge.instruction} judges videos, and {family} paints pictures")


def _load_generator(config: LoraTraining, device: torch.device, home: torch.device) -> Generator:
    """A generator on a device, its denoiser on one of its own."""
    from diffusers import PipelineQuantizationConfig

    from ..nano import DEFAULT_PIPELINE, GENERATOR_OPTIONS

    half = device.type != "cpu" and in_bfloat16(device, config.precision)
    options: dict[str, Any] = {"torch_dtype": torch.bfloat16} if half else {}
    if config.quantization is not None:
        if device.type == "cpu":
            raise LoraTrainingError(f"quantization: {config.quantization} needs a GPU; leave it out")
        four = config.quantization == "nf4"
        kwargs = (
            {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16}
            if four
            else {"load_in_8bit": True}
        )
        options["quantization_config"] = PipelineQuantizationConfig(
            quant_backend="bitsandbytes_4bit" if four else "bitsandbytes_8bit",
            quant_kwargs=kwargs,
            components_to_quantize=["transformer", "unet"],
        )
    pipeline: Any = open_pipeline(config.pipeline or DEFAULT_PIPELINE, **options)
    pipeline.set_progress_bar_config(disable=True)
    if home == device:
        pipeline.to(device) if half else pipeline.to(device, torch.float32)
    else:
        denoiser = getattr(pipeline, calling_of(pipeline).denoiser)
        for part in pipeline.components.values():
            if isinstance(part, nn.Module):
                part.to(device=home if part is denoiser else device, dtype=None if half else torch.float32)
    if device.type == "cpu":
        pipeline.vae.to(memory_format=torch.channels_last)
    # Not every release of diffusers sees where a pipeline computes when its denoiser is elsewhere.
    encoding: dict[str, Any] = {"device": device}
    if config.max_sequence_length is not None:
        encoding["max_sequence_length"] = config.max_sequence_length
    elif config.pipeline is None:
        encoding["max_sequence_length"] = GENERATOR_OPTIONS["max_sequence_length"]
    canvas = canvas_for(pipeline, config.height, config.width, config.frames)
    return Generator(pipeline, canvas, encoding, config.guidance)
