"""How often the picture is right, against what it cost: every method of guided sampling, in the nano world.

    python -m benchmarks.guided_sampling runs/guided  # a day on two cores; --device cuda if there is one
    python -m benchmarks.guided_sampling runs/guided --budgets 1 8 --per-kind 2 --seeds 0  # a small one

A budget of b is what b plain pictures of 20 steps cost in network evaluations; a gradient that goes back through the
network counts as two more. The oracle, which no method sees, says whether the chosen picture is right. Every search is
a line in `results.jsonl`; a run that is stopped goes on from there when the command is given again, and several may
write to one folder at a time if they do different methods, budgets or seeds. `table.md` and `plot.png` are made of all
lines there are.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw
from rich.console import Console
from rich.progress import track

from diffusers_ext import RewardModel
from diffusers_ext.nano import DEFAULT_PIPELINE, DEFAULT_REWARD_MODEL, GENERATOR_OPTIONS
from diffusers_ext.nano.oracle import judge as oracle
from diffusers_ext.nano.scenes import PROMPT_KINDS, sample_prompt
from diffusers_ext.sampling import (
    BeamSearch,
    Drafts,
    FeynmanKac,
    Gradient,
    Method,
    NoiseOptimization,
    RandomSearch,
    Redrafts,
    RewardGuidedPipeline,
    SearchOverPaths,
    ZeroOrder,
)

STEPS: Final = GENERATOR_OPTIONS["num_inference_steps"]
FEW: Final = 5
PLAIN: Final = "best-of-N"
BATCH: Final = 128
"""The most pictures at a time; the methods that compare all of theirs need them together in any case."""


def pruned(budget: int) -> Method:
    keep = max(1, budget // 4)
    look = round(0.35 * STEPS)
    return RandomSearch((STEPS * budget - keep * (STEPS - look)) // look, keep, 0.35)


def drafts(budget: int) -> Method | None:
    keep = {2: 1, 4: 2, 8: 2, 16: 3}.get(budget, max(1, budget // 8))
    return Drafts(STEPS * (budget - keep) // FEW, FEW, keep) if budget > keep else None


def until_sure(budget: int) -> Method | None:
    """What it costs is known afterwards; the most drafts are chosen so that it is about the budget on average."""
    most = {4: 16, 8: 64, 16: 192}.get(budget)
    return Drafts(most, FEW, keep=2, enough=0.95, lot=8) if most else None


def redrafts(budget: int) -> Method | None:
    """As above: the most rounds are chosen so that it costs about the budget on average."""
    match budget:
        case 4:
            return Redrafts(4, rounds=9, steps=FEW, keep=1)
        case 8:
            return Redrafts(8, rounds=12, steps=FEW, keep=2, enough=0.97)
        case 16:
            return Redrafts(16, rounds=16, steps=FEW, keep=3, enough=0.99)
        case _:
            return None


def zero_order(budget: int) -> Method | None:
    searched = STEPS * (budget - 1) // FEW
    first = searched // 2
    return ZeroOrder(first, neighbours=first // 2, rounds=2, radius=0.5, steps=FEW) if first > 1 else None


def paths(budget: int) -> Method | None:
    begin, back, ahead, kept = 7, 4, 6, 2  # steps; then rounds end at 9 and 11
    copies = STEPS * budget // (kept * (begin + 2 * ahead) + kept)
    if copies < 2:
        return None
    return SearchOverPaths(kept, copies, begin / STEPS, back / STEPS, ahead / STEPS, rounds=2)


def noise_optimization(budget: int) -> Method | None:
    climbs = STEPS * (budget - 1) // (3 * FEW)
    return NoiseOptimization(1, climbs, FEW) if climbs else None


METHODS: Final[dict[str, Callable[[int], Method | None]]] = {
    PLAIN: RandomSearch,
    f"best-of-N, all in {FEW} steps": lambda budget: RandomSearch(STEPS // FEW * budget),
    "best-of-N, pruned": pruned,
    "drafts": drafts,
    "drafts until sure": until_sure,
    "redrafts": redrafts,
    "zero-order": zero_order,
    "search over paths": paths,
    "beam search": lambda budget: BeamSearch(budget, max(1, budget // 4)) if budget > 1 else None,
    "Feynman-Kac": lambda budget: FeynmanKac(budget) if budget > 1 else None,
    "gradient": Gradient,
    "noise optimization": noise_optimization,
}
"""What each method does with a budget; None where it is too small."""


def options_of(name: str) -> dict[str, Any]:
    return {**GENERATOR_OPTIONS, "num_inference_steps": FEW} if "all in" in name else GENERATOR_OPTIONS


def run(
    out: Path,
    names: Sequence[str],
    budgets: Sequence[int],
    seeds: Sequence[int],
    per_kind: int,
    judge: str,
    device: str,
) -> None:
    """Do all searches that `results.jsonl` does not hold yet."""
    import torch
    from diffusers import StableDiffusion3Pipeline
    from diffusers.utils import logging

    logging.set_verbosity_error()  # it warns of a short max_sequence_length at every call
    pipeline = StableDiffusion3Pipeline.from_pretrained(DEFAULT_PIPELINE).to(device)
    pipeline.set_progress_bar_config(disable=True)
    reward_model = RewardModel.from_pretrained(judge, device=device, dtype=torch.float32)
    rng = np.random.default_rng(20)
    prompts = [sample_prompt(rng, kind) for _ in range(per_kind) for kind in PROMPT_KINDS]
    done = {(row["method"], row["budget"], row["seed"], row["prompt_number"]) for row in rows_of(out)}
    jobs = [
        (name, budget, seed, number)
        for seed in seeds
        for number in range(len(prompts))
        for budget in budgets
        for name in names
        if (name, budget, seed, number) not in done
    ]
    with (out / "results.jsonl").open("a", encoding="utf-8") as file:
        for name, budget, seed, number in track(jobs, "searching", console=Console(stderr=True)):
            method, spec = METHODS[name](budget), prompts[number]
            if method is None:
                continue
            start = time.perf_counter()
            found = RewardGuidedPipeline(pipeline, reward_model, method, batch_size=BATCH)(
                spec.text, instruction="alignment", seed=1_000_000 * seed + 1_000 * number, **options_of(name)
            )
            row = {
                "method": name,
                "budget": budget,
                "seed": seed,
                "prompt_number": number,
                "prompt": spec.text,
                "correct": bool(oracle(found.best, spec).correct),
                "cost": (found.evaluations + 2 * found.network_gradients) / STEPS,
                "judgements": found.judgements,
                "gradients": found.gradients,
                "seconds": round(time.perf_counter() - start, 3),
            }
            file.write(json.dumps(row) + "\n")
            file.flush()


def rows_of(out: Path) -> list[dict[str, Any]]:
    """All lines but one that was cut off."""
    path, rows = out / "results.jsonl", []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


Cells = dict[tuple[str, int], tuple[float, float, float, int]]
"""By method and budget: share of right pictures, its spread over seeds, the true cost, and the number of searches."""


def cells_of(rows: Sequence[dict[str, Any]]) -> Cells:
    grouped = defaultdict(list)
    for row in rows:
        grouped[row["method"], row["budget"]].append(row)
    cells: Cells = {}
    for key, group in grouped.items():
        by_seed = defaultdict(list)
        for row in group:
            by_seed[row["seed"]].append(row["correct"])
        spread = float(np.std([np.mean(found) for found in by_seed.values()]))
        right, cost = (float(np.mean([row[name] for row in group])) for name in ("correct", "cost"))
        cells[key] = (right, spread, cost, len(group))
    return cells


def table(cells: Cells) -> str:
    """Markdown: methods down, budgets across."""
    budgets = sorted({budget for _, budget in cells})
    lines = [
        "| method | " + " | ".join(f"{budget}x" for budget in budgets) + " |",
        "|---|" + "---|" * len(budgets),
    ]
    for name in METHODS:
        found = [cells.get((name, budget)) for budget in budgets]
        if any(found):
            shown = [f"{cell[0]:.3f} ± {cell[1]:.3f} ({cell[2]:.1f}x)" if cell else "" for cell in found]
            lines.append(f"| {name} | " + " | ".join(shown) + " |")
    searches = sorted({cell[3] for cell in cells.values()})
    count = str(searches[0]) if len(searches) == 1 else f"{searches[0]} to {searches[-1]}"
    lines += ["", f"Share of right pictures ± its deviation over seeds (true cost); {count} searches each."]
    return "\n".join(lines) + "\n"


COLOURS: Final = (
    "#000000",
    "#7f7f7f",
    "#1f77b4",
    "#d62728",
    "#2ca02c",
    "#9467bd",
    "#ff7f0e",
    "#8c564b",
    "#e377c2",
    "#17becf",
    "#ff9896",
    "#bcbd22",
)


def plot(cells: Cells, size: tuple[int, int] = (900, 540)) -> Image.Image:
    """Right pictures over true cost, the latter on a scale of doublings."""
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = 60, 20, size[0] - 230, size[1] - 50
    low = min(cell[0] for cell in cells.values()) - 0.02
    most = 0.1 + max(1.0, max(np.log2(max(cell[2], 0.5)) for cell in cells.values()))

    def place(cell: tuple[float, float, float, int]) -> tuple[float, float]:
        x = left + (right - left) * max(0.0, float(np.log2(max(cell[2], 0.5)))) / most
        return x, bottom - (bottom - top) * (cell[0] - low) / (1.0 - low)

    draw.rectangle((left, top, right, bottom), outline="#b8b8b8")
    for power in range(int(most) + 1):
        draw.text((left + (right - left) * power / most, bottom + 8), f"{2**power}x", fill="black", anchor="mt")
    for share in np.arange(np.ceil(low * 10) / 10, 1.01, 0.1):
        y = bottom - (bottom - top) * (share - low) / (1.0 - low)
        draw.line((left, y, right, y), fill="#ececec")
        draw.text((left - 8, y), f"{share:.1f}", fill="black", anchor="rm")
    draw.text(((left + right) / 2, size[1] - 8), "network evaluations, in plain pictures", fill="black", anchor="mb")
    for number, name in enumerate(METHODS):
        points = [place(cell) for (method, _), cell in sorted(cells.items()) if method == name]
        if not points:
            continue
        colour = COLOURS[number]
        draw.line(points, fill=colour, width=3 if name == PLAIN else 2)
        for x, y in points:
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour)
        y = top + 10 + 20 * number
        draw.line((right + 15, y, right + 40, y), fill=colour, width=3)
        draw.text((right + 48, y), name, fill="black", anchor="lm")
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of results.jsonl, table.md and plot.png")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), metavar="METHOD")
    parser.add_argument("--budgets", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--per-kind", type=int, default=8, help="prompts of each of the six kinds")
    parser.add_argument("--judge", default=str(DEFAULT_REWARD_MODEL), help="a reward model's folder")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    run(
        arguments.out,
        arguments.methods,
        arguments.budgets,
        arguments.seeds,
        arguments.per_kind,
        arguments.judge,
        arguments.device,
    )
    cells = cells_of(rows_of(arguments.out))
    if not cells:
        print("no method fits into these budgets")
        return
    text = table(cells)
    (arguments.out / "table.md").write_text(text, encoding="utf-8")
    plot(cells).save(arguments.out / "plot.png")
    print(text)


if __name__ == "__main__":
    main()
