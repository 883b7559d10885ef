"""Train Reward LoRA."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import folder_paths
import numpy as np
import torch
from comfy import model_management
from comfy.sd import load_lora_for_models
from comfy.utils import ProgressBar, load_torch_file
from comfy_api.latest import io
from comfy_execution.graph import ExecutionBlocker

from diffusers_ext.nano import DEFAULT_REWARD_MODEL
from diffusers_ext.rewards.instructions import PRESETS, Instruction
from diffusers_ext.training import LoraTrainingError, read_config

from . import folders, ports, runs
from .curves import draw_curves
from .judges import Held
from .pictures import pictures
from .previews import previews

if TYPE_CHECKING:
    from PIL import Image

    from diffusers_ext.metrics import Entry
    from diffusers_ext.training import LoraTraining, Result

_LORA: Final = "comfyui_lora.safetensors"
"""What :func:`~diffusers_ext.training.train_lora` calls it."""
_LORAS: Final = "rewarddance"
"""The folder below models/loras."""

folder_paths.add_model_folder_path(folders.TRAINING, str(Path(folder_paths.models_dir) / folders.TRAINING))


def _roots() -> list[Path]:
    return [Path(path) for path in folder_paths.get_folder_paths(folders.TRAINING)]


class TrainRewardLora(io.ComfyNode):
    """Teaches a generator to paint what a judge finds good, and gives it as a LoRA."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        known = list(folders.training_configs(_roots()))
        return io.Schema(
            node_id="RewardDanceTrainLoRA",
            display_name="Train Reward LoRA",
            category=ports.CATEGORY,
            description="Teaches a generator, by reinforcement, to paint what a judge finds good. The LoRA is saved to "
            "models/loras/rewarddance. Shows reward, spread and loss while it runs; can be stopped at any time, and "
            "goes on where it was when it is run again under the same name.",
            inputs=[
                io.Combo.Input(
                    "config",
                    options=known,
                    default=known[0],
                    tooltip="What to train and how: one that comes with the pack (nano-... need nothing else), or a "
                    "YAML file below models/reward_training.",
                ),
                io.String.Input(
                    "run_name",
                    default="reward-lora",
                    tooltip="The name of the LoRA, and of the run's folder below output/reward_training. A run of that "
                    "name is gone on with; take another name for another run.",
                ),
                io.Int.Input(
                    "iterations",
                    default=100,
                    min=1,
                    max=1_000_000,
                    tooltip="How many iterations in all, those of earlier runs of the same name included.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.00001,
                    tooltip="How fast to learn; 0 for what the configuration says.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**32 - 1,
                    control_after_generate=False,
                    tooltip="Of all that is drawn. A run that is gone on with keeps its own.",
                ),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default="",
                    optional=True,
                    tooltip="What to learn to paint, one prompt on every line, in place of the configuration's. Those "
                    "of the nano world have their own.",
                ),
                io.String.Input(
                    "pipeline",
                    default="",
                    optional=True,
                    tooltip="In place of the configuration's generator: the id of a diffusers pipeline on the hub "
                    "(owner/name), which is fetched, or its folder.",
                ),
                ports.reward_model("the configuration's"),
                ports.instruction("the configuration's"),
                io.Image.Input(
                    "first_frames",
                    optional=True,
                    tooltip="What videos begin with (image to video): one picture for all prompts, or one for each.",
                ),
                io.Model.Input(
                    "model", optional=True, tooltip="The generator as ComfyUI has it, to get it back with the LoRA."
                ),
            ],
            outputs=[
                io.Model.Output("trained", display_name="MODEL", tooltip="The model with the LoRA, if you gave one."),
                io.AnyType.Output("lora_name", display_name="lora_name", tooltip="The LoRA's name, for Load LoRA."),
                io.LoraModel.Output("lora", display_name="LORA_MODEL", tooltip="The LoRA itself, for Load LoRA Model."),
                io.Image.Output("curves", display_name="curves", tooltip="Reward, its spread and loss, as a picture."),
                io.String.Output("report", display_name="report", tooltip="How the run ended, as text."),
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, config: str) -> bool | str:
        try:
            folders.training_config(config, _roots())
        except LoraTrainingError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        config: str,
        run_name: str,
        iterations: int,
        learning_rate: float,
        seed: int,
        prompts: str = "",
        pipeline: str = "",
        reward_model: Held | None = None,
        instruction: Instruction | None = None,
        first_frames: Any = None,
        model: Any = None,
    ) -> io.NodeOutput:
        name = run_name.strip()
        if not name or Path(name).name != name:
            raise LoraTrainingError(f"{run_name!r} is not the name of a run; give one without folders, such as fox")
        file = folders.training_config(config, _roots())
        given = read_config(
            file,
            iterations=iterations,
            learning_rate=learning_rate or None,
            seed=seed,
            pipeline=pipeline.strip() or None,
        )
        out = Path(folder_paths.get_output_directory()) / "reward_training" / name
        firsts = [] if first_frames is None else pictures(first_frames, "first_frames")
        plan = runs.placed(judged_by(given, reward_model, instruction), out, prompts, file.parent, firsts)
        model_management.unload_all_models()  # the run needs the room
        model_management.soft_empty_cache()
        bar = ProgressBar(iterations)

        def show(entries: list[Entry]) -> None:
            steps = runs.steps_of(entries)
            bar.update_absolute(len(steps), iterations, ("PNG", _drawn(name, entries, iterations), None))

        cpu = model_management.get_torch_device().type == "cpu"
        check = model_management.throw_exception_if_processing_interrupted
        try:
            ended = runs.run(plan, out, cpu, show, check)
        finally:
            kept = _publish(out / _LORA, name)  # what was learned until it was stopped can be used, too
        if kept is None:
            raise LoraTrainingError(f"the run left no LoRA in {out}")
        entries = runs.entries_of(out)
        curves = _drawn(name, entries, iterations)
        lora = load_torch_file(str(kept), safe_load=True)
        nothing = ExecutionBlocker("Train Reward LoRA has no model to give: connect its input model, or use Load LoRA")
        return io.NodeOutput(
            nothing if model is None else load_lora_for_models(model, None, lora, 1.0, 0.0)[0],
            str(kept.relative_to(_loras())),
            lora,
            torch.from_numpy(np.asarray(curves, np.float32) / 255)[None],
            report_of(name, ended, entries),
            ui={"images": previews([curves]), "text": [report_of(name, ended, entries)]},
        )


def judged_by(config: LoraTraining, held: Held | None, instruction: Instruction | None) -> LoraTraining:
    """A configuration with another judge, or another instruction, in place of its first judge's.

    Raises:
        LoraTrainingError: an instruction in words of one's own, which a configuration cannot hold.
    """
    judge, *others = config.judges
    if held is not None:
        shipped = held.source == str(DEFAULT_REWARD_MODEL)
        elsewhere = held.patcher is not None and held.patcher.load_device != model_management.get_torch_device()
        judge = replace(
            judge,
            model=None if shipped else held.source,
            quantization=held.quantization,
            device=str(held.patcher.load_device) if held.patcher and elsewhere else None,
        )
    if instruction is not None:
        if PRESETS.get(instruction.name) != instruction:
            raise LoraTrainingError("training takes the preset instructions only; leave own_text empty")
        judge = replace(judge, instruction=instruction.name)
    return replace(config, judges=(judge, *others))


def report_of(name: str, ended: Result, entries: list[Entry]) -> str:
    """A run's end in one line, or two."""
    seen = [entry["evaluation"] for entry in entries if "evaluation" in entry]
    change = f", reward {seen[0]['reward']:+.2f} to {seen[-1]['reward']:+.2f}" if len(seen) > 1 else ""
    reason = f"\nended early: {ended.reason}" if ended.reason else ""
    return f"{name}: {ended.iterations} iterations{change}{reason}"


def _drawn(name: str, entries: list[Entry], iterations: int) -> Image.Image:
    steps = runs.steps_of(entries)
    told = f"iteration {len(steps)} of {iterations}" if entries else "loading, and looking at the base"
    return draw_curves(entries, iterations, f"{name}: {told}")


def _loras() -> Path:
    return Path(folder_paths.get_folder_paths("loras")[0])


def _publish(lora: Path, name: str) -> Path | None:
    """Put a run's LoRA where ComfyUI's loaders look, whole or not at all. None if there is none yet."""
    if not lora.exists():
        return None
    place = _loras() / _LORAS / f"{name}.safetensors"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(f"{name}.partial")
        shutil.copyfile(lora, partial)
        return partial.replace(place)
    except OSError as error:
        raise LoraTrainingError(f"{place}: cannot be written ({error}); the LoRA is kept as {lora}") from error
