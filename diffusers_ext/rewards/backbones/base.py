"""What differs from one vision-language model to the next, behind one small face.

A question reaches the language model as *pieces*: the text before the first picture, then every picture with the text
after it. A backbone says how a question is laid out, how pictures become embeddings, and where in the model's
positions they stand; all the rest (batches, padding, sharing, gradients) is the same for every model.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from .. import prompts
from ..errors import ModelError
from ..instructions import Instruction
from ..tokens import TokenGroups
from ..transfers import sent


@dataclass(frozen=True)
class Pixels:
    """Pictures as a vision tower takes them.

    Attributes:
        values: float, what the model calls `pixel_values`; its rows belong to the pictures one after the other.
        rows: how many rows each picture has.
        grid: int64 [pictures, 3], steps in time, rows and columns of patches, for models that want it.
        seconds: length of a step in time.
    """

    values: Tensor
    rows: tuple[int, ...]
    grid: Tensor | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Sight:
    """What the vision tower made of one picture.

    Attributes:
        embeddings: float [tokens, width], what stands in the place of the picture's tokens.
        shape: steps in time, rows and columns of those tokens, for models with positions in all three.
        pace: how many positions a step in time takes.
        deep: float [tokens, width] each, what the first layers of the language model add there (DeepStack).
    """

    embeddings: Tensor
    shape: tuple[int, int, int] | None = None
    pace: float = 1.0
    deep: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.embeddings)


class Backbone(ABC):
    """One family of vision-language models; see `docs/backbones.md` for how to add another."""

    compares = True
    """Whether it can be asked about two pictures."""
    explains = True
    """Whether it can be asked for a chain of thought."""

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin) -> None:
        self.model: Any = model
        self.processor: Any = processor
        self.language: Any = model.base_model.language_model
        # transformers 5.24 renamed what comes before: only the name of the argument differs.
        taken = inspect.signature(self.language.forward).parameters
        self.scalar_head: torch.nn.Module | None = None
        self._cache_name = "cache" if "cache" in taken else "past_key_values"
        self.answers = self.answer_tokens()
        self.pieces = lru_cache(maxsize=256)(self._pieces)
        """From a question's text the tokens before the first picture, and those after each: a prompt's candidates all
        have the same."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.processor.tokenizer

    def answer_tokens(self) -> TokenGroups:
        """Which tokens are read as yes and as no."""
        return TokenGroups.of(self.tokenizer)

    # The question

    def messages(
        self, by: Instruction, prompt: str, *, pairwise: bool, explain: bool, **shown: Any
    ) -> list[prompts.Message]:
        """The chat that asks for one judgement; arguments and places as in :func:`prompts.question`."""
        return prompts.question(by, prompt, pairwise=pairwise, explain=explain, **shown)

    def clip(self, frames: int, rate: float) -> tuple[list[prompts.Part], list[slice]]:
        """How a video stands in the chat, in the way the model was trained on.

        Args:
            frames: how many frames it has.
            rate: frames per second.

        Returns:
            Its parts, and for each picture's place among them the frames it shows.
        """
        raise ModelError(f"{type(self).__name__} models take no videos")

    def question(self, by: Instruction, prompt: str, *, pairwise: bool, explain: bool, **shown: Any) -> str:
        """The text of one judgement up to the model's answer, by its own chat template."""
        messages = self.messages(by, prompt, pairwise=pairwise, explain=explain, **shown)
        return self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)

    def frame(self, text: str) -> str:
        """Put around each picture's place what the processor would put there."""
        return text

    def _pieces(self, text: str) -> tuple[tuple[int, ...], ...]:
        tokens: list[int] = self.tokenizer(self.frame(text)).input_ids
        found: list[list[int]] = [[]]
        for token in tokens:
            if token == self.model.config.image_token_id:
                found.append([])
            else:
                found[-1].append(token)
        return tuple(map(tuple, found))

    # The pictures

    def pixels(self, images: Sequence[Image.Image]) -> Pixels:
        """What the model's own processor makes of pictures: the same numbers, but only Pillow's part on the CPU.

        Scaling and cutting are most of a processor's work, and a GPU does them in no time.
        """
        device = self.model.device
        pinned = device.type == "cuda"  # so that copying them there waits for nothing
        resample = Image.Resampling(int(self.processor.image_processor.resample))
        alike: dict[tuple[int, int], list[int]] = {}
        for place, image in enumerate(images):
            alike.setdefault(image.size, []).append(place)
        places: list[int] = []
        parts: list[Pixels] = []
        with ThreadPoolExecutor() as threads:
            for (width, height), members in alike.items():
                shown = []
                for high, wide in self.sizes(height, width):
                    drawn = torch.empty(len(members), high, wide, 3, dtype=torch.uint8, pin_memory=pinned)
                    work = partial(_draw, resample=resample)
                    list(threads.map(work, drawn.numpy(), (images[place] for place in members)))
                    shown.append(drawn.to(device, non_blocking=True).permute(0, 3, 1, 2).float() / 255)
                parts.append(self.cut(shown))
                places += members
        return _in_order(parts, places)

    def pixels_of(self, images: Tensor) -> Pixels:
        """The same for pictures as a float tensor [B, 3, H, W] in [0, 1], differentiable."""
        resample = self.processor.image_processor.resample
        return self.cut([resized(images, high, wide, resample) for high, wide in self.sizes(*images.shape[-2:])])

    @abstractmethod
    def sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """The heights and widths, in pixels, in which a picture of one is shown."""

    @abstractmethod
    def cut(self, shown: Sequence[Tensor]) -> Pixels:
        """Pictures in each of these sizes, float [B, 3, H, W] in [0, 1], as the vision tower takes them."""

    def moving(self, frames: Tensor, interval: float) -> Pixels:
        """The same for parts of videos, float [B, F, 3, H, W] in [0, 1], the F frames of each in one place."""
        raise ModelError(f"{type(self).__name__} models take no videos")

    def look(self, pixels: Pixels) -> list[Sight]:
        """Send pictures through the vision tower."""
        values = pixels.values.to(self.model.device, self.model.dtype)
        options = {} if pixels.grid is None else {"image_grid_thw": sent(pixels.grid, values.device)}
        return self.sights(self.model.base_model.get_image_features(values, return_dict=True, **options), pixels)

    @abstractmethod
    def sights(self, features: Any, pixels: Pixels) -> list[Sight]:
        """Split the vision tower's output by picture."""

    # The language model

    def positions(self, sight: Sight | None, text: int, start: int) -> tuple[Tensor, int]:
        """Positions of a picture (if there is one) and `text` tokens after it.

        Returns:
            int64 [axes, tokens], and the position that comes next.
        """
        end = start + (len(sight) if sight is not None else 0) + text
        return torch.arange(start, end)[None], end

    def read(
        self,
        embeddings: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        cache: Cache | None,
        shown: Sequence[Sequence[tuple[int, Sight]]],
    ) -> Tensor:
        """Run the language model.

        Args:
            embeddings: float [batch, length, width].
            positions: int64 [axes, batch, length].
            mask: int64 [batch, cached + length], 0 for padding; None where there is none.
            cache: keys and values of what comes before, which the run adds to; None to keep none.
            shown: for every row its pictures, each with its first place in the row.

        Returns:
            [batch, length, width], the last hidden states.
        """
        kept = {} if cache is None else {self._cache_name: cache}
        return self.language(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions[0] if len(positions) == 1 else positions,
            use_cache=cache is not None,
            **kept,
            **self.beside(embeddings, shown),
        ).last_hidden_state

    def beside(self, embeddings: Tensor, shown: Sequence[Sequence[tuple[int, Sight]]]) -> dict[str, Any]:
        """What else the language model is to be given."""
        return {}


def _draw(place: np.ndarray, image: Image.Image, resample: Image.Resampling) -> None:
    """Put a picture in its place, uint8 [H, W, 3], in the size of that."""
    height, width, _ = place.shape
    place[:] = image if image.size == (width, height) else image.resize((width, height), resample)


def _in_order(parts: Sequence[Pixels], places: Sequence[int]) -> Pixels:
    """Several lots of pictures as one; `places` are those of the first lot's pictures, then of the next one's."""
    if len(parts) == 1:
        return parts[0]
    order = np.argsort(places).tolist()
    values = [item for part in parts for item in part.values.split(part.rows)]
    rows = [count for part in parts for count in part.rows]
    grids = [part.grid for part in parts if part.grid is not None]
    return Pixels(
        torch.cat([values[index] for index in order]),
        tuple(rows[index] for index in order),
        torch.cat(grids)[order] if grids else None,
    )


def resized(images: Tensor, height: int, width: int, resample: int) -> Tensor:
    """Resize a batch [B, 3, H, W] as Pillow would, but differentiably.

    Raises:
        ModelError: the processor resamples in a way that torch has no differentiable match for.
    """
    if images.shape[-2:] == (height, width):
        return images
    mode = {2: "bilinear", 3: "bicubic"}.get(int(resample))
    if mode is None:
        name = Image.Resampling(int(resample)).name.lower()
        raise ModelError(
            f"this model's processor resamples by {name}, which cannot be differentiated here; "
            "set `resample` to 3 (bicubic) in its preprocessor_config.json"
        )
    return F.interpolate(images, (height, width), mode=mode, antialias=True).clamp(0.0, 1.0)


def normalized(images: Tensor, processor: Any) -> Tensor:
    """Scale and shift a batch [B, 3, H, W] in [0, 1] by an image processor's settings."""
    images = images * (255 * processor.rescale_factor if processor.do_rescale else 255)
    if not processor.do_normalize:
        return images
    scale = torch.tensor([processor.image_mean, processor.image_std], dtype=images.dtype)
    mean, std = sent(scale, images.device)[:, :, None, None]
    return (images - mean) / std
