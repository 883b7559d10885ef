"""How much room training has on the nano generator: correct pictures among several, and whether the judge finds them.

    python -m benchmarks.headroom                            # without guidance, as training paints
    python -m benchmarks.headroom --guidance 3
    python -m benchmarks.headroom --lora runs/nano-nft       # after training: the same prompts from the same noise
    python -m benchmarks.headroom --world                    # what a painter without fault would paint

For each kind of prompt: the share of pictures that the oracle finds correct, and of those that are exact, which is
correct with no object that nobody asked for; the share of prompts with a correct one among 8 and among 32, which is
what training could bring out if its judge were the oracle; the share of correct ones among those that the nano judge
likes best of 8 and of 32, which is what it can bring out with that judge; how often the judge puts a correct picture
of a prompt above a wrong one; how many objects the oracle sees in a picture; how far apart the exact pictures of a
prompt are, in pixels of range [0, 1] and in features (cosine distance of what the judge's vision tower makes of them);
and how far apart all of them are in features, which is what a run's monitors measure. All pictures of a prompt lie
closer together as fewer of them are wrong; that the right ones do would be collapse. `--world` says how far apart the
pictures of a painter are who makes no mistake and shows all of the world's variety.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from diffusers_ext.hushing import hushed
from diffusers_ext.nano import DEFAULT_PIPELINE
from diffusers_ext.nano.oracle import OracleVerdict, judge
from diffusers_ext.nano.render import render
from diffusers_ext.nano.scenes import (
    PROMPT_KINDS,
    PromptSpec,
    parse_prompt,
    place_in_cells,
    sample_prompt,
    sample_scene_for,
)
from diffusers_ext.nano.training import mixed_precision
from diffusers_ext.precision import in_bfloat16
from diffusers_ext.rewards.images import as_images

with hushed():
    from diffusers import DiffusionPipeline

    from diffusers_ext.training.diffusion import denoise, guided, noise_for
    from diffusers_ext.training.evaluating import features_of
    from diffusers_ext.training.generators import Generator, canvas_for
    from diffusers_ext.training.monitors import feature_diversity, pixel_diversity
    from diffusers_ext.training.policy import Policy
    from diffusers_ext.training.rewards import JudgeConfig, load_judge
    from diffusers_ext.training.saving import DIFFUSERS_FILE

COUNT = 32
COLUMNS = (
    "kind", "correct", "exact", "any of 8", "any of 32", "judge's best of 8", "of 32", "judge ranks right", "objects",
    "exact ones apart", "by features", "all by features",
)  # fmt: skip


@dataclass(frozen=True)
class Painter:
    """The nano generator as training runs it, with or without guidance."""

    policy: Policy
    guidance: float
    steps: int

    @classmethod
    def load(cls, guidance: float, steps: int, lora: Path | None) -> Painter:
        """The shipped generator, with what a LoRA has learned, if one is named."""
        pipeline = DiffusionPipeline.from_pretrained(DEFAULT_PIPELINE, use_safetensors=True).to(torch.float32)
        if lora is not None:
            pipeline.load_lora_weights(lora)
        generator = Generator(pipeline, canvas_for(pipeline, None, None, 1), {"max_sequence_length": 1})
        return cls(Policy(generator, in_bfloat16(torch.device("cpu"))), guidance, steps)

    @torch.no_grad()
    def paint(self, prompt: str) -> torch.Tensor:
        """COUNT pictures [COUNT, 3, H, W] from the same noise for every prompt."""
        generator = self.policy.generator
        noise = noise_for(generator.shape, [(9, number) for number in range(COUNT)])
        denoiser = self.policy.denoiser(generator.encode([prompt] * COUNT))
        if self.guidance != 1:
            denoiser = guided(denoiser, self.policy.denoiser(generator.encode([""] * COUNT)), self.guidance)
        with mixed_precision():
            return generator.decode(denoise(denoiser, noise, generator.schedule(self.steps))).float()


@dataclass(frozen=True)
class World:
    """A painter without fault: the world that the nano generator learned from, drawn by its rules."""

    def paint(self, prompt: str) -> torch.Tensor:
        """COUNT exact pictures [COUNT, 3, H, W] in [0, 1], from the same random numbers for every prompt."""
        rng, spec = np.random.default_rng(9), parse_prompt(prompt)
        scenes = [sample_scene_for(rng, spec, extra=0.0, placing=place_in_cells, held_out=None) for _ in range(COUNT)]
        return torch.from_numpy(np.stack([render(scene) for scene in scenes])).permute(0, 3, 1, 2) / 255


def prompts() -> list[PromptSpec]:
    """Eight of each kind, then of held-out combinations: five of one object and eight of two."""
    rng = np.random.default_rng(77)
    found = [sample_prompt(rng, kind) for kind in PROMPT_KINDS for _ in range(8)]
    found += [sample_prompt(rng, "colours", held_out=True) for _ in range(5)]
    return found + [sample_prompt(rng, "colour_attribution", held_out=True) for _ in range(8)]


def kind_of(spec: PromptSpec) -> str:
    return f"{spec.kind}, held out" if spec.is_held_out else spec.kind


@dataclass(frozen=True)
class Apart:
    """How far apart pictures of a prompt are: exact ones in pixels and in features, NaN if there are not two; and all
    of them in features.
    """

    pixels: float
    features: float
    of_all: float


def apart(images: torch.Tensor, features: torch.Tensor, verdicts: list[OracleVerdict]) -> Apart:
    """Of a prompt's pictures [COUNT, 3, H, W] in [0, 1], with their features [COUNT, width]."""
    exact = torch.tensor([verdict.grade.exact for verdict in verdicts])
    of_all = feature_diversity(features[None])
    if exact.sum() < 2:
        return Apart(np.nan, np.nan, of_all)
    return Apart(pixel_diversity(images[exact][None]), feature_diversity(features[exact][None]), of_all)


def mean_of(values: list[float]) -> str:
    """Of those that are numbers."""
    known = [value for value in values if not np.isnan(value)]
    return f"{np.mean(known):.3f}" if known else "-"


def row(kind: str, verdicts: list[list[OracleVerdict]], rewards: np.ndarray, distances: list[Apart]) -> str:
    """A line of the table.

    Args:
        kind: of the prompts.
        verdicts: the oracle's on COUNT pictures of each prompt.
        rewards: of the same pictures, [prompts, COUNT].
        distances: between those of each prompt.
    """
    correct = np.array([[verdict.correct for verdict in items] for items in verdicts])
    exact = np.mean([[verdict.grade.exact for verdict in items] for items in verdicts])
    objects = np.mean([[len(verdict.objects) for verdict in items] for items in verdicts])

    def best(of: int) -> tuple[float, float]:
        """Prompts with a correct one among so many, and correct ones among the judge's best."""
        truth, liked = correct.reshape(-1, of), rewards.reshape(-1, of).argmax(1)
        return truth.any(1).mean(), truth[np.arange(len(truth)), liked].mean()

    ranked = [
        (liked[right][:, None] > liked[~right]).mean()
        for right, liked in zip(correct, rewards, strict=True)
        if 0 < right.mean() < 1
    ]
    (any_8, best_8), (any_32, best_32) = best(8), best(COUNT)
    ranks = np.mean(ranked) if ranked else np.nan
    cells = (correct.mean(), exact, any_8, any_32, best_8, best_32, ranks, objects)
    shown = [*(f"{value:.2f}" for value in cells)]
    shown += [mean_of([getattr(item, name) for item in distances]) for name in ("pixels", "features", "of_all")]
    return f"| {kind} | " + " | ".join(shown) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--kinds", nargs="+", help="only these, as the table names them")
    parser.add_argument("--lora", type=Path, help="folder of a LoRA that train-lora wrote")
    parser.add_argument("--world", action="store_true", help="in place of the generator, a painter without fault")
    options = parser.parse_args()
    if options.lora is not None and not (options.lora / DIFFUSERS_FILE).is_file():
        parser.error(f"--lora {options.lora}: holds no {DIFFUSERS_FILE}, which train-lora writes")

    found: dict[str, list[tuple[list[OracleVerdict], list[float], Apart]]] = {}
    with hushed():
        painter = World() if options.world else Painter.load(options.guidance, options.steps, options.lora)
        by = load_judge(JudgeConfig(), torch.device("cpu"), "alignment")
        for spec in prompts():
            if options.kinds and kind_of(spec) not in options.kinds:
                continue
            shown = painter.paint(spec.text).clamp(0, 1)
            verdicts = [judge(image, spec) for image in as_images(shown)]
            rewards = by.reward(shown, [spec.text] * COUNT).tolist()
            distances = apart(shown, features_of(by.model.backbone, shown), verdicts)
            found.setdefault(kind_of(spec), []).append((verdicts, rewards, distances))
    print("| " + " | ".join(COLUMNS) + " |")
    print("|---" * len(COLUMNS) + "|")
    for kind, items in found.items():
        verdicts_of, rewards_of, distances_of = zip(*items, strict=True)
        print(row(kind, list(verdicts_of), np.array(rewards_of), list(distances_of)))


if __name__ == "__main__":
    main()
