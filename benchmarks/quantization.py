"""What each quantization scheme saves and what it costs, on a reward model of the nano world.

    python benchmarks/quantization.py --pairs 100

prints a Markdown table. Every scheme judges the same seeded pairs as the model in float32, whose verdicts, log-odds and
speed in the same run it is held against.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from diffusers_ext.cli.loading import quiet
from diffusers_ext.nano import DEFAULT_REWARD_MODEL
from diffusers_ext.nano.evaluation import SEED, accuracy, judge_pairs
from diffusers_ext.nano.preferences import Pair, sample_pairs
from diffusers_ext.rewards.errors import ModelError
from diffusers_ext.rewards.model import RewardModel
from diffusers_ext.rewards.quantization import SCHEMES

TIMED_PAIRS = 32
ROUNDS = 3


@dataclass(frozen=True)
class Row:
    """What was measured of one way to keep the weights.

    Attributes:
        name: the scheme, or the precision of a model that is not quantized.
        bytes: memory of all weights, scales and the like included.
        bytes_per_weight: the same for the linear layers of the language model, over their number of weights.
        speed: pairs judged in a second over those of the float32 model, in the same run.
        accuracy: preference accuracy, both orders of a pair averaged.
        loss: the accuracy of the float32 model less this one's.
        largest_change: the largest absolute difference of log-odds from the float32 model.
    """

    name: str
    bytes: int
    bytes_per_weight: float
    speed: float
    accuracy: float
    loss: float
    largest_change: float


def tensor_bytes(tensor: torch.Tensor) -> int:
    """Memory of a tensor; of one that is made of others, theirs."""
    if hasattr(tensor, "__tensor_flatten__"):
        return sum(tensor_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return tensor.numel() * tensor.element_size()


def weight_bytes(module: torch.nn.Module) -> int:
    """Memory of a module's weights and of what they are dequantized with; tied weights count once."""
    held = [value for value in module.state_dict().values() if isinstance(value, torch.Tensor)]
    plain = {(value.data_ptr(), value.dtype): value for value in held if not hasattr(value, "__tensor_flatten__")}
    return sum(tensor_bytes(value) for value in plain.values()) + sum(
        tensor_bytes(value) for value in held if hasattr(value, "__tensor_flatten__")
    )


def language_layers(judge: RewardModel) -> list[torch.nn.Module]:
    """The linear layers of the language model: all that is quantized by default."""
    return [module for module in judge.model.get_decoder().modules() if isinstance(module, torch.nn.Linear)]


def speed_ratio(judge: RewardModel, baseline: RewardModel, pairs: list[Pair]) -> float:
    """Median time of the baseline over that of the judge, in alternating rounds after a warm-up."""
    times: dict[RewardModel, list[float]] = {baseline: [], judge: []}
    for index in range(ROUNDS + 1):
        for one, taken in times.items():
            start = time.perf_counter()
            judge_pairs(one, pairs)
            if index:
                taken.append(time.perf_counter() - start)
    return statistics.median(times[baseline]) / statistics.median(times[judge])


def measure(model: str, device: str | None, pairs: list[Pair]) -> tuple[list[Row], dict[str, str]]:
    """A row for float32, bfloat16 and each scheme that runs here, and why each of the others does not."""
    baseline = RewardModel.from_pretrained(model, device=device, dtype=torch.float32)
    count = sum(cast(torch.Tensor, layer.weight).numel() for layer in language_layers(baseline))
    expected = judge_pairs(baseline, pairs)
    right = accuracy(expected, pairs)
    rows: list[Row] = []
    left_out: dict[str, str] = {}
    for name in ("float32", "bfloat16", *SCHEMES):
        options: dict[str, Any] = {"quantization": name} if name in SCHEMES else {"dtype": getattr(torch, name)}
        try:
            judge = baseline if name == "float32" else RewardModel.from_pretrained(model, device=device, **options)
        except ModelError as error:
            left_out[name] = str(error)
            continue
        found = expected if judge is baseline else judge_pairs(judge, pairs)
        changes = [abs(new.log_odds - old.log_odds) for new, old in zip(found, expected, strict=True)]
        rows.append(
            Row(
                name=name,
                bytes=weight_bytes(judge.model),
                bytes_per_weight=sum(weight_bytes(layer) for layer in language_layers(judge)) / count,
                speed=1.0 if judge is baseline else speed_ratio(judge, baseline, pairs[:TIMED_PAIRS]),
                accuracy=accuracy(found, pairs),
                loss=right - accuracy(found, pairs),
                largest_change=max(changes),
            )
        )
    return rows, left_out


def table(rows: list[Row]) -> str:
    lines = [
        "| weights | memory (MiB) | bytes per weight of the language layers | speed | accuracy | loss "
        "| largest change in log-odds |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.name} | {row.bytes / 2**20:.2f} | {row.bytes_per_weight:.2f} | {row.speed:.2f}x | {row.accuracy:.1%} "
        f"| {100 * row.loss:+.1f} points | {row.largest_change:.3f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default=str(DEFAULT_REWARD_MODEL), help="reward model: a folder or a hub id")
    parser.add_argument("--device", help="cpu, cuda ...; default: a GPU if there is one")
    parser.add_argument("--pairs", type=int, default=500, help="pairs to judge")
    parser.add_argument("--seed", type=int, default=0, help="seed of the pairs")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    arguments = parser.parse_args()
    if arguments.pairs < 1:
        parser.error("--pairs must be at least 1")
    quiet()
    pairs = list(itertools.islice(sample_pairs(np.random.default_rng(SEED + arguments.seed)), arguments.pairs))
    rows, left_out = measure(arguments.model, arguments.device, pairs)
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    if arguments.json:
        report = {"model": Path(arguments.model).name, "pairs": len(pairs), "seed": arguments.seed, "machine": machine}
        print(json.dumps({**report, "rows": [asdict(row) for row in rows], "left_out": left_out}))
        return
    print(f"{Path(arguments.model).name}, {len(pairs)} pairs, seed {arguments.seed}, {machine}:\n\n{table(rows)}")
    for name, why in left_out.items():
        print(f"\n{name}: {why}")


if __name__ == "__main__":
    main()
