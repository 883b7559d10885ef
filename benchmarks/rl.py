"""Oracle correctness before and after training the nano generator, by each algorithm, by samples and by wall time.

    python -m benchmarks.rl --out runs/rl                           # all that run on the nano generator, three seeds
    python -m benchmarks.rl --out runs/rl --algorithms nft refl --seeds 1 --iterations 50
    python -m benchmarks.rl --out benchmarks/results/rl --report            # the runs that are there

Every run is one of `rewarddance train-lora nano-...`; one that was stopped goes on, one that is done is not done again.
Tables go to stdout, and all figures with the machine's description to `OUT/rl.json` (unless it is only a report);
`OUT/rl.png` shows correctness over samples. Minutes are of training, without evaluations, and by the clock: they mean
something on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from diffusers_ext.metrics import read_entries
from diffusers_ext.training import read_config, train_lora
from diffusers_ext.training.config import LoraTraining
from diffusers_ext.training.monitors import Evaluation, diversity_share
from diffusers_ext.training.trainer import STOPPED

ALGORITHMS = ("nft", "refl", "draft", "grpo")
COLOURS = {"nft": (86, 156, 214), "refl": (240, 176, 80), "draft": (190, 130, 220), "grpo": (86, 190, 110)}


@dataclass(frozen=True)
class Run:
    """A run, as its file tells it; `deviations` are of rewards within a prompt, in every iteration that was judged."""

    algorithm: str
    seed: int
    evaluations: tuple[Evaluation, ...]
    deviations: tuple[float, ...]

    @property
    def iterations(self) -> int:
        """How many had been done when it was last looked at."""
        return self.evaluations[-1].iteration if self.evaluations else 0

    @property
    def first(self) -> Evaluation:
        return self.evaluations[0]

    @property
    def last(self) -> Evaluation:
        return self.evaluations[-1]

    def reached(self, correctness: float) -> int | None:
        """Samples after which the oracle first found this share correct."""
        return next((item.samples for item in self.evaluations if (item.second or 0) >= correctness), None)


def train(name: str, config: LoraTraining) -> Run:
    """Train, or go on, or read what is there; whoever stops a run stops the benchmark."""
    found = told(name, config)
    if found.iterations < config.iterations:
        if train_lora(config, progress=True).reason == STOPPED:
            raise SystemExit(f"{config.out}: {STOPPED}; the same command goes on")
        found = told(name, config)
    return found


def told(name: str, config: LoraTraining) -> Run:
    """What a run's file tells so far."""
    entries = read_entries(Path(config.out) / "metrics.jsonl")
    evaluations = (Evaluation(**entry["evaluation"]) for entry in entries if "evaluation" in entry)
    deviations = (float(entry["group_deviation"]) for entry in entries if "group_deviation" in entry)
    return Run(name, config.seed, tuple(evaluations), tuple(deviations))


def machine() -> str:
    """Where this runs, e.g. ``x86_64, 2 cores, 1 thread, torch 2.13.0``."""
    import torch

    threads = torch.get_num_threads()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{platform.machine()}, {cores} core{'s' * (cores != 1)}, {threads} thread{'s' * (threads != 1)}, "
        f"torch {torch.__version__}"
    )


def course(runs: Sequence[Run]) -> str:
    """Every evaluation of every run."""
    lines = [
        "| run | samples | correct | held out | exact | reward | spread | diversity | minutes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        for item in run.evaluations:
            cells = (
                f"{item.samples:,}",
                "-" if item.second is None else f"{item.second:.3f}",
                "-" if item.held_out is None else f"{item.held_out:.3f}",
                "-" if item.exact is None else f"{item.exact:.3f}",
                f"{item.reward:.2f}",
                f"{item.group_deviation:.2f}",
                f"{diversity_share(run.first, item):.2f}",
                f"{item.seconds / 60:.1f}",
            )
            lines.append(f"| {run.algorithm}, seed {run.seed} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: Sequence[float | None]) -> str:
    """Mean and standard deviation over seeds."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    return f"{statistics.mean(known):.3f} ± {statistics.stdev(known) if len(known) > 1 else 0.0:.3f}"


def table(runs: Sequence[Run], bar: float) -> str:
    lines = [
        "| algorithm | seeds | before | after | held out, before | held out, after | exact, before | exact, after "
        f"| diversity | samples to {bar} | minutes |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(run.algorithm for run in runs):
        those = [run for run in runs if run.algorithm == name]
        reached = [run.reached(bar) for run in those]
        cells = (
            str(len(those)),
            spread([run.first.second for run in those]),
            spread([run.last.second for run in those]),
            spread([run.first.held_out for run in those]),
            spread([run.last.held_out for run in those]),
            spread([run.first.exact for run in those]),
            spread([run.last.exact for run in those]),
            spread([diversity_share(run.first, run.last) for run in those]),
            ", ".join("never" if value is None else f"{value:,}" for value in reached),
            f"{statistics.mean(run.last.seconds for run in those) / 60:.1f}",
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(runs: Sequence[Run], path: Path) -> None:
    """Correctness by the oracle over samples (left) and over minutes of training (right), a line for every run."""
    width, height, paper, ink = 460, 320, (24, 24, 27), (230, 230, 230)
    sheet = Image.new("RGB", (2 * width, height), paper)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for number, (title, unit) in enumerate((("samples", "samples"), ("minutes", "seconds"))):
        left, top, right, bottom = number * width + 40, 30, (number + 1) * width - 20, height - 50
        end = max(1.0, max(float(getattr(run.last, unit)) for run in runs))
        draw.rectangle((left, top, right, bottom), outline=(82, 82, 91))
        shown = f"{end / 60:.1f}" if title == "minutes" else f"{end:,.0f}"
        draw.text((left, 8), f"correct by the oracle, over {title} (to {shown})", ink, font)
        for label in (0.0, 0.5, 1.0):
            draw.text((left - 28, bottom - label * (bottom - top) - 7), f"{label:.1f}", ink, font)
        for run in runs:
            points = [
                (left + float(getattr(item, unit)) / end * (right - left), bottom - (item.second or 0) * (bottom - top))
                for item in run.evaluations
            ]
            draw.line(points, fill=COLOURS[run.algorithm], width=2)
    for number, name in enumerate(dict.fromkeys(run.algorithm for run in runs)):
        draw.text((40 + 90 * number, height - 30), name, COLOURS[name], font)
    sheet.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=ALGORITHMS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, help="in place of the configurations' own")
    parser.add_argument("--report", action="store_true", help="only print the runs that are there and done")
    parser.add_argument("--bar", type=float, default=0.85, help="correctness whose samples are counted")
    options = parser.parse_args()
    runs: list[Run] = []
    for seed in range(options.seeds):
        for algorithm in options.algorithms:
            out = str(options.out / f"{algorithm}-{seed}")
            config = read_config(f"nano-{algorithm}", out=out, seed=seed, iterations=options.iterations)
            if not options.report:
                runs.append(train(algorithm, config))
            elif (run := told(algorithm, config)).iterations >= config.iterations:
                runs.append(run)
    if not runs:
        parser.error(f"--report: {options.out} has no run that is done; its folders would be called nft-0, refl-0, ...")
    figures: list[dict[str, Any]] = [
        {"algorithm": run.algorithm, "seed": run.seed, "evaluations": [item.as_dict() for item in run.evaluations]}
        for run in runs
    ]
    if not options.report:  # a report may be of another machine's runs
        written = json.dumps({"machine": machine(), "runs": figures}, indent=2)
        (options.out / "rl.json").write_text(written + "\n", encoding="utf-8")
        print(f"{machine()}\n")
    plot(runs, options.out / "rl.png")
    print(table(runs, options.bar))
    print()
    print(course(runs))


if __name__ == "__main__":
    main()
