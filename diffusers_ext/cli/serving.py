"""`serve` and `score-dataset`: beyond one machine."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from ..rewards.errors import RewardDanceError
from ..rewards.instructions import DEFAULT_INSTRUCTION
from . import options
from .loading import load_instruction, on_terminal
from .reporting import print_json

Replicas: TypeAlias = Annotated[int, typer.Option(help="Copies of the model.", min=1)]
Cpus: TypeAlias = Annotated[float, typer.Option(help="CPU cores for each copy.", min=0)]
Gpus: TypeAlias = Annotated[
    float | None, typer.Option(help="GPUs for each copy. Default: 1 if the cluster has any, else 0.", min=0)
]
Cluster: TypeAlias = Annotated[
    str | None, typer.Option(help="A running Ray cluster ('auto', or host:port). Default: a new one on this machine.")
]


class RayError(RewardDanceError):
    """Ray is not there, or cannot be started."""


@contextmanager
def _ray(cluster: str | None, metrics_port: int | None = None) -> Iterator[None]:
    """Connect to a cluster, or start one for as long as the `with` block lasts."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray Serve kills its proxy if that is not up after five seconds, which on a busy machine it may not be.
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")
    try:
        import ray
    except ImportError as error:
        raise RayError("this command needs Ray: pip install 'rewarddance[serve]'") from error
    here: dict[str, Any] = {} if cluster else {"include_dashboard": False, "_metrics_export_port": metrics_port}
    try:
        ray.init(address=cluster or "local", logging_level=logging.WARNING, log_to_driver=False, **here)
    except Exception as error:  # Ray raises whatever it likes
        raise RayError(f"{cluster or 'a new Ray cluster'}: cannot be connected to ({error})") from error
    try:
        yield
    finally:
        ray.shutdown()


def _gpus(wanted: float | None) -> float:
    import ray

    return wanted if wanted is not None else float(ray.cluster_resources().get("GPU", 0) > 0)


def serve(
    model: options.Model = None,
    quantization: options.Quantization = None,
    device: options.Device = None,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.")] = 8000,
    metrics_port: Annotated[int, typer.Option(help="Port of the metrics, for Prometheus.")] = 8080,
    replicas: Replicas = 1,
    max_replicas: Annotated[
        int | None, typer.Option(help="Add copies up to this many while there is much to do.", min=1)
    ] = None,
    cpus: Cpus = 1.0,
    gpus: Gpus = None,
    batch_size: Annotated[int, typer.Option(help="The most questions judged in one go.", min=1)] = 16,
    batch_wait: Annotated[float, typer.Option(help="Seconds that a question waits for others.", min=0)] = 0.02,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="REWARDDANCE_API_KEY", help="What clients must send. Default: everyone is let in."),
    ] = None,
    max_body: Annotated[int, typer.Option(help="The most MiB of one request.", min=1)] = 128,
    max_pictures: Annotated[int, typer.Option(help="The most pictures of one request.", min=1)] = 256,
    max_megapixels: Annotated[float, typer.Option(help="The most megapixels of one picture.", min=0.001)] = 32.0,
    instructions_file: options.InstructionsFile = None,
    cluster: Cluster = None,
    json: options.AsJson = False,
) -> None:
    """Serve a reward model over HTTP, until interrupted."""
    from ..rewards.instructions import load_instructions

    if max_replicas is not None and max_replicas < replicas:
        raise typer.BadParameter(f"is less than --replicas {replicas}", param_hint="--max-replicas")
    own = load_instructions(instructions_file) if instructions_file else None
    with _ray(cluster, metrics_port):
        from ..serving.app import build, run
        from ..serving.bodies import Limits

        application = build(
            model,
            quantization,
            device,
            replicas=replicas,
            max_replicas=max_replicas,
            cpus=cpus,
            gpus=_gpus(gpus),
            batch_size=batch_size,
            batch_wait=batch_wait,
            limits=Limits(max_body * 2**20, max_pictures, int(max_megapixels * 1e6)),
            api_key=api_key,
            instructions=own,
        )
        run(application, host, port)
        url = f"http://{host}:{port}"
        if json:
            print_json({"url": url, "metrics": f"http://{host}:{metrics_port}/metrics"})
        else:
            open_to = "whoever has the key" if api_key else "everyone who can reach it: there is no API key"
            typer.echo(f"serving at {url}, open to {open_to}; stop with Ctrl-C")
        threading.Event().wait()


def score_dataset(
    source: Annotated[
        Path, typer.Argument(help="Parquet, tar files (webdataset), or a folder of them or of pictures.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder for the results; a run that was interrupted goes on in it.")],
    image_column: Annotated[str, typer.Option(help="Column of the pictures.")] = "image",
    prompt_column: Annotated[str, typer.Option(help="Column of the prompts.")] = "prompt",
    model: options.Model = None,
    quantization: options.Quantization = None,
    device: options.Device = None,
    instruction: options.InstructionName = DEFAULT_INSTRUCTION,
    instructions_file: options.InstructionsFile = None,
    explain: options.Explain = False,
    replicas: Replicas = 1,
    cpus: Cpus = 1.0,
    gpus: Gpus = None,
    batch_size: Annotated[int, typer.Option(help="Pictures judged in one go.", min=1)] = 32,
    cluster: Cluster = None,
    json: options.AsJson = False,
) -> None:
    """Judge every picture of a data set, into parquet files."""
    by = load_instruction(instruction, instructions_file)
    if not source.exists():
        raise RewardDanceError(f"{source}: there is no such file or folder")
    with _ray(cluster):
        from ..serving.bulk import Columns
        from ..serving.bulk import score_dataset as judge_all

        summary = judge_all(
            source,
            out,
            model,
            quantization,
            device,
            instruction=by,
            explain=explain,
            columns=Columns(image_column, prompt_column),
            replicas=replicas,
            cpus=cpus,
            gpus=_gpus(gpus),
            batch_size=batch_size,
            progress=on_terminal() and not json,
        )
    for place, problem in summary.errors.items():
        typer.echo(f"error: {place}: {problem}", err=True)
    if json:
        print_json({"out": str(out), **asdict(summary)})
    else:
        done = f"{summary.judged:,} pictures judged, {len(summary.errors):,} could not be"
        typer.echo(f"{out}: {done}; {summary.skipped} of {summary.shards} shards were there already")
    if summary.errors:
        raise typer.Exit(2)
