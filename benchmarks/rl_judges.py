"""What judges make of a generator that is trained against them: by size, by kind, and by what they are shown.

    python -m benchmarks.rl_judges runs/scaling --out runs/rl-judges           # the judges of benchmarks.reward_scaling
    python -m benchmarks.rl_judges runs/scaling --out runs/rl-judges --arms "reward-1m, generative" --seeds 0
    python -m benchmarks.rl_judges benchmarks/results/reward_scaling --out benchmarks/results/rl_judges --report

Every run is `rewarddance train-lora nano-nft` with another judge, from where one warm start ends, which no judge has
a say in. Judges of a seed train the runs of that seed. Those of the scaling benchmark had few lessons; the shipped one
had many, knows what its instruction means and can use a reference. A run that was stopped goes on, one that is done is
not done again. The table goes to stdout and to `OUT/judges.md`, the plot to `OUT/judges.png`.
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from benchmarks.reward_scaling import KINDS, SIZES, interval
from benchmarks.rl import Run, told, train
from diffusers_ext.hushing import hushed
from diffusers_ext.nano import DEFAULT_PIPELINE
from diffusers_ext.training import read_config, train_lora
from diffusers_ext.training.config import LoraTraining
from diffusers_ext.training.distillation import GuidanceDistillation
from diffusers_ext.training.monitors import diversity_share, spread_share
from diffusers_ext.training.rewards import JudgeConfig, Scale

WARM_START: Final = GuidanceDistillation(scale=3.0, iterations=20, updates=8, learning_rate=1e-3)
"""Shorter than the example's, so that judges have more left to bring out."""
EVALUATE_EVERY: Final = 12


def arms_of(scaling: Path, seed: int) -> dict[str, JudgeConfig]:
    """The judges of a seed that there are, of each size and kind; and the shipped one, with more and more to go by."""
    arms: dict[str, JudgeConfig] = {}
    for size in SIZES:
        for kind in KINDS:
            # Bradley-Terry rewards have no zero, so that the sigmoid of one says nothing.
            scale: Scale = "probability" if kind == "generative" else "log_odds"
            judge = JudgeConfig(str(scaling / f"{size}-{kind}-{seed}"), instruction="exactness", scale=scale)
            arms[f"{size}, {kind}"] = judge
    arms = {name: judge for name, judge in arms.items() if (Path(str(judge.model)) / "figures.json").exists()}
    shipped = JudgeConfig(instruction="exactness", scale="probability")
    return arms | {
        "as shipped": shipped,
        "as shipped, + reference": replace(shipped, reference="current"),
        "as shipped, + chain of thought": replace(shipped, explain=True),
    }


def warm_up(out: Path, example: LoraTraining) -> None:
    """Make `out/generator`, which is the nano one as the warm start leaves it, unless it is there."""
    made = out / "generator"
    if not (made / "model_index.json").exists():
        from diffusers import StableDiffusion3Pipeline

        run = out / "warm-start"
        config = replace(example, out=str(run), warm_start=WARM_START, iterations=WARM_START.iterations)
        ended = train_lora(config, progress=True)
        if not ended.finished:
            raise SystemExit(f"the warm start ended after {ended.iterations} iterations: {ended.reason}")
        pipeline = StableDiffusion3Pipeline.from_pretrained(DEFAULT_PIPELINE)
        pipeline.load_lora_weights(run)
        pipeline.fuse_lora(components=["transformer"])
        pipeline.unload_lora_weights()
        pipeline.save_pretrained(made)


def table(runs: Sequence[Run]) -> str:
    """Means over seeds, ± half their 95% intervals.

    Reward is what was gained, spread and diversity are shares of the first. All runs begin from the same generator and
    are measured on the same prompts and noise.
    """
    head = ("judge", "seeds", "correct", "held out", "exact", "reward", "spread", "diversity")
    start = runs[0].first
    before = (f"{start.second or 0.0:.3f}", f"{start.held_out or 0.0:.3f}", f"{start.exact or 0.0:.3f}", "-", "1", "1")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|", f"| before training | - | {' | '.join(before)} |"]
    for name in dict.fromkeys(run.algorithm for run in runs):
        those = [run for run in runs if run.algorithm == name]
        columns = (
            [run.last.second or 0.0 for run in those],
            [run.last.held_out or 0.0 for run in those],
            [run.last.exact or 0.0 for run in those],
            [run.last.reward - run.first.reward for run in those],
            [spread_share(run.first, run.last) for run in those],
            [diversity_share(run.first, run.last) for run in those],
        )
        lines.append(f"| {name} | {len(those)} | {' | '.join(map(interval, columns))} |")
    return "\n".join(lines)


def plot(runs: Sequence[Run], path: Path) -> None:
    """Correct and exact pictures over iterations; and the spread of rewards within a prompt in every four, as a share
    of the first; a line for a judge, the mean over its seeds.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 3.6), layout="constrained")
    correctness, exactness, spread = figure.subplots(1, 3)

    def draw(axes: Any, xs: Sequence[int], lines: Sequence[Sequence[float]], **style: Any) -> None:
        axes.plot(xs, [statistics.mean(values) for values in zip(*lines, strict=True)], linewidth=1.2, **style)

    for number, name in enumerate(dict.fromkeys(run.algorithm for run in runs)):
        those = [run for run in runs if run.algorithm == name]
        style = {"color": colormaps["tab20"](number), "label": name}
        iterations = [item.iteration for item in those[0].evaluations]
        draw(correctness, iterations, [[item.second or 0.0 for item in run.evaluations] for run in those], **style)
        draw(exactness, iterations, [[item.exact or 0.0 for item in run.evaluations] for run in those], **style)
        ends = range(4, len(those[0].deviations) + 1)
        smooth = [[statistics.mean(run.deviations[end - 4 : end]) for end in ends] for run in those]
        draw(spread, ends, [[value / line[0] for value in line] for line in smooth], **style)
    correctness.set_ylabel("correct by the oracle")
    exactness.set_ylabel("correct, and nothing else in the picture")
    spread.set_ylabel("spread of rewards, share of the first")
    for axes in (correctness, exactness, spread):
        axes.set_xlabel("iterations")
        axes.grid(alpha=0.3)
    figure.legend(*spread.get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scaling", type=Path, help="the folder of benchmarks.reward_scaling")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", help="only these; all if none are named")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, default=24)
    parser.add_argument("--report", action="store_true", help="only print the runs that are there and done")
    options = parser.parse_args()
    there = {seed: arms_of(options.scaling, seed) for seed in options.seeds}
    named = options.arms or list(dict.fromkeys(name for arms in there.values() for name in arms))
    if unknown := [name for name in named if not any(name in arms for arms in there.values())]:
        known = ", ".join(f"'{name}'" for arms in there.values() for name in arms)
        parser.error(f"--arms: there is no '{unknown[0]}' in {options.scaling}, only {known}")
    example = read_config("nano-nft")
    common = replace(
        example,
        pipeline=str(options.out / "generator"),
        max_sequence_length=1,  # nano's encoder gives zeros, as many as are asked for
        warm_start=None,
        iterations=options.iterations,
        evaluate_every=EVALUATE_EVERY,
        evaluation_size=8,
        alarms=replace(example.alarms, stop=False),  # all go as far
    )
    runs: list[Run] = []
    for seed, arms in there.items():
        for name, judge in arms.items():
            if name in named:
                folder = options.out / f"{re.sub('[^a-z0-9]+', '-', name)}-{seed}"
                config = replace(common, out=str(folder), judges=(judge,), seed=seed)
                if (run := told(name, config)).iterations < config.iterations:
                    if options.report:
                        continue
                    warm_up(options.out, example)
                    with hushed():  # about a T5 that says nothing, in every batch
                        run = train(name, config)
                runs.append(run)
    if not runs:
        parser.error(f"--report: {options.out} has no run that is done; its folders would be called as-shipped-0, ...")
    text = table(runs)
    (options.out / "judges.md").write_text(text + "\n", encoding="utf-8")
    plot(runs, options.out / "judges.png")
    print(text)


if __name__ == "__main__":
    main()
