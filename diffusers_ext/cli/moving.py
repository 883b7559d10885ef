"""`score-video` and `compare-videos`: judge videos that are there already."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..rewards.instructions import DEFAULT_VIDEO_INSTRUCTION
from . import options
from .loading import load_instruction, load_video_judge, on_terminal
from .reporting import finish, print_comparison, print_scores

if TYPE_CHECKING:
    from ..rewards.videos import Clip

FirstFrame = Annotated[
    Path | None, typer.Option(help="Picture that the video was to begin with (image-to-video).", show_default=False)
]
Frames = Annotated[
    int | None,
    typer.Option(help="Frames shown to the judge, evenly spread. Default: what the judge was trained on.", min=1),
]


def score_video(
    videos: Annotated[list[Path], typer.Argument(help="Videos: files, or folders of frames.", show_default=False)],
    prompt: options.Prompt,
    first_frame: FirstFrame = None,
    frames: Frames = None,
    model: options.Model = None,
    quantization: options.Quantization = None,
    device: options.Device = None,
    instruction: options.InstructionName = DEFAULT_VIDEO_INSTRUCTION,
    instructions_file: options.InstructionsFile = None,
    explain: options.Explain = False,
    json: options.AsJson = False,
) -> None:
    """Judge each video on its own."""
    from ..rewards.images import load_image

    by = load_instruction(instruction, instructions_file)
    good, errors = _read(videos)
    first = load_image(first_frame) if first_frame else None
    judge = load_video_judge(model, prompt, quantization, device)
    judged = judge.score_video(
        [clip for _, clip in good],
        prompt,
        instruction=by,
        first_frame=first,
        frames=frames,
        explain=explain,
        progress=on_terminal() and not json,
    )
    paired = [(path, item) for (path, _), item in zip(good, judged, strict=True)]
    print_scores("video", judge.name, prompt, by.name, paired, errors, json)
    finish(errors)


def compare_videos(
    candidate: Annotated[Path, typer.Argument(help="The video to judge: a file, or a folder of frames.")],
    reference: Annotated[Path, typer.Argument(help="The video to hold it against.")],
    prompt: options.Prompt,
    first_frame: FirstFrame = None,
    frames: Frames = None,
    model: options.Model = None,
    quantization: options.Quantization = None,
    device: options.Device = None,
    instruction: options.InstructionName = DEFAULT_VIDEO_INSTRUCTION,
    instructions_file: options.InstructionsFile = None,
    explain: options.Explain = False,
    debias: options.Debias = True,
    json: options.AsJson = False,
) -> None:
    """Is the candidate better than the reference?"""
    from ..rewards.images import load_image
    from ..rewards.videos import load_video

    by = load_instruction(instruction, instructions_file)
    clips = [load_video(path) for path in (candidate, reference)]
    first = load_image(first_frame) if first_frame else None
    judge = load_video_judge(model, prompt, quantization, device)
    (judgement,) = judge.compare_videos(
        clips[0],
        clips[1],
        prompt,
        instruction=by,
        first_frame=first,
        frames=frames,
        debias=debias,
        explain=explain,
    )
    print_comparison("video", judge.name, prompt, by.name, candidate, reference, judgement, json)


def _read(paths: list[Path]) -> tuple[list[tuple[Path, Clip]], dict[str, str]]:
    """The videos that can be read, and for each that cannot be, why; each of those is named on stderr."""
    from ..rewards.videos import VideoError, load_video

    good: list[tuple[Path, Clip]] = []
    errors: dict[str, str] = {}
    for path in paths:
        try:
            good.append((path, load_video(path)))
        except VideoError as error:
            errors[str(path)] = str(error)
    if not good:
        raise VideoError(f"no video was given that can be judged; {'; '.join(errors.values())}")
    for message in errors.values():
        typer.echo(f"error: {message}", err=True)
    return good, errors
