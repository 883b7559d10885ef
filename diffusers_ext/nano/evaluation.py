"""The figures of the nano models' cards, measured against the truth on data that training never saw.

Every figure comes from :func:`evaluate_all`, which `rewarddance evaluate` prints.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from ..hushing import hushed
from ..rewards.judgement import Judgement
from .oracle import judge
from .preferences import (
    FLAWED,
    FLAWLESS,
    Pair,
    Picture,
    flaws,
    good,
    marks,
    sample_conflicts,
    sample_group,
    sample_minimal_pairs,
    sample_pairs,
)
from .render import CLEAN
from .scenes import IMAGE_SIZE, PROMPT_KINDS, Check, PromptSpec, SeenObject, grade, sample_prompt

if TYPE_CHECKING:
    from ..rewards.model import RewardModel

SECTIONS: Final = ("reward", "rationales", "videos", "generator", "best-of-n")
SEED: Final = 20_000_000
"""Where evaluation data begin; training draws from small seeds."""
CANDIDATES: Final = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Figure:
    """A measured value over `n` cases, and the bar it is held against (`low`, `high`; None: no bar on that side)."""

    value: float
    n: int
    low: float | None = None
    high: float | None = None

    @property
    def passed(self) -> bool:
        return (self.low is None or self.value >= self.low) and (self.high is None or self.value <= self.high)

    def as_dict(self) -> dict[str, Any]:
        passed = None if self.low is None and self.high is None else self.passed
        return {"value": self.value, "n": self.n, "low": self.low, "high": self.high, "passed": passed}


Report = dict[str, dict[str, Figure]]


def evaluate_all(
    reward_model: RewardModel,
    video_reward_model: RewardModel | None = None,
    pipeline: Any | None = None,
    sections: Sequence[str] = SECTIONS,
    size: int = 1000,
    progress: bool = False,
) -> Report:
    """Measure the named sections.

    Args:
        reward_model: the judge.
        video_reward_model: the judge of videos; needed for the section ``videos``.
        pipeline: the nano generator; needed for the sections ``generator`` and ``best-of-n``.
        sections: which of :data:`SECTIONS`, in order.
        size: cases per figure of ``reward``; the costlier sections scale with it.
        progress: show progress on stderr.

    Returns:
        For each section its figures by name.
    """
    report: Report = {}
    for section in sections:
        if section == "reward":
            report[section] = reward_figures(reward_model, size, progress)
        elif section == "rationales":
            report[section] = rationale_figures(reward_model, max(20, size // 4), progress)
        elif section == "videos":
            from .moving.evaluation import video_figures

            assert video_reward_model is not None, "the section 'videos' needs a judge of videos"
            report[section] = video_figures(video_reward_model, max(20, size // 2), progress)
        elif section == "generator":
            report[section] = generator_figures(pipeline, max(1, size // 40), progress)
        elif section == "best-of-n":
            report[section] = best_of_n_figures(reward_model, pipeline, max(1, size // 100), progress)
        else:
            raise ValueError(f"unknown section {section!r}; there are {', '.join(SECTIONS)}")
    return report


def reward_figures(reward_model: RewardModel, size: int, progress: bool = False) -> dict[str, Figure]:
    """Accuracy, swap-consistency, obedience to the instruction and calibration on renders."""

    def pairs(stream: Callable[..., Iterator[Pair]], offset: int, **options: Any) -> list[Pair]:
        return list(itertools.islice(stream(np.random.default_rng(SEED + offset), **options), size))

    in_domain = pairs(sample_pairs, 0)
    held_out = pairs(sample_pairs, 1, held_out=True)
    minimal = pairs(sample_minimal_pairs, 2)
    conflicts = pairs(sample_conflicts, 3)
    forward = judge_pairs(reward_model, in_domain, debias=False, progress=progress)
    backward = judge_pairs(reward_model, [swapped(pair) for pair in in_domain], debias=False, progress=progress)
    both = [first.swapped(second) for first, second in zip(forward, backward, strict=True)]
    held = judge_pairs(reward_model, held_out, progress=progress)
    pointwise_judgements, pointwise_labels = pointwise(reward_model, np.random.default_rng(SEED + 4), size, progress)
    consistent = [a.verdict != b.verdict for a, b in zip(forward, backward, strict=True)]
    return {
        "pairwise accuracy": Figure(accuracy(both, in_domain), size, low=0.95),
        "pairwise accuracy, one order only": Figure(accuracy(forward, in_domain), size),
        "pairwise accuracy, held-out combinations": Figure(accuracy(held, held_out), size, low=0.90),
        "pairs that differ in one attribute": Figure(
            accuracy(judge_pairs(reward_model, minimal, progress=progress), minimal), size, low=0.90
        ),
        "swap-consistency": Figure(float(np.mean(consistent)), size, low=0.97),
        "obeys the instruction": Figure(
            accuracy(judge_pairs(reward_model, conflicts, progress=progress), conflicts), size, low=0.90
        ),
        "expected calibration error": Figure(
            calibration_error([j.reward for j in both], [pair.better for pair in in_domain]), size, high=0.05
        ),
        "pointwise accuracy": Figure(
            float(
                np.mean([j.verdict == label for j, label in zip(pointwise_judgements, pointwise_labels, strict=True)])
            ),
            len(pointwise_labels),
        ),
        "pointwise calibration error": Figure(
            calibration_error([j.reward for j in pointwise_judgements], pointwise_labels),
            len(pointwise_labels),
            high=0.05,
        ),
    }


def rationale_figures(reward_model: RewardModel, size: int, progress: bool = False) -> dict[str, Figure]:
    """Whether chains of thought judge as well as direct verdicts, and whether what they state is true."""
    pairs = list(itertools.islice(sample_pairs(np.random.default_rng(SEED + 5)), size))
    direct = judge_pairs(reward_model, pairs, debias=False, progress=progress)
    explained = judge_pairs(reward_model, pairs, debias=False, explain=True, progress=progress)
    told = [(judgement.explanation or "", pair) for judgement, pair in zip(explained, pairs, strict=True)]
    clean = [(text, pair) for text, pair in told if pair.candidate.degradation == pair.reference.degradation == CLEAN]
    plain = accuracy(direct, pairs)
    return {
        "direct accuracy": Figure(plain, size),
        "accuracy after a chain of thought": Figure(accuracy(explained, pairs), size, low=plain),
        "facts that are true": _share_of_true_facts(told, as_drawn),
        "facts that are true by the oracle, undamaged pictures": _share_of_true_facts(clean, by_oracle),
    }


def _share_of_true_facts(told: Sequence[tuple[str, Pair]], see: Callable[[Picture, PromptSpec], Seen]) -> Figure:
    facts = [
        fact for text, pair in told for fact in check_rationale(text, pair.candidate, pair.reference, pair.spec, see)
    ]
    return Figure(float(np.mean(facts)) if facts else 0.0, len(facts), low=0.90)


def judge_pairs(
    reward_model: RewardModel, pairs: Sequence[Pair], debias: bool = True, explain: bool = False, progress: bool = False
) -> list[Judgement]:
    """One judgement per pair, in order; pairs that share an instruction are judged together."""
    judgements: dict[int, Judgement] = {}
    for instruction in dict.fromkeys(pair.instruction for pair in pairs):
        chosen = [index for index, pair in enumerate(pairs) if pair.instruction == instruction]
        found = reward_model.compare(
            [Image.fromarray(pairs[index].candidate.pixels) for index in chosen],
            [Image.fromarray(pairs[index].reference.pixels) for index in chosen],
            [pairs[index].spec.text for index in chosen],
            instruction=instruction,
            debias=debias,
            explain=explain,
            progress=progress,
        )
        judgements |= dict(zip(chosen, found, strict=True))
    return [judgements[index] for index in range(len(pairs))]


def swapped(pair: Pair) -> Pair:
    """The same pair with candidate and reference exchanged."""
    return Pair(pair.instruction, pair.spec, pair.reference, pair.candidate, not pair.better)


def accuracy(judgements: Sequence[Judgement], pairs: Sequence[Pair]) -> float:
    """Share of verdicts that agree with the truth."""
    return float(np.mean([j.verdict == pair.better for j, pair in zip(judgements, pairs, strict=True)]))


def calibration_error(rewards: Sequence[float], labels: Sequence[bool], bins: int = 10) -> float:
    """Expected calibration error (Guo et al. 2017) of P(yes), over equal-width bins of it."""
    values, truth = np.asarray(rewards), np.asarray(labels, dtype=float)
    places = np.minimum((values * bins).astype(int), bins - 1)
    gaps = [abs(values[places == b].mean() - truth[places == b].mean()) * (places == b).mean() for b in set(places)]
    return float(sum(gaps))


def pointwise(
    reward_model: RewardModel, rng: np.random.Generator, size: int, progress: bool = False
) -> tuple[list[Judgement], list[bool]]:
    """Judgements of about `size` pictures with no reference, by alignment and overall, and whether each is good."""
    groups = [sample_group(rng) for _ in range(max(1, size // 6))]
    judgements: list[Judgement] = []
    labels: list[bool] = []
    for instruction in ("alignment", "overall"):
        for group in groups:
            labels += [good(instruction, marks(picture, group.spec)) for picture in group.pictures]
        judgements += reward_model.score(
            [Image.fromarray(picture.pixels) for group in groups for picture in group.pictures],
            [group.spec.text for group in groups for _ in group.pictures],
            instruction=instruction,
            progress=progress,
        )
    return judgements, labels


_CAPTION = re.compile(r"(Candidate|Reference): ([^;]*); ([^.]*)\.")
_ALIGNMENT = re.compile(r"Alignment: candidate (\d) of (\d), reference (\d) of (\d)")
_ROWS: Final = ("top", "middle", "bottom")


@dataclass(frozen=True)
class Seen:
    """What there is to say of a picture: its objects, the prompt's requirements, and which flaws are visible."""

    objects: tuple[SeenObject, ...]
    checks: tuple[Check, ...]
    flaws: tuple[bool, ...]


def as_drawn(picture: Picture, spec: PromptSpec) -> Seen:
    """The truth about a picture, from the scene that it was drawn from."""
    return Seen(picture.objects, grade(spec, picture.objects).checks, flaws(picture.degradation))


def by_oracle(picture: Picture, spec: PromptSpec) -> Seen:
    """What the oracle sees in the pixels. It takes a badly broken shape for no object at all."""
    verdict = judge(picture.pixels, spec)
    return Seen(verdict.objects, verdict.grade.checks, flaws(verdict.quality))


def check_rationale(
    explanation: str,
    candidate: Picture,
    reference: Picture,
    spec: PromptSpec,
    see: Callable[[Picture, PromptSpec], Seen] = as_drawn,
) -> list[bool]:
    """Whether each fact that a rationale states is true of the two pictures, as `see` sees them.

    Facts are the objects (colour, shape and height; one that is not there is false, and so is each that is there
    and goes unmentioned), the flaws, and how many of the prompt's requirements each picture meets.
    """
    seen = {"Candidate": see(candidate, spec), "Reference": see(reference, spec)}
    facts: list[bool] = []
    for name, objects, looks in _CAPTION.findall(explanation):
        facts += _object_facts(objects, seen[name].objects)
        known = zip(looks.split(", "), seen[name].flaws, FLAWED, FLAWLESS, strict=False)
        facts += [word == (bad if flawed else fine) for word, flawed, bad, fine in known]
    for met_candidate, all_candidate, met_reference, all_reference in _ALIGNMENT.findall(explanation):
        tallies = (("Candidate", met_candidate, all_candidate), ("Reference", met_reference, all_reference))
        for name, met, total in tallies:
            checks = seen[name].checks
            facts.append((int(met), int(total)) == (sum(check.met for check in checks), len(checks)))
    return facts


def _object_facts(text: str, objects: Sequence[SeenObject]) -> list[bool]:
    left = list(objects)
    facts: list[bool] = []
    for words in (phrase.split() for phrase in text.split(", ") if phrase.strip()):
        found = next((item for item in left if _described(words, item)), None)
        facts.append(found is not None)
        if found is not None:
            left.remove(found)
    return facts + [False] * len(left)


def _described(words: list[str], item: SeenObject) -> bool:
    """Whether 'colour shape row' fits an object; near the edge of a row both rows are true."""
    rows = {_ROWS[min(2, max(0, int(3 * (item.y + slack) / IMAGE_SIZE)))] for slack in (-3.0, 3.0)}
    return len(words) == 3 and words[0] == item.colour and words[1] == item.shape and words[2] in rows


def generate(pipeline: Any, prompts: Sequence[str], seeds: Sequence[int], **options: Any) -> list[Image.Image]:
    """One picture per prompt, each from its own seed, whatever the batch."""
    import torch

    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pipeline(list(prompts), generator=generators, **options).images


def sample_sheet(
    pipeline: Any,
    per_prompt: int,
    prompts: Sequence[PromptSpec],
    seed: int,
    progress: bool = False,
    batch: int = 64,
    **options: Any,
) -> list[list[Image.Image]]:
    """For each prompt `per_prompt` pictures, in batches; no two of them start from the same noise."""
    from rich.progress import track

    texts_in_turn = [spec.text for spec in prompts for _ in range(per_prompt)]
    jobs = [(text, seed + index) for index, text in enumerate(texts_in_turn)]
    pipeline.set_progress_bar_config(disable=True)
    pictures: list[Image.Image] = []
    starts = range(0, len(jobs), batch)
    for start in track(starts, "generating", disable=not progress, console=stderr()):
        texts, seeds = zip(*jobs[start : start + batch], strict=True)
        with hushed():
            pictures += generate(pipeline, texts, seeds, **options)
    return [pictures[start : start + per_prompt] for start in range(0, len(pictures), per_prompt)]


def stderr() -> Any:
    from rich.console import Console

    return Console(stderr=True)


def generator_figures(pipeline: Any, per_kind: int, progress: bool = False) -> dict[str, Figure]:
    """Oracle correctness of the generator at 20 steps, by kind of prompt and on held-out combinations."""
    from . import GENERATOR_OPTIONS

    rng = np.random.default_rng(SEED + 6)
    figures: dict[str, Figure] = {}
    for kind in PROMPT_KINDS:
        prompts = [sample_prompt(rng, kind) for _ in range(per_kind)]
        figures[kind] = _correctness(pipeline, prompts, progress, **GENERATOR_OPTIONS)
    mean = float(np.mean([figure.value for figure in figures.values()]))
    prompts = [sample_prompt(rng, held_out=True) for _ in range(2 * per_kind)]
    figures["held-out combinations"] = _correctness(pipeline, prompts, progress, **GENERATOR_OPTIONS)
    return {"mean over the six kinds": Figure(mean, 8 * per_kind * len(PROMPT_KINDS), low=0.35, high=0.60), **figures}


def _correctness(pipeline: Any, prompts: Sequence[PromptSpec], progress: bool, **options: Any) -> Figure:
    sheets = sample_sheet(pipeline, 8, prompts, SEED, progress, **options)
    right = [judge(image, spec).correct for spec, images in zip(prompts, sheets, strict=True) for image in images]
    return Figure(float(np.mean(right)), len(right))


def best_of_n_figures(
    reward_model: RewardModel, pipeline: Any, per_kind: int, progress: bool = False, method: str = "pointwise"
) -> dict[str, Figure]:
    """Oracle correctness of the picture chosen from N, for each N: at random, by the reward model, by the oracle."""
    from . import GENERATOR_OPTIONS

    rng = np.random.default_rng(SEED + 7)
    prompts = [sample_prompt(rng, kind) for kind in PROMPT_KINDS for _ in range(per_kind)]
    most = max(CANDIDATES)
    sheets = sample_sheet(pipeline, most, prompts, SEED, progress, **GENERATOR_OPTIONS)
    right = np.array([[judge(image, s).correct for image in images] for s, images in zip(prompts, sheets, strict=True)])
    rewards = rewards_of(reward_model, sheets, [spec.text for spec in prompts])
    figures: dict[str, Figure] = {}
    for n in CANDIDATES:
        chosen, best = choice_correctness(right, rewards, n)
        figures[f"random, N={n}"] = Figure(float(right.mean()), right.size)
        figures[f"reward model, N={n}"] = Figure(chosen, right.size // n)
        figures[f"oracle, N={n}"] = Figure(best, right.size // n)
    lift = (figures["reward model, N=16"].value - right.mean()) / max(
        1e-9, figures["oracle, N=16"].value - right.mean()
    )
    figures["share of the oracle's lift at N=16"] = Figure(float(lift), right.size // 16, low=0.85)
    return figures


def rewards_of(
    reward_model: RewardModel, sheets: Sequence[Sequence[Image.Image]], prompts: Sequence[str]
) -> np.ndarray:
    """Log-odds of every picture of every prompt, judged alone by alignment, float [prompts, pictures]."""
    judged = (
        reward_model.score(images, prompt, instruction="alignment")
        for prompt, images in zip(prompts, sheets, strict=True)
    )
    return np.array([[judgement.log_odds for judgement in found] for found in judged])


def as_array(sheets: Sequence[Sequence[Image.Image]]) -> np.ndarray:
    """As many pictures of each prompt, uint8 [prompts, pictures, 64, 64, 3]."""
    return np.stack([np.stack([np.asarray(image) for image in images]) for images in sheets])


def choice_correctness(right: np.ndarray, rewards: np.ndarray, n: int) -> tuple[float, float]:
    """Share of correct choices, by the reward and by the oracle, over disjoint sets of `n` candidates.

    Args:
        right: bool [prompts, candidates], whether each is correct.
        rewards: float [prompts, candidates].
        n: how many to choose from; divides the number of candidates.
    """
    truth = right.reshape(-1, n)
    picked = rewards.reshape(-1, n).argmax(1)
    return float(truth[np.arange(len(truth)), picked].mean()), float(truth.any(1).mean())


def fit_temperature(log_odds: Sequence[float], labels: Sequence[bool]) -> float:
    """The temperature that makes P(yes) = sigmoid(log-odds / T) likeliest, found by golden-section search on log T.

    Labels are smoothed as in Platt (1999), so that a judge who was never wrong on a few cases is not held to be sure.
    """
    values, truth = np.asarray(log_odds, dtype=float), np.asarray(labels, dtype=bool)
    yes, no = truth.sum(), (~truth).sum()
    targets = np.where(truth, (yes + 1) / (yes + 2), 1 / (no + 2))

    def cost(log_temperature: float) -> float:
        scaled = values / np.exp(log_temperature)
        return float((targets * np.logaddexp(0.0, -scaled) + (1 - targets) * np.logaddexp(0.0, scaled)).mean())

    low, high = np.log(0.1), np.log(10.0)
    ratio = (np.sqrt(5) - 1) / 2
    for _ in range(60):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, b) if cost(a) < cost(b) else (a, high)
    return float(np.exp(0.5 * (low + high)))
