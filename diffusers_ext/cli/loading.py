"""Load what a command names, quietly: stdout belongs to the result."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from ..hushing import hushed
from ..rewards.addresses import connected, is_address
from ..rewards.errors import ImageError, ModelError

if TYPE_CHECKING:
    from PIL import Image

    from ..rewards.instructions import Instruction
    from ..rewards.model import RewardModel
    from ..rewards.remote import RemoteRewardModel


DONE: Final = ExitStack()
"""What is to be undone once the command is: closed by `main`."""


def quiet() -> None:
    """Keep the libraries' bars and notices off the terminal while the command runs; call it before they are imported.

    Downloads too show no bars.
    """
    DONE.enter_context(hushed())
    from huggingface_hub import utils

    if not utils.are_progress_bars_disabled():
        DONE.callback(utils.enable_progress_bars)
        utils.disable_progress_bars()


def load_judge(
    model: str | None, prompt: str, quantization: str | None, device: str | None
) -> RewardModel | RemoteRewardModel:
    """The judge that `--model` names: a folder, a hub id, or the URL of one that is served elsewhere.

    Raises:
        PromptTextError: the prompt that it is to judge by is empty.
        ModelError: it cannot be loaded.
    """
    from ..nano.scenes import parse_prompt

    return _load_asked(load_reward_model, parse_prompt, model, prompt, quantization, device)


def _remote(url: str, quantization: str | None, device: str | None) -> RemoteRewardModel:
    if quantization or device:
        raise ModelError(f"{url}: where and how a served model runs is for its server to say")
    return connected(url)


def load_judge_or_clip(model: str | None, quantization: str | None, device: str | None) -> Any:
    """What can be held against preferences: a reward model here or served elsewhere, or a CLIP as the baseline."""
    if model is not None and (Path(model) / "config.json").is_file():
        import json

        try:
            kind = json.loads((Path(model) / "config.json").read_text(encoding="utf-8")).get("model_type")
        except (OSError, ValueError, AttributeError) as error:
            raise ModelError(f"{model}: its config.json cannot be read ({error})") from error
        if kind == "clip":
            quiet()
            from ..evaluation.clip import ClipJudge

            return ClipJudge.from_pretrained(model, device)
    if model is not None and is_address(model):
        return _remote(model, quantization, device)
    return load_reward_model(model, quantization, device)


def load_reward_model(model: str | None, quantization: str | None, device: str | None) -> RewardModel:
    """The judge that `--model` names, in this process."""
    quiet()
    from ..nano import DEFAULT_REWARD_MODEL
    from ..rewards.model import RewardModel

    return RewardModel.from_pretrained(model or DEFAULT_REWARD_MODEL, quantization, device)  # type: ignore[arg-type]


def load_video_judge(
    model: str | None, prompt: str, quantization: str | None, device: str | None
) -> RewardModel | RemoteRewardModel:
    """The judge of videos that `--model` names, as :func:`load_judge`."""
    from ..nano.moving.scenes import parse_prompt

    return _load_asked(load_video_reward_model, parse_prompt, model, prompt, quantization, device)


def load_video_reward_model(model: str | None, quantization: str | None, device: str | None) -> RewardModel:
    """The judge of videos that `--model` names, in this process."""
    from ..nano import DEFAULT_VIDEO_REWARD_MODEL

    return load_reward_model(model or str(DEFAULT_VIDEO_REWARD_MODEL), quantization, device)


def _load_asked(
    load: Callable[[str | None, str | None, str | None], RewardModel],
    parse_prompt: Callable[[str], object],
    model: str | None,
    prompt: str,
    quantization: str | None,
    device: str | None,
) -> RewardModel | RemoteRewardModel:
    from ..rewards.arguments import prompts_for

    prompts_for(prompt, 1)
    if model is not None and is_address(model):
        return _remote(model, quantization, device)
    judge = load(model, quantization, device)
    if model is None:
        _say_if_foreign(prompt, parse_prompt)
    return judge


def _say_if_foreign(prompt: str, parse_prompt: Callable[[str], object]) -> None:
    """The nano judges answer whatever they are asked, so somebody has to say when an answer means nothing."""
    from ..nano.scenes import PromptError

    try:
        parse_prompt(prompt)
    except PromptError as error:
        typer.echo(f"note: the judge that comes with the package knows the nano world only, and {error}", err=True)
        typer.echo("note: its judgement of anything else means nothing; name another with --model", err=True)


def load_pipeline(pipeline: str | None, device: str | None) -> Any:
    """A text-to-image pipeline on the device (a GPU where there is one), its own progress bar off."""
    quiet()
    import torch

    from ..nano import DEFAULT_PIPELINE
    from ..pipelines import open_pipeline
    from ..rewards.model import find_device

    place = find_device(device)
    # A CPU is slow at half precision.
    options = {} if place.type == "cpu" else {"torch_dtype": torch.bfloat16}
    loaded: Any = open_pipeline(pipeline or DEFAULT_PIPELINE, **options)
    loaded.set_progress_bar_config(disable=True)
    return loaded.to(place, torch.float32) if place.type == "cpu" else loaded.to(place)


def load_lora(pipeline: Any, lora: Path) -> None:
    """Have a pipeline paint with a LoRA.

    Raises:
        ModelError: it cannot be read, or is not of such a pipeline.
    """
    try:
        pipeline.load_lora_weights(str(lora))
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"--lora {lora}: cannot be loaded into {type(pipeline).__name__} ({error})") from error


def load_instruction(name: str, file: Path | None) -> Instruction:
    from ..rewards.instructions import get_instruction, load_instructions

    return get_instruction(name, load_instructions(file) if file else None)


def read_images(paths: Sequence[Path]) -> tuple[list[tuple[Path, Image.Image]], dict[str, str]]:
    """The pictures that can be read, and for each file that cannot be, why; each of those is named on stderr.

    Raises:
        ImageError: not one of them can be read; the message names them all.
    """
    from ..rewards.images import load_images

    good, bad = load_images(paths)
    errors = {str(path): str(error) for path, error in bad}
    if not good:
        raise ImageError(f"no picture was given that can be judged; {'; '.join(errors.values())}")
    for message in errors.values():
        typer.echo(f"error: {message}", err=True)
    return good, errors


def on_terminal() -> bool:
    """Whether there is somebody to show progress to."""
    return sys.stderr.isatty()
