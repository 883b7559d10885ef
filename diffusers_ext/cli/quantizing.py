"""`quantize`: a checkpoint in fewer bits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..rewards.quantization import SCHEMES, check_free, get_scheme, save_quantized
from . import options
from .loading import quiet
from .options import MODELS
from .reporting import print_json


def quantize(
    model: Annotated[str, typer.Argument(help=f"Reward model: {MODELS}.")],
    out: Annotated[Path, typer.Argument(help="Folder for the quantized model; it must be new or empty.")],
    scheme: Annotated[str, typer.Option(help=f"One of {', '.join(SCHEMES)}.")] = "nf4",
    quantize_vision: Annotated[
        bool, typer.Option("--quantize-vision", help="Quantize the vision tower and the projector too.")
    ] = False,
    device: options.Device = None,
    json: options.AsJson = False,
) -> None:
    """Write a reward model with quantized weights, which loads like any other."""
    get_scheme(scheme)
    check_free(out)
    quiet()
    from ..rewards.model import RewardModel

    judge = RewardModel.from_pretrained(model, scheme, device, quantize_vision=quantize_vision)  # type: ignore[arg-type]
    save_quantized(judge.model, model, scheme, out)
    size = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    if json:
        print_json({"model": model, "out": str(out), "quantization": scheme, "bytes": size})
    else:
        typer.echo(f"{out}: {scheme}, {size / 2**20:,.1f} MiB of weights")
