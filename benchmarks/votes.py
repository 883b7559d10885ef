"""Do a hundred votes teach the judge a criterion that it has never heard of?

A scripted voter, who likes warm colours and cares for nothing else, votes on a hundred pairs of the nano world. The
votes go the way of people's: into the store, out of it as preferences, and into `train-reward` from the shipped judge.

    python -m benchmarks.votes --out votes-run

prints the accuracy on pairs that were not voted on, before and after, as a Markdown table.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from diffusers_ext.data import locate, write
from diffusers_ext.data.votes import Vote, VoteStore
from diffusers_ext.evaluation import judge_preferences, preference_report
from diffusers_ext.nano.preferences import Picture, sample_group
from diffusers_ext.reward_training import RewardTraining, train_reward_model
from diffusers_ext.rewards.images import as_png
from diffusers_ext.rewards.instructions import Instruction, load_instructions
from diffusers_ext.rewards.model import RewardModel

WARM = {"red", "orange", "yellow"}
CRITERION = '[warmth]\ntext = "Judge how warm the colours are. Ignore the prompt."\n'


def votes(seed: int) -> Iterator[Vote]:
    """The voter's choices: the picture with the larger share of warm objects; pairs with equal shares are passed by."""
    rng = np.random.default_rng(seed)
    for number in itertools.count():
        group = sample_group(rng)
        a, b = (group.pictures[int(index)] for index in rng.choice(len(group.pictures), 2, replace=False))
        warmer = _warmth(a) - _warmth(b)
        if warmer:
            left, right = (as_png(Image.fromarray(picture.pixels)) for picture in (a, b))
            yield Vote(f"{seed}-{number}", group.spec.text, left, right, "a" if warmer > 0 else "b", "warmth")


def _warmth(picture: Picture) -> float:
    return float(np.mean([item.colour in WARM for item in picture.objects]))


def cast(folder: Path, name: str, seed: int, count: int) -> Path:
    """Have the voter vote, and export the votes."""
    store = VoteStore(folder / f"{name}.sqlite")
    for vote in itertools.islice(votes(seed), count):
        store.add(vote)
    write(folder / f"{name}.jsonl", store.preferences())
    return folder / f"{name}.jsonl"


def configuration(folder: Path, train: Path, steps: int) -> RewardTraining:
    """The run: a small adapter in every layer of the shipped judge's language model."""
    (folder / "warmth.toml").write_text(CRITERION, encoding="utf-8")
    return RewardTraining(
        (str(train),),
        str(folder / "judge"),
        instruction="warmth",
        instructions=str(folder / "warmth.toml"),
        rank=8,
        alpha=16,
        steps=steps,
        batch_size=10,
        micro_batch_size=10,
        learning_rate=3e-3,
        warmup=5,
        precision="float32",
        checkpointing=False,
    )


def accuracy(judge: RewardModel, file: Path, own: dict[str, Instruction]) -> str:
    figure = preference_report(judge_preferences(judge, locate([file])[0], own=own)).figures["accuracy"]
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("votes-run"), help="folder for the votes and the judge")
    parser.add_argument("--votes", type=int, default=100)
    parser.add_argument("--held-out", type=int, default=300, help="pairs to measure on")
    parser.add_argument("--steps", type=int, default=90)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    train, held = cast(given.out, "votes", 1, given.votes), cast(given.out, "held-out", 2, given.held_out)
    config = configuration(given.out, train, given.steps)
    own = load_instructions(given.out / "warmth.toml")
    before = accuracy(RewardModel.default(), held, own)
    after = accuracy(RewardModel.from_pretrained(train_reward_model(config, progress=True)), held, own)
    print("| judge | accuracy on the new criterion (95% interval) |\n|---|---|")
    print(f"| as it is shipped | {before} |\n| after {given.votes} votes | {after} |")


if __name__ == "__main__":
    main()
