"""Train the nano generator: a real, small Stable Diffusion 3 pipeline that paints the nano world, and errs at times.

It is made imperfect on purpose: reranking, guidance and RL need room to show what they gain. First it learns from right
captions, and then from many that are wrong in one thing (`slips`), as generators that learn from the web do: it knows
better than it paints.
"""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from diffusers import AutoencoderTiny, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from ..progress import counted
from ..states import read_state
from .autoencoder import SCALING_FACTOR, SHIFT_FACTOR
from .captions import slip
from .render import render
from .scenes import PROMPT_KINDS, PromptKind, all_prompts, place_in_cells, sample_prompt, sample_scene_for
from .text import teach_words
from .training import Schedule, mixed_precision, save_state

PROMPT_LENGTH: Final = 14
FLOW_SHIFT: Final = 3.0
EMPTY_TOKENS: Final = 256
"""How many of T5's tokens, here all zero, a Stable Diffusion 3 pipeline puts behind the prompt by default.

With `max_sequence_length=1` it puts one there, and the nano generator runs several times faster.
"""
KIND_SHARES: Final[dict[PromptKind, float]] = {
    "single_object": 0.08,
    "two_objects": 0.17,
    "counting": 0.22,
    "colours": 0.10,
    "position": 0.20,
    "colour_attribution": 0.23,
}
"""Of the captions it learns from: what is harder to paint comes more often."""


@dataclass(frozen=True)
class GeneratorRecipe:
    text_steps: int = 200
    """Steps at the start on the meaning of words; the text encoders stay as they are from then on."""
    steps: int = 10000
    batch_size: int = 320
    first_pictures: int = 2048
    new_pictures: int = 8
    """Pictures drawn and encoded per step; the rest of a batch comes from those of earlier steps."""
    kept_pictures: int = 60000
    learning_rate: float = 1e-3
    decay: float = 0.55
    prompt_dropout: float = 0.1
    """Share of empty prompts, for classifier-free guidance."""
    slips: float = 0.0
    """Share of captions that are wrong in one thing."""
    empty_tokens_every: int = 12
    """Every so many steps all of T5's zero tokens are present, so that the model works with few and with many."""
    ema: float = 0.999
    start_from: str | None = None
    """A trained generator's folder to go on from, in place of random weights and the autoencoder given."""
    seed: int = 0


def build_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer in which every word of the nano world's prompts is one token."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    alphabet = [chr(code) for code in range(33, 127)]
    ends = ["<|startoftext|>", "<|endoftext|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=2048,
        min_frequency=1,
        end_of_word_suffix="</w>",
        initial_alphabet=alphabet,
        special_tokens=[*ends, *(letter + "</w>" for letter in alphabet)],
        show_progress=False,
    )
    tokenizer.train_from_iterator((spec.text for kind in PROMPT_KINDS for spec in all_prompts(kind)), trainer)
    # CLIPTokenizer takes the vocabulary and the merges as plain values, and sets up CLIP's own pre-tokenisation.
    state = _bpe_state(tokenizer)
    return CLIPTokenizer(vocab=state[0], merges=state[1], model_max_length=PROMPT_LENGTH)


def _bpe_state(tokenizer: Tokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def build_pipeline(autoencoder: AutoencoderTiny) -> StableDiffusion3Pipeline:
    """An untrained pipeline around a trained autoencoder.

    Width is 64 times depth, one head per layer: what loaders that infer an SD3 architecture from its weights expect.
    """
    tokenizer = build_tokenizer()

    def text_encoder(width: int, depth: int, projection: int) -> CLIPTextModelWithProjection:
        return CLIPTextModelWithProjection(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=width,
                intermediate_size=4 * width,
                projection_dim=projection,
                num_hidden_layers=depth,
                num_attention_heads=max(1, width // 32),
                max_position_embeddings=PROMPT_LENGTH,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )

    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=3,
        attention_head_dim=64,
        num_attention_heads=3,
        joint_attention_dim=160,
        caption_projection_dim=192,
        pooled_projection_dim=96,
        pos_embed_max_size=16,
    )
    silent, silent_tokenizer = build_silent_t5()
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=FLOW_SHIFT),
        vae=autoencoder,
        text_encoder=text_encoder(128, 3, 64),
        tokenizer=tokenizer,
        text_encoder_2=text_encoder(32, 2, 32),
        tokenizer_2=tokenizer,
        text_encoder_3=silent,
        tokenizer_3=silent_tokenizer,
    )


def build_silent_t5() -> tuple[T5EncoderModel, T5Tokenizer]:
    """A T5 that says nothing: its output is zero, which is what the pipeline puts in place of a T5 it does not have.

    `StableDiffusion3Pipeline.from_pretrained` will not load a folder without one unless told so by the caller.
    """
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -1.0)]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0)
    shape = {"d_model": 160, "d_kv": 8, "d_ff": 8, "num_layers": 1, "num_heads": 1}
    encoder = T5EncoderModel(T5Config(vocab_size=len(tokenizer), **shape))
    torch.nn.init.zeros_(encoder.encoder.final_layer_norm.weight)
    return encoder, tokenizer


class Trainable(torch.nn.Module):
    """The parts of the pipeline that learn."""

    def __init__(self, pipeline: StableDiffusion3Pipeline) -> None:
        super().__init__()
        self.transformer = pipeline.transformer
        self.text_encoder = pipeline.text_encoder
        self.text_encoder_2 = pipeline.text_encoder_2

    def encode(self, tokens: Tensor, empty_tokens: int) -> tuple[Tensor, Tensor]:
        """The pipeline's prompt and pooled embeddings of int64 tokens [batch, 14], as the pipeline computes them."""
        outputs = [encoder(tokens, output_hidden_states=True) for encoder in (self.text_encoder, self.text_encoder_2)]
        sequence = torch.cat([output.hidden_states[-2] for output in outputs], -1)
        pooled = torch.cat([output.text_embeds for output in outputs], -1)
        return F.pad(sequence, (0, 0, 0, empty_tokens)), pooled

    def last(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The prompt embedding of each prompt's end token [batch, 160], and the pooled embedding [batch, 96]."""
        sequence, pooled = self.encode(tokens, empty_tokens=0)
        ends = (tokens == self.text_encoder.config.eos_token_id).int().argmax(1)
        return sequence[torch.arange(len(tokens)), ends], pooled

    def forward(self, noisy: Tensor, sigma: Tensor, tokens: Tensor, empty_tokens: int) -> Tensor:
        """The velocity (noise minus data) predicted at `sigma`."""
        with torch.no_grad():
            sequence, pooled = self.encode(tokens, empty_tokens)
        return self.transformer(noisy, sequence, pooled, 1000 * sigma, return_dict=False)[0]


class CaptionedPictures:
    """A growing store of encoded pictures with their captions' tokens, the oldest replaced once it is full.

    A share `slips` of the captions is wrong in one thing, and stays so.
    """

    def __init__(self, autoencoder: AutoencoderTiny, tokenizer: CLIPTokenizer, size: int, slips: float) -> None:
        self._encoder = autoencoder.encoder
        self._tokenizer = tokenizer
        self._latents = torch.empty(size, 16, 8, 8)
        self._tokens = torch.empty(size, PROMPT_LENGTH, dtype=torch.long)
        self._slips = slips
        self._drawn = 0

    def draw(self, rng: np.random.Generator, count: int) -> None:
        kinds = rng.choice(PROMPT_KINDS, count, p=[KIND_SHARES[kind] for kind in PROMPT_KINDS])
        specs = [sample_prompt(rng, kind, held_out=None) for kind in kinds]
        scenes = [sample_scene_for(rng, spec, placing=place_in_cells, held_out=None) for spec in specs]
        captions = [
            slip(rng, spec, scene.objects) if rng.random() < self._slips else spec
            for spec, scene in zip(specs, scenes, strict=True)
        ]
        pixels = torch.from_numpy(np.stack([render(scene) for scene in scenes]))
        images = (pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0).to(memory_format=torch.channels_last)
        places = torch.arange(self._drawn, self._drawn + count) % len(self._latents)
        with torch.inference_mode(), mixed_precision():
            self._latents[places] = (self._encoder(images).float() - SHIFT_FACTOR) * SCALING_FACTOR
        self._tokens[places] = tokenize(self._tokenizer, [caption.text for caption in captions])
        self._drawn += count

    def sample(self, rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor]:
        chosen = torch.from_numpy(rng.integers(0, min(self._drawn, len(self._latents)), count))
        return self._latents[chosen], self._tokens[chosen]


def tokenize(tokenizer: CLIPTokenizer, prompts: list[str]) -> Tensor:
    """Tokens of prompts, int64 [batch, 14], as the pipeline makes them."""
    return tokenizer(
        prompts, padding="max_length", max_length=PROMPT_LENGTH, truncation=True, return_tensors="pt"
    ).input_ids


def sample_sigmas(rng: np.random.Generator, count: int) -> Tensor:
    """Noise levels in (0, 1): half uniform, half logit-normal, all moved by the flow shift (SD3, arXiv 2403.03206)."""
    uniform = rng.uniform(0.0, 1.0, count)
    logit_normal = 1 / (1 + np.exp(-rng.normal(0.0, 1.0, count)))
    base = np.where(rng.random(count) < 0.5, uniform, logit_normal)
    return torch.from_numpy(FLOW_SHIFT * base / (1 + (FLOW_SHIFT - 1) * base)).float()


def train_generator(
    out: Path, autoencoder: Path, recipe: GeneratorRecipe = GeneratorRecipe()
) -> StableDiffusion3Pipeline:
    """Train by flow matching, and save the averaged weights.

    A run that was stopped goes on from the state it left in `out/training.pt`.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    if recipe.start_from:
        pipeline = StableDiffusion3Pipeline.from_pretrained(recipe.start_from).to(torch.float32)
    else:
        pipeline = build_pipeline(AutoencoderTiny.from_pretrained(autoencoder))
    model = Trainable(pipeline)
    if not (recipe.start_from or (out / "training.pt").exists()):
        words = [*model.text_encoder.parameters(), *model.text_encoder_2.parameters()]
        teach_words(
            lambda texts: model.last(tokenize(pipeline.tokenizer, list(texts))),
            words,
            np.random.default_rng((recipe.seed, 1)),
            recipe.text_steps,
        )
    average = copy.deepcopy(model)
    learned = model.transformer.parameters()
    optimizer = torch.optim.AdamW(learned, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    kept: dict[str, Any] = {"model": model, "average": average, "optimizer": optimizer}
    state = read_state(out / "training.pt")
    if state is not None:
        for name, part in kept.items():
            part.load_state_dict(state[name])
    start = state["step"] if state is not None else 0
    torch.manual_seed(recipe.seed + start)  # a run that goes on must not meet the same noise again
    pictures = CaptionedPictures(pipeline.vae, pipeline.tokenizer, recipe.kept_pictures, recipe.slips)
    rng = np.random.default_rng((recipe.seed, start))
    empty = tokenize(pipeline.tokenizer, [""])
    schedule = Schedule(recipe.steps, warmup=300, decay=recipe.decay)
    pictures.draw(rng, recipe.first_pictures)
    with counted("generator", recipe.steps, start, True) as progress:
        for step in range(start, recipe.steps):
            schedule.apply(optimizer, step)
            pictures.draw(rng, recipe.new_pictures)
            with_empty = step % recipe.empty_tokens_every == 0
            latents, tokens = pictures.sample(rng, recipe.batch_size // 8 if with_empty else recipe.batch_size)
            dropped = torch.from_numpy(rng.random(len(tokens)) < recipe.prompt_dropout)
            tokens = torch.where(dropped[:, None], empty, tokens)
            sigma, noise = sample_sigmas(rng, len(latents)), torch.randn_like(latents)
            at = sigma[:, None, None, None]
            # With so few tokens, attention in plain matrix products has the faster backward pass.
            with mixed_precision(), sdpa_kernel(SDPBackend.MATH):
                velocity = model((1 - at) * latents + at * noise, sigma, tokens, EMPTY_TOKENS if with_empty else 1)
            loss = F.mse_loss(velocity.float(), noise - latents)
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.transformer.parameters(), 1.0)
            optimizer.step()
            _follow(average, model, min(recipe.ema, (1 + step) / (10 + step)))
            progress.advance(loss=loss.detach(), grad=norm)
            if step % 500 == 499 or step == recipe.steps - 1:
                _adopt(pipeline, average)
                pipeline.save_pretrained(out)
                _adopt(pipeline, model)
                saved = {name: part.state_dict() for name, part in kept.items()}
                save_state(out / "training.pt", {**saved, "step": step + 1, "recipe": asdict(recipe)})
    _adopt(pipeline, average)
    return pipeline


@torch.no_grad()
def _follow(average: Trainable, model: Trainable, decay: float) -> None:
    for mean, value in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(value, 1 - decay)


def _adopt(pipeline: StableDiffusion3Pipeline, parts: Trainable) -> None:
    pipeline.register_modules(
        transformer=parts.transformer, text_encoder=parts.text_encoder, text_encoder_2=parts.text_encoder_2
    )
