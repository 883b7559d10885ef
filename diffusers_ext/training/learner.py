"""One iteration after another: draw prompts, explore, judge, compare, learn."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from .advantages import group_advantages
from .algorithm import Algorithm, Situation
from .config import LoraTraining
from .diffusion import noise_for
from .distillation import GuidanceDistillation
from .errors import LoraTrainingError
from .monitors import group_deviation
from .prompts import Prompt
from .setup import Setup
from .sharing import average_gradients

EXPLORED: Final = 1
"""What the noise that pictures begin as is drawn for; see `noise_for`."""
JITTERED: Final = 2


class Learner:
    """A run's own loop body; `iterate` is called with the numbers of iterations, in order."""

    def __init__(self, config: LoraTraining, setup: Setup) -> None:
        self.config, self.studio, self.optimizer = config, setup.studio, setup.optimizer
        self.prompts = setup.inputs.prompts
        self.old = self.studio.policy.weights()
        """Weights of the policy that explores."""
        self.average = self.studio.policy.weights()
        """The running average of what was learned; see `LoraTraining.average`."""
        self.reference: dict[str, Tensor] = {}
        """Weights of the policy that rewards began with: none for the base itself, or what a warm start made of it."""

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """All that has been learned, to go on from."""
        learned = self.studio.policy.weights()
        return {"learned": learned, "old": self.old, "average": self.average, "reference": self.reference}

    def load(self, weights: dict[str, dict[str, Tensor]]) -> None:
        """Be where another learner was when it gave its weights."""
        self.studio.policy.load(weights["learned"])
        self.old, self.average, self.reference = (
            {name: value.to(self.studio.device) for name, value in weights[kept].items()}
            for kept in ("old", "average", "reference")
        )

    def iterate(self, iteration: int) -> dict[str, float]:
        """One iteration; its figures."""
        config, studio, algorithm = self.config, self.studio, self._algorithm(iteration)
        if self._rewarded(iteration) == 0 and iteration > 0:
            self._begin_rewards()
        asked = self._drawn(iteration)
        if algorithm is config.algorithm:  # a warm start is not judged
            studio.make_references(asked, iteration)
        prompts, seeds = self._share(asked, iteration)
        climbed: list[Tensor] = []
        situation = self._situation(prompts, seeds, iteration, climbed)
        with torch.no_grad():
            experience = algorithm.explore(situation)
        figures: dict[str, float] = {}
        advantages = torch.zeros(len(prompts), device=studio.device)
        if experience.clean is not None:
            rewards = self._judge(experience.clean, prompts, iteration)
            advantages = self._compare(rewards)
            figures = self._figures(rewards)
        for number in range(algorithm.updates):
            # A group's pictures are shared among the updates, so that each process has its part in every one.
            position = torch.arange(len(prompts), device=studio.device)
            chosen = (position + iteration) % algorithm.updates == number
            rows = chosen[experience.rows["of"]].nonzero().flatten()
            figures |= self._update(situation, experience.rows, rows, advantages, prompts, iteration)
        keep = algorithm.keeps_of_old(iteration)
        now = studio.policy.weights()
        self.old = _moved(self.old, now, keep)
        # Of the first iterations little is kept, lest the average begin far behind.
        self.average = _moved(self.average, now, min(config.average, (1 + iteration) / (10 + iteration)))
        if climbed:
            figures |= self._figures(torch.cat(climbed))
        return figures

    def _rewarded(self, iteration: int) -> int:
        """How many iterations have been spent on rewards before this one; below zero during a warm start."""
        warm = self.config.warm_start
        return iteration - (warm.iterations if warm is not None else 0)

    def _algorithm(self, iteration: int) -> Algorithm | GuidanceDistillation:
        warm = self.config.warm_start
        return warm if warm is not None and self._rewarded(iteration) < 0 else self.config.algorithm

    def _begin_rewards(self) -> None:
        """Begin anew from what a warm start has learned, and tie to that: the base would draw back from it."""
        self.studio.policy.load(self.average)
        self.old, self.reference = dict(self.average), dict(self.average)
        self.optimizer.state.clear()  # moments of another loss

    def _drawn(self, iteration: int) -> list[Prompt]:
        """The prompts of all groups."""
        rng = np.random.default_rng((self.config.seed, iteration, 3))
        some = len(self.prompts) >= self.config.groups
        return [self.prompts[index] for index in rng.choice(len(self.prompts), self.config.groups, replace=not some)]

    def _share(self, asked: list[Prompt], iteration: int) -> tuple[list[Prompt], list[tuple[int, ...]]]:
        """This process's prompts, each `group_size` times in a row, and a seed for each picture."""
        config, accelerator = self.config, self.studio.accelerator
        share = config.groups // accelerator.num_processes
        first = accelerator.process_index * share
        prompts: list[Prompt] = []
        seeds: list[tuple[int, ...]] = []
        for group in range(first, first + share):
            for member in range(config.group_size):
                prompts.append(asked[group])
                seeds.append((config.seed, iteration, group * config.group_size + member))
        return prompts, seeds

    def _situation(
        self, prompts: list[Prompt], seeds: list[tuple[int, ...]], iteration: int, climbed: list[Tensor]
    ) -> Situation:
        """What the algorithm is given; rewards whose gradient it takes are put into `climbed`."""
        studio, policy = self.studio, self.studio.policy
        condition = studio.condition(prompts)

        def denoiser(of: Tensor | None = None) -> Any:
            chosen = condition if of is None else {name: value[of] for name, value in condition.items()}
            return policy.denoiser(chosen)

        def unprompted(of: Tensor | None = None) -> Any:
            return studio.denoiser(
                [prompts[row].unsaid for row in (range(len(prompts)) if of is None else of.tolist())]
            )

        def reward(clean: Tensor, of: Tensor) -> Tensor:
            rows = of.tolist()
            found = studio.gradient_rewards(
                clean, [prompts[row] for row in rows], [(*seeds[row], JITTERED) for row in rows], iteration
            )
            climbed.append(found.detach())
            return found

        return Situation(
            noise=noise_for(studio.generator.shape, [(*seed, EXPLORED) for seed in seeds], studio.device),
            schedule=studio.schedule,
            denoiser=denoiser,
            unprompted=unprompted,
            level=studio.generator.level,
            as_old=lambda: policy.acting_as(self.old),
            as_base=lambda: policy.acting_as({}),
            as_reference=lambda: policy.acting_as(self.reference),
            reward=reward,
            seeds=seeds,
            iteration=iteration,
        )

    def _judge(self, clean: Tensor, prompts: list[Prompt], iteration: int) -> Tensor:
        """Rewards of this process's pictures [groups, group size], on the CPU."""
        size = self.config.decode_batch_size
        parts = []
        for start in range(0, len(clean), size):
            images = self.studio.decode_all(clean[start : start + size])
            parts.append(self.studio.rewards(images, prompts[start : start + size], iteration))
        return torch.cat(parts).reshape(-1, self.config.group_size)

    def _compare(self, rewards: Tensor) -> Tensor:
        """Advantages of this process's pictures [B]."""
        everyone = self.studio.accelerator.gather(rewards.to(self.studio.device))
        spread = None if self.config.own_spread else everyone.std(correction=0).cpu()
        return group_advantages(rewards, spread).flatten().to(self.studio.device)

    def _figures(self, rewards: Tensor) -> dict[str, float]:
        """Of the rewards of all processes' pictures; those within groups only where they come as [groups, size]."""
        everyone = self.studio.accelerator.gather(rewards.to(self.studio.device)).cpu()
        figures = {"reward": float(everyone.mean()), "reward_deviation": float(everyone.std(correction=0))}
        if everyone.ndim == 2:
            figures["group_deviation"] = group_deviation(everyone)
        return figures

    def _update(
        self,
        situation: Situation,
        rows: dict[str, Tensor],
        chosen: Tensor,
        advantages: Tensor,
        prompts: list[Prompt],
        iteration: int,
    ) -> dict[str, float]:
        """One optimizer step on the chosen rows."""
        config, accelerator = self.config, self.studio.accelerator
        total = torch.zeros((), device=self.studio.device)
        parts = chosen.split(config.micro_batch_size)
        for number, part in enumerate(parts):
            of = rows["of"][part]
            network = self.studio.policy.network
            last = number == len(parts) - 1
            with nullcontext() if last else accelerator.no_sync(network), self.studio.autocast():
                mini = {name: value[part] for name, value in rows.items()}
                losses = self._algorithm(iteration).losses(situation, mini, advantages[of])
                if not torch.isfinite(losses).all():
                    wrong = int((~torch.isfinite(losses)).nonzero()[0])
                    raise LoraTrainingError(
                        f"iteration {iteration}: the loss of a picture of {prompts[int(of[wrong])].text!r} is "
                        f"{losses[wrong].item()}. The state saved last is untouched; lower learning_rate, or use "
                        "float32, and give the same command again"
                    )
                loss = losses.sum() / len(chosen)
                accelerator.backward(loss)
            total += loss.detach()
        learned = list(self.studio.policy.learned.values())
        average_gradients(accelerator, learned)
        norm = float(accelerator.clip_grad_norm_(learned, config.clip))
        if not math.isfinite(norm):
            raise LoraTrainingError(
                f"iteration {iteration}: the gradient is {norm}, on pictures of {prompts[0].text!r} and others. The "
                "state saved last is untouched; lower learning_rate, or use float32, and give the same command again"
            )
        rate = self._learning_rate(iteration)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {"loss": float(accelerator.reduce(total, "mean")), "gradient_norm": norm}

    def _learning_rate(self, iteration: int) -> float:
        """It rises at the beginning of a warm start and of what follows, and falls during the latter only."""
        config, rewarded = self.config, self._rewarded(iteration)
        warm = config.warm_start if rewarded < 0 else None
        phase = iteration if warm is not None else rewarded
        done = (phase + 1) * self._algorithm(iteration).updates
        rate = (warm.learning_rate if warm is not None else None) or config.learning_rate
        if config.halving is not None:
            rate *= 0.5 ** (max(0, rewarded) / config.halving)
        return rate * min(1.0, done / max(1, config.warmup))


def _moved(weights: dict[str, Tensor], towards: dict[str, Tensor], keep: float) -> dict[str, Tensor]:
    """Weights that keep a share of themselves and take the rest from others."""
    return {name: value.lerp(towards[name], 1 - keep) for name, value in weights.items()}
