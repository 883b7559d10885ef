"""`rewarddance nano ...`: how the shipped models were made, step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import DEFAULT_REWARD_MODEL, DEFAULT_VIDEO_REWARD_MODEL

app = typer.Typer(no_args_is_help=True, help="Train the nano models from scratch, as the shipped ones were.")

Out = Annotated[
    Path, typer.Argument(help="Folder to write to; a run that was stopped goes on from what it finds there.")
]
StartFrom = Annotated[str | None, typer.Option(help="A trained folder to go on from, in place of random weights.")]
Seed = Annotated[int, typer.Option(help="Seed of the weights and of the data.")]
Minutes = Annotated[float | None, typer.Option(help="End after this long if the steps are not done by then.")]
LearningRate = Annotated[float, typer.Option(help="Its peak.")]
Groups = Annotated[int, typer.Option(help="Prompts per step, six pictures or videos each.")]
Device = Annotated[str, typer.Option(help="Where to train: cpu, cuda, ...")]
Workers = Annotated[int, typer.Option(help="Processes that prepare what is learned from, ahead of time.")]
SaveEvery = Annotated[int, typer.Option(help="Steps from one saved state to the next.")]
Lora = Annotated[
    Path | None, typer.Option(help="Folder of a LoRA that the generator was trained to, to paint what it has become.")
]
LoraWeight = Annotated[float, typer.Option(help="How much of the LoRA; between 0 and 1 is what was on the way to it.")]
PaintingSteps = Annotated[int, typer.Option(min=1, help="Denoising steps of finished pictures.")]


@app.command()
def train_autoencoder(
    out: Annotated[Path, typer.Argument(help="Folder to write to.")], steps: int = 2000, seed: Seed = 0
) -> None:
    """Train the generator's autoencoder (about 10 minutes on two cores)."""
    from .autoencoder import AutoencoderRecipe
    from .autoencoder import train_autoencoder as train

    train(out, AutoencoderRecipe(steps=steps, seed=seed))


@app.command()
def train_generator(
    out: Out,
    autoencoder: Annotated[Path, typer.Option(help="A trained autoencoder.")],
    steps: int = 10000,
    learning_rate: LearningRate = 1e-3,
    slips: Annotated[float, typer.Option(min=0, max=1, help="Share of captions that are wrong in one thing.")] = 0,
    start_from: StartFrom = None,
    seed: Seed = 0,
) -> None:
    """Train the generator by flow matching (about two hours on one core)."""
    from .generator import GeneratorRecipe
    from .generator import train_generator as train

    recipe = GeneratorRecipe(steps=steps, learning_rate=learning_rate, slips=slips, start_from=start_from, seed=seed)
    train(out, autoencoder, recipe)


@app.command()
def draw_pool(
    out: Annotated[Path, typer.Argument(help="The .npz file to write.")],
    pipeline: Annotated[Path, typer.Option(help="A trained generator.")],
    groups: Annotated[int, typer.Option(help="Prompts, six pictures each.")] = 1000,
    batch: Annotated[int, typer.Option(help="Pictures at a time.")] = 64,
    lora: Lora = None,
    lora_weight: LoraWeight = 1.0,
    painting_steps: PaintingSteps = 20,
    device: Annotated[str, typer.Option(help="Where to paint: cpu, cuda, ...")] = "cpu",
    seed: Seed = 0,
) -> None:
    """Have the generator paint pictures to train a reward model on."""
    from .generated import draw_pool as draw

    painter = _painter(pipeline, lora, lora_weight, device)
    draw(painter, groups, seed, progress=True, batch=batch, **_painted_in(painting_steps)).save(out)


@app.command()
def draw_contenders(
    out: Annotated[Path, typer.Argument(help="The .npz file to write.")],
    pipeline: Annotated[Path, typer.Option(help="A trained generator.")],
    reward_model: Annotated[Path, typer.Option(help="A trained judge, which says what is worth finishing.")],
    groups: Annotated[int, typer.Option(help="Prompts, six pictures each.")] = 600,
    drafts: Annotated[int, typer.Option(min=3, help="Drafts per prompt.")] = 24,
    lora: Lora = None,
    lora_weight: LoraWeight = 1.0,
    painting_steps: PaintingSteps = 20,
    device: Annotated[str, typer.Option(help="Where to paint: cpu, cuda, ...")] = "cpu",
    seed: Seed = 0,
) -> None:
    """The same, but three drafts of each prompt that a judge likes best, and what becomes of them when finished."""
    from ..rewards.model import RewardModel
    from .generated import draw_contenders as draw

    painter = _painter(pipeline, lora, lora_weight, device)
    judge = RewardModel.from_pretrained(reward_model, device=device)
    draw(painter, judge, groups, seed, drafts, progress=True, **_painted_in(painting_steps)).save(out)


def _painter(pipeline: Path, lora: Path | None, weight: float, device: str) -> Any:
    """A trained generator, as it is or as a LoRA made it."""
    from diffusers import StableDiffusion3Pipeline

    painter = StableDiffusion3Pipeline.from_pretrained(pipeline).to(device)
    if lora is not None:
        painter.load_lora_weights(lora, adapter_name="trained")
        painter.set_adapters("trained", weight)
        painter.fuse_lora(components=["transformer"])  # or every step would compute it anew
    return painter


def _painted_in(steps: int) -> dict[str, Any]:
    from . import GENERATOR_OPTIONS

    return {**GENERATOR_OPTIONS, "num_inference_steps": steps}


@app.command()
def train_reward(
    out: Out,
    architecture: Annotated[str, typer.Option(help="Which size.")] = "reward-5m",
    steps: int = 6000,
    vision_steps: Annotated[int, typer.Option(help="Steps at the start on seeing alone.")] = 1500,
    caption_steps: Annotated[int, typer.Option(help="Steps after that on captions and statements alone.")] = 1400,
    asking_steps: Annotated[
        int, typer.Option(help="Steps after that on statements that are put before pictures, one or two at a time.")
    ] = 600,
    pool: Annotated[
        list[Path] | None,
        typer.Option(help="Pictures of draw-pool or draw-contenders to train on as well; can be repeated."),
    ] = None,
    pool_share: Annotated[float, typer.Option(help="Share of the groups that come from there.")] = 0.5,
    start_from: StartFrom = None,
    groups: Groups = 4,
    rationales: Annotated[int, typer.Option(help="Rationales per prompt.")] = 1,
    slips: Annotated[float, typer.Option(help="Share of rationales that err, for the verdict to be right anyway.")] = 0,
    detection_weight: Annotated[
        float, typer.Option(help="Weight of seeing; zero for a model that sees, whose read-out is not kept.")
    ] = 0.25,
    learning_rate: LearningRate = 1e-3,
    minutes: Minutes = None,
    device: Device = "cpu",
    workers: Workers = 0,
    save_every: SaveEvery = 100,
    seed: Seed = 0,
) -> None:
    """Train a reward model: seeing, then captions, then verdicts and rationales (about two hours on two cores)."""
    from .reward_model import ARCHITECTURES
    from .train_reward import RewardRecipe
    from .train_reward import train_reward as train

    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise typer.BadParameter(f"{architecture!r} is not one of {known}", param_hint="--architecture")
    recipe = RewardRecipe(
        architecture=architecture,
        steps=steps,
        vision_steps=vision_steps,
        caption_steps=caption_steps,
        asking_steps=asking_steps,
        generated=tuple(map(str, pool or ())),
        generated_share=pool_share,
        start_from=start_from,
        groups=groups,
        rationales=rationales,
        slips=slips,
        detection_weight=detection_weight,
        learning_rate=learning_rate,
        minutes=minutes,
        device=device,
        workers=workers,
        save_every=save_every,
        seed=seed,
    )
    train(out, recipe)


@app.command()
def train_video_reward(
    out: Out,
    steps: int = 4000,
    speaking_steps: Annotated[int, typer.Option(help="Steps at the start on captions and statements alone.")] = 1000,
    start_from: Annotated[str, typer.Option(help="A trained reward model of pictures.")] = str(DEFAULT_REWARD_MODEL),
    groups: Groups = 2,
    picture_groups: Annotated[int, typer.Option(help="Prompts per step for pictures, six each.")] = 1,
    learning_rate: LearningRate = 5e-4,
    minutes: Minutes = None,
    device: Device = "cpu",
    workers: Workers = 0,
    save_every: SaveEvery = 100,
    seed: Seed = 0,
) -> None:
    """Teach a reward model of pictures to judge videos (about two hours on one core)."""
    from .moving.train_video_reward import VideoRecipe
    from .moving.train_video_reward import train_video_reward as train

    recipe = VideoRecipe(
        start_from=start_from,
        steps=steps,
        speaking_steps=speaking_steps,
        groups=groups,
        picture_groups=picture_groups,
        learning_rate=learning_rate,
        minutes=minutes,
        device=device,
        workers=workers,
        save_every=save_every,
        seed=seed,
    )
    train(out, recipe)


@app.command()
def average(
    out: Annotated[Path, typer.Argument(help="Folder to write to.")],
    models: Annotated[list[Path], typer.Argument(help="Trained reward models, all of one origin.")],
) -> None:
    """Write the mean of the weights of some reward models."""
    from .export import average as mean

    mean(models, out)


@app.command()
def calibrate(
    model: Annotated[Path, typer.Argument(help="A trained reward model; its reward_config.json is written.")],
    size: Annotated[int, typer.Option(help="Pairs to fit each temperature on.")] = 1000,
) -> None:
    """Fit the temperatures that turn log-odds into calibrated probabilities."""
    from .calibration import calibrate as fit

    config = fit(model, size)
    typer.echo(f"{model}: {config}", err=True)


@app.command()
def calibrate_videos(
    model: Annotated[Path, typer.Argument(help="A trained reward model of videos; its reward_config.json is written.")],
    size: Annotated[int, typer.Option(help="Pairs to fit each temperature on.")] = 400,
) -> None:
    """The same for verdicts on videos."""
    from .moving.calibration import calibrate as fit

    config = fit(model, size)
    typer.echo(f"{model}: {config}", err=True)


@app.command()
def export(
    reward_model: Annotated[Path, typer.Option(help="A trained, calibrated reward model.")],
    generator: Annotated[Path, typer.Option(help="A trained generator.")],
    video_reward_model: Annotated[Path, typer.Option(help="A trained, calibrated reward model of videos.")],
    out: Annotated[Path, typer.Option(help="Folder to write the shipped checkpoints to.")],
    smaller: Annotated[
        list[Path] | None, typer.Option(help="The same of a smaller size, written under its name; can be repeated.")
    ] = None,
) -> None:
    """Write the checkpoints in half precision, without their training states."""
    from .export import architecture_of, export_generator, export_reward_model

    export_reward_model(reward_model, out / DEFAULT_REWARD_MODEL.name)
    export_reward_model(video_reward_model, out / DEFAULT_VIDEO_REWARD_MODEL.name)
    for trained in smaller or ():
        export_reward_model(trained, out / architecture_of(trained))
    export_generator(generator, out / "generator")
