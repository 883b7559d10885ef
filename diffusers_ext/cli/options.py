"""Options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

from ..nano import DEFAULT_REWARD_MODEL, REWARD_MODELS
from ..rewards.instructions import PRESETS
from ..rewards.quantization import SCHEMES


def _names(*tasks: str) -> str:
    return ", ".join(name for name, preset in PRESETS.items() if preset.task in tasks)


MODELS: Final = f"a folder, a hub id (owner/name), or one that comes with the package ({', '.join(REWARD_MODELS)})"
Prompt: TypeAlias = Annotated[str, typer.Option("--prompt", "-p", help="What the picture or video was to show.")]
Images: TypeAlias = Annotated[list[Path], typer.Argument(help="Pictures to judge.", show_default=False)]
Model: TypeAlias = Annotated[
    str | None,
    typer.Option(help=f"Reward model: {MODELS}; or a server's URL. Default: {DEFAULT_REWARD_MODEL.name}."),
]
Pipeline: TypeAlias = Annotated[
    str | None, typer.Option(help="Diffusers pipeline: a folder or a hub id. Default: the nano generator.")
]
Quantization: TypeAlias = Annotated[str | None, typer.Option(help=f"{', '.join(SCHEMES)} (see docs/quantization.md).")]
Device: TypeAlias = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, mps, or auto (spread over all). Default: a GPU if there is one.")
]
InstructionName: TypeAlias = Annotated[
    str,
    typer.Option(
        "--instruction",
        "-i",
        help=f"What to judge by: {_names('t2i')} (for videos: {_names('t2v', 'i2v')}), or your own.",
    ),
]
InstructionsFile: TypeAlias = Annotated[
    Path | None, typer.Option(help="TOML or JSON file with instructions of your own.", exists=True, dir_okay=False)
]
Explain: TypeAlias = Annotated[bool, typer.Option("--explain", help="Have the judge think aloud before its verdict.")]
Debias: TypeAlias = Annotated[bool, typer.Option(help="Ask both orders of every pair and average.")]
Method: TypeAlias = Annotated[str, typer.Option(help="pointwise, anchored, knockout or round-robin.")]
Seed: TypeAlias = Annotated[int, typer.Option(help="Seed of the first picture.")]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else.")]
