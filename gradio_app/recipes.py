"""What visitors may train: configurations that whoever keeps the page has named, and what may be changed of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from diffusers_ext.configuring import read_yaml
from diffusers_ext.rewards.errors import RewardDanceError
from diffusers_ext.training import LoraTrainingError, read_config

from .models import Models

if TYPE_CHECKING:
    from diffusers_ext.training import LoraTraining

AS_GIVEN = "as the recipe says"


def recipes(named: Sequence[str], models: Models) -> dict[str, str]:
    """The recipes of a page, each with what `read_config` takes.

    Args:
        named: files, or names of shipped ones. None of them: the shipped ones of the page's pipelines.
        models: whose pipelines are trained.
    """
    if named:
        return {Path(item).stem: item for item in named}
    painted = {models.pipeline_source(name) for name in models.pipelines}
    found = {name: name for name, pipeline in _shipped() if pipeline in painted}
    return dict(sorted(found.items(), key=lambda item: (item[0] != "nano-nft", item[0])))


def _shipped() -> Iterator[tuple[str, str | None]]:
    from diffusers_ext.training.config import SHIPPED

    for file in sorted(SHIPPED.glob("*.yaml")):
        yield file.stem, read_yaml(file, LoraTrainingError).get("pipeline")


def read_recipe(known: dict[str, str], name: str) -> LoraTraining:
    """A recipe by its name.

    Raises:
        RewardDanceError: there is none, or it cannot be read.
    """
    if name not in known:
        there = ", ".join(map(repr, known)) or "none; start the page with --recipe"
        raise RewardDanceError(f"there is no recipe {name!r} here; this page has {there}")
    return read_config(known[name])


def changed(
    config: LoraTraining,
    models: Models,
    judge: str,
    criterion: str,
    second: str,
    iterations: int,
    seed: int,
    learning_rate: float,
    evaluate_every: int,
) -> LoraTraining:
    """A recipe with what a visitor has chosen in its place.

    Args:
        config: the recipe.
        models: whose judges can be chosen.
        judge, second: their names, or :data:`AS_GIVEN`.
        criterion: what the first judge judges by.
        iterations, seed, learning_rate, evaluate_every: as in the recipe.
    """
    first = replace(config.judges[0], instruction=criterion)
    judges = (first, *config.judges[1:])
    if judge != AS_GIVEN:
        judges = (replace(first, model=models.judge_source(judge)),)
    if second != AS_GIVEN:
        other = replace(config.judges[0], model=models.judge_source(second), instruction=criterion, reference="none")
        config = replace(config, second_judge=other)
    return replace(
        config,
        judges=judges,
        iterations=iterations,
        seed=seed,
        learning_rate=learning_rate,
        evaluate_every=evaluate_every,
        save_every=min(config.save_every, evaluate_every),
    )
