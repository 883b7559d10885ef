"""Which weights of a judge learn, and how what they learned becomes a judge on disk."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from ..precision import in_bfloat16
from ..rewards.model import SCALAR_HEAD, RewardModel
from .config import RewardTraining, TrainingError


def load_student_judge(config: RewardTraining, device: torch.device) -> RewardModel:
    """The judge to go on from. What is frozen is held in the precision of the computation, the rest in float32."""
    from ..nano import DEFAULT_REWARD_MODEL

    half = config.weights == "lora" and in_bfloat16(device, config.precision)
    return RewardModel.from_pretrained(
        config.model or DEFAULT_REWARD_MODEL,
        quantization=config.quantization,  # type: ignore[arg-type]
        device=device,
        dtype=torch.bfloat16 if half else torch.float32,
    )


def open_weights(judge: RewardModel, config: RewardTraining) -> Any:
    """Let the configured weights learn: a LoRA adapter (returned, as peft's model), or the model itself (None).

    Raises:
        TrainingError: peft is not installed, or `targets` matches no layer; the message says which there are.
    """
    model = judge.model
    if config.weights == "full":
        for name, item in model.named_parameters():
            item.requires_grad_(config.vision or _in_language(name))
        return None
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise TrainingError("LoRA needs peft: pip install 'rewarddance[train]'") from error
    layers = _linear_layers(judge, config.vision)
    wanted = [name for name in layers if config.targets is None or name.split(".")[-1] in config.targets]
    if not wanted:
        there = sorted({name.split(".")[-1] for name in layers})
        raise TrainingError(f"targets: {', '.join(config.targets or ())} match no layer; there are {', '.join(there)}")
    adapter = LoraConfig(r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=wanted)
    torch.manual_seed(config.seed)
    with warnings.catch_warnings():
        # peft 0.21 asks by a name that transformers 5.24 has renamed.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        adapted = get_peft_model(model, adapter)  # puts its layers into the model itself
    adapted.eval()
    for item in model.parameters():
        if item.requires_grad:
            item.data = item.data.float()
    for name, module in model.named_modules():
        if name.endswith("lora_dropout") or ".lora_dropout." in name:
            module.train()
    return adapted


def _in_language(name: str) -> bool:
    return "language_model." in name or name.startswith("lm_head")


def _linear_layers(judge: RewardModel, vision: bool) -> list[str]:
    head = judge.model.get_output_embeddings()
    return [
        name
        for name, module in judge.model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and (vision or _in_language(name))
    ]


def save_judge(judge: RewardModel, adapted: Any, head: nn.Module | None, config: RewardTraining, card: str) -> None:
    """Write the trained judge to the run's folder; afterwards `judge` is of no more use.

    An adapter is merged into the weights, so that the folder is a model like any other; one over quantized weights
    stays beside them, and the folder names the model it belongs to.
    """
    out, made = Path(config.out), Path(config.out) / ".judge.partial"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    try:
        if adapted is not None and config.quantization is not None:
            adapted.save_pretrained(made)
            _name_base(made, config)
        else:
            model = judge.model if adapted is None else adapted.merge_and_unload()
            model.save_pretrained(made)
        judge.processor.save_pretrained(made)
        if head is not None:
            head.save(made)  # type: ignore[operator]
        # What was fitted to the old weights says nothing of the new.
        replace(judge.config, temperature=1.0, pointwise_temperature=1.0, cot_temperature=1.0).save(made)
        (made / "README.md").write_text(card, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        shutil.rmtree(made, ignore_errors=True)
        raise TrainingError(f"{out}: the judge could not be written ({error}); the run's state is kept") from error
    if head is None:
        (out / SCALAR_HEAD).unlink(missing_ok=True)
    for file in made.iterdir():
        file.replace(out / file.name)
    made.rmdir()


def _name_base(folder: Path, config: RewardTraining) -> None:
    path = folder / "adapter_config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["base_model_name_or_path"] = str(config.model)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
