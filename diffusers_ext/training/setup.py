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
from ..rewards.images import load_image
from .config import LoraTraining
from .errors import LoraTrainingError
from .evaluating import Exam, nano_prompts_only
from .generators import Generator, calling_of, canvas_for
from .inputs import Inputs
from .policy import Policy, add_lora
from .prompts import texts
from .rewards import Judge, JudgeConfig, load_judge
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
    _check_kinds(config, inputs, generator)
    prompts = [*inputs.prompts, *inputs.asked]
    said = list(dict.fromkeys([*texts(prompts), *([""] if config.guides else [])]))
    files = list(dict.fromkeys(prompt.first_frame for prompt in prompts if prompt.first_frame is not None))
    with nullcontext() if config.pipeline else hushed():
        conditions = generator.encode(said)
        beginnings = generator.begin(map(load_image, files), accelerator.device) if files else {}
    generator.forget_encoders()
    lora = add_lora(generator, config.rank, config.alpha, config.targets, config.seed)
    if config.checkpointing:
        generator.denoiser.enable_gradient_checkpointing()
    policy = Policy(generator, in_bfloat16(accelerator.device, config.precision))

    def load(judge: JudgeConfig) -> Judge:
        return load_judge(judge, accelerator.device, inputs.by(judge.instruction), config.fps)

    judges = tuple(map(load, config.judges))
    for judge in judges:
        if config.algorithm.climbs_gradient and judge.remote:
            raise LoraTrainingError(
                f"judges: {judge.config.model} runs elsewhere and gives no gradient, which {config.algorithm.name} "
                "needs; load the judge here, or take nft, grpo or ddpo"
            )
    second = load(config.second_judge) if config.second_judge else None
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
        beginnings,
        {text: place for place, text in enumerate(said)} | {file: place for place, file in enumerate(files)},
        generator.schedule(config.sampling_steps).to(accelerator.device),
    )
    oracle = second is None and nano_prompts_only(texts(inputs.asked))
    exam = Exam(
        inputs.asked, config.evaluation_size, config.evaluation_steps, config.evaluation_guidance, second, oracle
    )
    return Setup(studio, optimizer, lora, inputs, exam)


def _check_kinds(config: LoraTraining, inputs: Inputs, generator: Generator) -> None:
    """Refuse prompts and judges of pictures where videos are made, and the other way round."""
    family, moving, begins = (
        type(generator.pipeline).__name__,
        generator.calling.moving,
        generator.calling.begin is not None,
    )
    if config.frames > 1 and not moving:
        raise LoraTrainingError(f"frames: {family} paints pictures; leave it out")
    if config.frames == 1 and begins:
        raise LoraTrainingError(f"frames: {family} goes on from a picture, so say how many frames to make, e.g. 33")
    for key, prompts in (("prompts", inputs.prompts), ("evaluation_prompts", inputs.asked)):
        for prompt in prompts:
            if begins and prompt.first_frame is None:
                raise LoraTrainingError(
                    f"{key}: {prompt.text!r} names no first_frame, and {family} begins with one; take a .jsonl whose "
                    "records have a prompt and a first_frame"
                )
            if prompt.first_frame is not None and not begins:
                raise LoraTrainingError(f"{key}: {prompt.text!r} names a first_frame, and {family} takes none")
    for judge in config.all_judges:
        by = inputs.by(judge.instruction)
        if isinstance(by, str):
            continue
        if moving == (by.task == "t2i"):
            other = "pictures, and {} makes videos; take video-overall" if moving else "videos, and {} paints pictures"
            raise LoraTrainingError(f"judges: {by.name} judges {other.format(family)}")
        if by.task == "i2v" and not begins:
            raise LoraTrainingError(f"judges: {by.name} is about a first frame, and {family} takes none")


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
    parts = [part for part in pipeline.components.values() if isinstance(part, nn.Module)]
    for part in parts:
        # Nothing is cast that need not be: diffusers warns of it all the same, and quantized weights do not let it be.
        if not half and part.dtype != torch.float32 and getattr(part, "hf_quantizer", None) is None:
            part.to(torch.float32)
    if home == device:
        pipeline.to(device)
    else:
        denoiser = getattr(pipeline, calling_of(pipeline).denoiser)
        for part in parts:
            part.to(home if part is denoiser else device)
    if device.type == "cpu" and all(item.ndim < 5 for item in pipeline.vae.parameters()):
        pipeline.vae.to(memory_format=torch.channels_last)  # which is faster, and which videos have not
    # Not every release of diffusers sees where a pipeline computes when its denoiser is elsewhere.
    encoding: dict[str, Any] = {"device": device}
    if config.max_sequence_length is not None:
        encoding["max_sequence_length"] = config.max_sequence_length
    elif config.pipeline is None:
        encoding["max_sequence_length"] = GENERATOR_OPTIONS["max_sequence_length"]
    canvas = canvas_for(pipeline, config.height, config.width, config.frames)
    return Generator(pipeline, canvas, encoding, config.guidance)
