"""What the paper claims of reward models, measured where the truth is known: in the nano world.

    python -m benchmarks.reward_scaling runs/scaling --pool pool.npz     # four sizes, both kinds, three seeds
    python -m benchmarks.reward_scaling runs/scaling --sizes reward-1m --seeds 0 --seeing 100 --speaking 200 --steps 200

(a) Larger judges judge better; (b) generative judges judge better than Bradley-Terry ones of the same size that were
taught with the same pictures; (c) so do judges that are told the instruction, shown a reference, and made to think;
(d) better judges pick better pictures out of 16.

As in the paper, a judge of either kind is made of a vision-language model that was trained before. There is one of
each size, which has learned from random weights, and from equally many pictures, to see, to speak of what it sees, and
to answer what it was asked before it saw, of one picture or of two. Seeds are those of learning to judge: of pictures,
questions and new weights.

One that was stopped goes on, one that is done is not done again. A judge's folder holds the judge and `figures.json`.
With `--kinds` and no kind only the models that judges begin from are made; then several runs, of other sizes, kinds or
seeds, can share `OUT`: a GPU is idle between the small kernels of one. The tables go to stdout and to
`OUT/scaling.md`, the plot to `OUT/scaling.png`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import stats

from diffusers_ext.nano import DEFAULT_PIPELINE, GENERATOR_OPTIONS
from diffusers_ext.nano.bradley_terry import train_bradley_terry
from diffusers_ext.nano.evaluation import (
    SEED,
    accuracy,
    as_array,
    choice_correctness,
    judge_pairs,
    rewards_of,
    sample_sheet,
)
from diffusers_ext.nano.oracle import judge
from diffusers_ext.nano.preferences import Pair, sample_minimal_pairs, sample_pairs
from diffusers_ext.nano.reward_model import ARCHITECTURES
from diffusers_ext.nano.scenes import PROMPT_KINDS, parse_prompt, sample_prompt
from diffusers_ext.nano.train_reward import RewardRecipe, train_reward
from diffusers_ext.rewards.model import SCALAR_HEAD, RewardModel
from diffusers_ext.sources import shipped

SIZES = ("reward-200k", "reward-400k", "reward-1m", "reward-5m")
KINDS = {"generative": train_reward, "bradley-terry": train_bradley_terry}
WIDEST = max(item.text_width for item in ARCHITECTURES.values())
POOL_SHARE = 0.3
ASKING_RATE, JUDGING_RATE = 0.7, 0.25
"""Learning rates of what is learned after seeing and speaking, as shares of theirs. Judging at 0.7 loses what it began
with: a generative judge of a million parameters was right on 69 of 100 pairs, at 0.25 on 77."""
N = 16
Figures = Mapping[str, float]
CONTEXTS = ("bare", "+ instruction", "+ reference", "+ chain of thought")
BARE = "overall"
"""A judge that is not told by what to judge goes by everything."""


@dataclass(frozen=True)
class Run:
    size: str
    kind: str
    seed: int
    figures: Figures

    @property
    def parameters(self) -> float:
        """Millions, as the name says."""
        number, unit = self.size.split("-")[1][:-1], self.size[-1]
        return float(number) / (1000 if unit == "k" else 1)


@dataclass(frozen=True)
class Cases:
    """What judges are measured on: pairs that training never saw, and generated pictures with the oracle's word."""

    pairs: Mapping[str, list[Pair]]
    prompts: Sequence[str]
    pictures: np.ndarray
    right: np.ndarray


def draw_cases(out: Path, size: int, per_kind: int, device: str) -> Cases:
    """Seeded pairs, and 16 pictures for each of some prompts of every kind, which are kept in `out`."""
    streams = {
        "pairs": sample_pairs(np.random.default_rng(SEED)),
        "held-out": sample_pairs(np.random.default_rng(SEED + 1), held_out=True),
        "one attribute": sample_minimal_pairs(np.random.default_rng(SEED + 2)),
    }
    pairs = {name: list(itertools.islice(stream, size)) for name, stream in streams.items()}
    path = out / f"pictures-{per_kind}.npz"
    if not path.exists():
        from diffusers import StableDiffusion3Pipeline

        rng = np.random.default_rng(SEED + 7)
        specs = [sample_prompt(rng, kind) for kind in PROMPT_KINDS for _ in range(per_kind)]
        pipeline = StableDiffusion3Pipeline.from_pretrained(DEFAULT_PIPELINE).to(device)
        sheets = sample_sheet(pipeline, N, specs, SEED, progress=True, **GENERATOR_OPTIONS)
        with path.open("wb") as file:
            np.savez_compressed(file, prompts=np.array([spec.text for spec in specs]), pixels=as_array(sheets))
    with np.load(path, allow_pickle=False) as arrays:
        prompts, pixels = [str(text) for text in arrays["prompts"]], arrays["pixels"]
    right = [
        [judge(image, spec).correct for image in images]
        for spec, images in zip(map(parse_prompt, prompts), pixels, strict=True)
    ]
    return Cases(pairs, prompts, pixels, np.array(right))


def measure(folder: Path, cases: Cases, device: str) -> dict[str, float]:
    """All figures of a judge; those of contexts only where it can be given them."""
    reward_model = RewardModel.from_pretrained(folder, device=device)
    found = {name: accuracy(judge_pairs(reward_model, pairs), pairs) for name, pairs in cases.pairs.items()}
    sheets = [list(map(Image.fromarray, images)) for images in cases.pictures]
    rewards = rewards_of(reward_model, sheets, cases.prompts)
    chosen, best = choice_correctness(cases.right, rewards, N)
    random = float(cases.right.mean())
    found |= {"best of 16": chosen, "random": random, "oracle": best, "lift": (chosen - random) / (best - random)}
    pairs = cases.pairs["pairs"]
    found |= {"bare": alone(reward_model, pairs, BARE), "+ instruction": alone(reward_model, pairs, None)}
    if not (folder / SCALAR_HEAD).exists():
        found["+ reference"] = found["pairs"]
        thoughtful = pairs[: max(20, len(pairs) // 4)]
        explained = judge_pairs(reward_model, thoughtful, debias=False, explain=True)
        found["+ chain of thought"] = accuracy(explained, thoughtful)
        found["the same pairs, without"] = accuracy(judge_pairs(reward_model, thoughtful, debias=False), thoughtful)
    return found


def alone(reward_model: RewardModel, pairs: Sequence[Pair], instruction: str | None) -> float:
    """Accuracy of scoring both pictures with no reference, under the pair's instruction or always the same one."""
    right: list[bool] = []
    for name in dict.fromkeys(pair.instruction for pair in pairs):
        chosen = [pair for pair in pairs if pair.instruction == name]
        texts = [pair.spec.text for pair in chosen]
        sides = [
            reward_model.score([Image.fromarray(picture.pixels) for picture in pictures], texts, instruction or name)
            for pictures in ([pair.candidate for pair in chosen], [pair.reference for pair in chosen])
        ]
        for pair, candidate, reference in zip(chosen, *sides, strict=True):
            right.append((candidate.log_odds > reference.log_odds) == pair.better)
    return float(np.mean(right))


def trained(folder: Path, recipe: RewardRecipe, kind: str = "generative") -> str:
    """The folder of a model that has been through a recipe, which it is taken through as far as that was not done."""
    state = folder / "training.pt"
    if state.exists() or not (folder / "model.safetensors").exists():
        KINDS[kind](folder, recipe)
        state.unlink()  # which says that it is done
    return str(folder)


def run(out: Path, kind: str, recipe: RewardRecipe, cases: Cases) -> None:
    """Train a judge and measure it, as far as that has not been done."""
    folder = out / f"{recipe.architecture}-{kind}-{recipe.seed}"
    path = folder / "figures.json"
    if not path.exists():
        trained(folder, recipe, kind)
        found = measure(folder, cases, recipe.device)
        path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def interval(values: Sequence[float]) -> str:
    """Mean and half the width of its 95% interval over seeds (Student's t)."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    student = stats.t.ppf(0.975, len(values) - 1)
    return f"{mean:.3f} ± {student * statistics.stdev(values) / math.sqrt(len(values)):.3f}"


def table(runs: Sequence[Run]) -> str:
    """Three tables in Markdown: sizes and kinds, contexts, best of 16."""

    def row(size: str, kind: str, names: Sequence[str]) -> str:
        those = [item.figures for item in runs if (item.size, item.kind) == (size, kind)]
        cells = [
            interval([figures[name] for figures in those if name in figures]) if name in those[0] else "-"
            for name in names
        ]
        return f"| {size} | {kind} | {len(those)} | {' | '.join(cells)} |"

    def head(names: Sequence[str]) -> str:
        return f"| judge | kind | seeds | {' | '.join(names)} |\n|---|---|---|{'---|' * len(names)}"

    known = [(size, kind) for size in SIZES for kind in KINDS if any((r.size, r.kind) == (size, kind) for r in runs)]
    accuracies, choices = ("pairs", "held-out", "one attribute"), ("random", "best of 16", "oracle", "lift")
    thinking = (*CONTEXTS, "the same pairs, without")
    return "\n\n".join(
        "\n".join([head(names), *(row(size, kind, names) for size, kind in known)])
        for names in (accuracies, thinking, choices)
    )


def plot(runs: Sequence[Run], path: Path) -> None:
    """Accuracy and lift over size by kind, and accuracy over context by size; a point for every seed."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    sized, lifted, contextual = figure.subplots(1, 3)
    colours = {"generative": "tab:blue", "bradley-terry": "tab:orange"}
    for axes, name, label in (
        (sized, "pairs", "accuracy on unseen pairs"),
        (lifted, "best of 16", "correct by the oracle, best of 16"),
    ):
        for kind in KINDS:
            those = sorted((item for item in runs if item.kind == kind), key=lambda item: item.parameters)
            groups = [list(group) for _, group in itertools.groupby(those, key=lambda item: item.parameters)]
            axes.plot(
                [group[0].parameters for group in groups],
                [statistics.mean(item.figures[name] for item in group) for group in groups],
                color=colours[kind],
                label=kind,
            )
            xs, ys = [item.parameters for item in those], [item.figures[name] for item in those]
            axes.scatter(xs, ys, color=colours[kind], s=14)
        axes.set_xscale("log")
        axes.set_xticks(sorted({item.parameters for item in runs}))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("parameters, millions")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.legend()
    for size in SIZES:
        told = [item.figures for item in runs if item.size == size and item.kind == "generative"]
        if told:
            means = [statistics.mean(figures[name] for figures in told) for name in CONTEXTS]
            contextual.plot(CONTEXTS, means, marker="o", markersize=4, label=size)
    contextual.set_ylabel("accuracy on unseen pairs")
    contextual.tick_params(axis="x", labelsize=8)
    contextual.grid(alpha=0.3)
    if contextual.lines:
        contextual.legend()
    figure.savefig(path, dpi=120)


def parsed(arguments: Sequence[str] | None) -> Any:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sizes", nargs="+", choices=list(ARCHITECTURES), default=SIZES)
    parser.add_argument("--kinds", nargs="*", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--seeing", type=int, default=1200, help="steps of learning to see, eight prompts each")
    parser.add_argument("--speaking", type=int, default=1700, help="steps of learning to speak, four prompts each")
    parser.add_argument("--asking", type=int, default=500, help="steps of learning to answer")
    parser.add_argument("--steps", type=int, default=300, help="steps of learning to judge")
    parser.add_argument("--groups", type=int, default=4, help="prompts in each of those; more keep a GPU busy")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="of the widest; narrower ones learn faster")
    parser.add_argument(
        "--pool", nargs="*", default=[], help="generated pictures to train on as well (see `nano draw-pool`)"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--size", type=int, default=300, help="pairs of each sort to measure on")
    parser.add_argument("--prompts", type=int, default=20, help="of every kind to choose the best of 16 for")
    parser.add_argument("--measure", help="only measure this judge, a folder or a name, on the same pictures")
    parser.add_argument("--report", action="store_true", help="only print what is there")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    given = parsed(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    if given.measure:
        cases = draw_cases(given.out, given.size, given.prompts, given.device)
        print(json.dumps(measure(Path(shipped(given.measure)), cases, given.device), indent=2))
        return
    if not given.report:
        train_all(given)
    runs = found(given.out)
    if not runs:
        print(f"{given.out} holds no judges that were measured.")
        return
    text = table(runs)
    (given.out / "scaling.md").write_text(text + "\n", encoding="utf-8")
    plot(runs, given.out / "scaling.png")
    print(text)


def backbone(given: Any, size: str) -> RewardRecipe:
    """How a model of some size learns to answer, once it has learned to see and to speak."""
    common = RewardRecipe(
        architecture=size,
        learning_rate=given.learning_rate * math.sqrt(WIDEST / ARCHITECTURES[size].text_width),
        generated=tuple(given.pool),
        generated_share=POOL_SHARE,
        device=given.device,
        workers=given.workers,
    )
    speaking = replace(
        common,
        steps=given.seeing + given.speaking,
        vision_steps=given.seeing,
        vision_groups=8,
        caption_steps=given.speaking,
        seed=1_000_000,  # no pictures that a judge of some seed will see again
    )
    return replace(
        common,
        steps=given.asking,
        groups=given.groups,
        vision_steps=0,
        caption_steps=0,
        asking_steps=given.asking,
        warmup=50,
        learning_rate=ASKING_RATE * common.learning_rate,
        detection_weight=0.0,  # it sees; the read-out that taught it so was not kept
        start_from=trained(given.out / f"{size}-speaker", speaking),
        seed=2_000_000,
    )


def judge_of(given: Any, answering: RewardRecipe, seed: int) -> RewardRecipe:
    """How a judge comes from a model that has learned to answer."""
    return replace(
        answering,
        steps=given.steps,
        asking_steps=0,
        learning_rate=JUDGING_RATE / ASKING_RATE * answering.learning_rate,
        start_from=trained(given.out / f"{answering.architecture}-backbone", answering),
        seed=seed,
    )


def train_all(given: Any) -> None:
    backbones = [backbone(given, size) for size in given.sizes]
    judges = [judge_of(given, answering, seed) for seed, answering in itertools.product(given.seeds, backbones)]
    if not given.kinds:
        return
    cases = draw_cases(given.out, given.size, given.prompts, given.device)
    for recipe, kind in itertools.product(judges, given.kinds):
        run(given.out, kind, recipe, cases)


def found(out: Path) -> list[Run]:
    """The runs that a folder holds."""
    runs = []
    for kind in KINDS:
        for path in sorted(out.glob(f"*-{kind}-*/figures.json")):
            size, seed = path.parent.name.split(f"-{kind}-")
            runs.append(Run(size, kind, int(seed), json.loads(path.read_text(encoding="utf-8"))))
    return runs


if __name__ == "__main__":
    main()
