"""The judge: a vision-language model asked a yes/no question, whose reward is the probability of yes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from ..hushing import hushed
from ..sources import check_source, shipped
from . import prompts
from .arguments import check_batch_size, check_count, example_images, judging, one_each, prompts_for
from .backbones import backbone_of, backbone_type
from .combining import Combiner
from .config import RewardConfig
from .differentiable import candidate_log_odds
from .engine import Engine, OnText, drawn, likeliest
from .errors import ModelError, PromptTextError
from .images import as_images, check_batch
from .instructions import DEFAULT_INSTRUCTION, DEFAULT_VIDEO_INSTRUCTION, Instruction, get_instruction
from .judgement import Judgement
from .processors import load_processor
from .quantization import Quantization, loading_options, settle
from .questions import Picture, Question
from .videos import RATE, as_clips, check_clips, spread

if TYPE_CHECKING:
    from PIL import Image

    from .backbones.base import Pixels
    from .images import ImageInput
    from .videos import VideoInput

SCALAR_HEAD: Final = "reward_head.safetensors"
"""What lies beside the weights of a Bradley-Terry reward model."""
ADAPTER: Final = "adapter_config.json"
"""What a folder holds that has an adapter alone, and not the model it belongs to."""
_ATTENTIONS: Final = ("sdpa", "eager", "flash_attention_2")


@dataclass(frozen=True)
class _Asked:
    """A question as text and as the model reads it."""

    text: str
    question: Question
    on_text: Callable[[str], None] | None = None


@dataclass(frozen=True)
class _Shown:
    """A picture or a video as it stands in a question: its places and the words between them, and what they show."""

    parts: tuple[prompts.Part, ...]
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class _Way:
    """What must be equal for the questions of two callers to share batches."""

    explain: bool
    batch_size: int | None


@dataclass(frozen=True)
class _Options:
    """How questions are to be answered; see :meth:`RewardModel.score`."""

    explain: bool
    batch_size: int | None
    progress: bool
    cancel: Callable[[], bool] | None
    on_text: OnText | None = None


@dataclass(frozen=True)
class _Answer:
    log_odds: float
    explanation: str | None = None


class RewardModel:
    """A generative reward model (RewardDance, arXiv 2509.08826).

    The reward of candidate x1 against reference x2 for prompt y under instruction i is P(yes | x1, x2, y, i), read at
    the position of the verdict as the sigmoid of log P(yes) - log P(no).

    InternVL, Qwen2.5-VL, Qwen3-VL and Qwen3-VL-Reranker can serve (:mod:`~diffusers_ext.rewards.backbones`). Threads
    may share a judge: what they ask at the same time is answered in shared batches.

    Example:
        >>> judge = RewardModel.default()
        >>> judgement = judge.compare("a.png", "b.png", "a photo of a red star")[0]
        >>> judgement.reward, judgement.verdict
    """

    def __init__(
        self, model: PreTrainedModel, processor: ProcessorMixin, name: str, config: RewardConfig | None = None
    ) -> None:
        """Make a judge of a loaded model; see :meth:`from_pretrained` for one on disk.

        Raises:
            ModelError: no backbone serves this kind of model, or its tokenizer has no usable yes or no.
        """
        self.model = model.eval()
        self.processor: Any = processor
        self.name = name
        self.config = config or RewardConfig()
        self.backbone = backbone_of(model, processor, name)
        self._engine = Engine(self.backbone)
        self._combiner = Combiner[_Asked, _Answer](self._answers)

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path,
        quantization: Quantization | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        quantize_vision: bool = False,
        attention: str | None = None,
    ) -> RewardModel:
        """Load a judge.

        Args:
            path_or_id: a folder written by `save_pretrained`, the name of a judge that comes with the package
                (``reward-5m``), or the id of a model on the hub (``owner/name``), which is fetched. Only safetensors
                weights are read.
            quantization: the name of a scheme in :data:`~diffusers_ext.rewards.quantization.SCHEMES`, or None to take
                the weights as they are; if they are stored quantized, they stay so.
            device: where to run; by default the GPU if there is one. ``"auto"`` spreads the layers over all GPUs (and
                the CPU, if they do not suffice).
            dtype: by default float32 on a CPU, bfloat16 elsewhere; a checkpoint that torchao quantized keeps its own.
            quantize_vision: quantize the vision tower and the projector too, not the language model alone.
            attention: ``"sdpa"``, ``"eager"`` or ``"flash_attention_2"``; by default the first that the model supports.

        Raises:
            ModelError: there is no such model, no backbone serves its kind, its weights are not safetensors, or the
                quantization or the attention asked for is not known or cannot run here.
        """
        path_or_id = shipped(path_or_id)
        folder = Path(path_or_id)
        if (folder / ADAPTER).is_file() and not (folder / "config.json").is_file():
            from .adapters import with_adapter

            return with_adapter(folder, cls, quantization, device, dtype, quantize_vision, attention)
        source = str(path_or_id)
        _check_source(source, folder)
        place = find_device(device)
        precision = dtype or (torch.float32 if place.type == "cpu" else torch.bfloat16)
        options: dict[str, Any] = {"use_safetensors": True}
        if attention is not None:
            options["attn_implementation"] = _attention(attention, place, precision)
        try:
            architecture = AutoConfig.from_pretrained(source)
            backbone_type(architecture.model_type, source)
            options |= loading_options(source, architecture, quantization, quantize_vision, place, precision)
            if device == "auto":
                options["device_map"] = "auto"
            model, loaded = AutoModelForImageTextToText.from_pretrained(source, output_loading_info=True, **options)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
            raise ModelError(
                f"{source}: could not be loaded as a vision-language model ({_first_line(error)})"
            ) from error
        if missing := sorted(loaded["missing_keys"]):
            raise ModelError(f"{source}: {len(missing)} of its weights are missing, the first of them {missing[0]!r}")
        if "device_map" not in options:
            model = model.to(place)
        settle(model, precision)
        model.requires_grad_(False)  # a judge is not trained; gradients are for the pixels
        config = RewardConfig.load(folder) if folder.is_dir() else None
        judge = cls(model, load_processor(source), folder.name or source, config)
        if (folder / SCALAR_HEAD).is_file():
            from .bradley_terry import BradleyTerryModel

            return BradleyTerryModel.with_head_of(folder, judge)
        return judge

    @classmethod
    def default(cls, device: str | torch.device | None = None) -> RewardModel:
        """The nano reward model that comes with the package. It knows the nano world only."""
        from ..nano import DEFAULT_REWARD_MODEL

        with hushed():
            return cls.from_pretrained(DEFAULT_REWARD_MODEL, device=device)

    @classmethod
    def default_for_videos(cls, device: str | torch.device | None = None) -> RewardModel:
        """The nano reward model of videos that comes with the package. It knows the nano moving world only."""
        from ..nano import DEFAULT_VIDEO_REWARD_MODEL

        with hushed():
            return cls.from_pretrained(DEFAULT_VIDEO_REWARD_MODEL, device=device)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.processor.tokenizer

    @property
    def device(self) -> torch.device:
        return self.model.device

    def score(
        self,
        images: ImageInput | Sequence[ImageInput],
        prompt: str | Sequence[str],
        instruction: str | Instruction = DEFAULT_INSTRUCTION,
        explain: bool = False,
        batch_size: int | None = None,
        progress: bool = False,
        cancel: Callable[[], bool] | None = None,
        on_text: OnText | None = None,
    ) -> list[Judgement]:
        """Judge each picture on its own (the light, pointwise variant): is it good?

        Args:
            images: one or several: PIL images, paths, or float tensors [3, H, W] / [B, 3, H, W] in [0, 1].
            prompt: what they were to show; one for all, or one each.
            instruction: what to judge by, a preset's name or a record.
            explain: have the model write a chain of thought before its verdict.
            batch_size: questions per forward pass.
            progress: show progress on stderr.
            cancel: asked between batches; once it returns true, :class:`Cancelled` is raised.
            on_text: with `explain`, told of each thought while it is being written: the index of its picture, and all
                of it so far. Maybe in another thread, which answers for several callers, so it must be quick and not
                raise.

        Returns:
            One judgement per picture, in order.

        Raises:
            ImageError: a picture that cannot be judged.
            PromptTextError: an empty prompt, or not as many prompts as pictures.
            InstructionError: no such instruction.
        """
        options = _Options(explain, batch_size, progress, cancel, on_text)
        return self._alone(_still(images), [None], prompt, get_instruction(instruction), options)

    def compare(
        self,
        candidates: ImageInput | Sequence[ImageInput],
        reference: ImageInput | Sequence[ImageInput],
        prompt: str | Sequence[str],
        instruction: str | Instruction = DEFAULT_INSTRUCTION,
        debias: bool = True,
        explain: bool = False,
        batch_size: int | None = None,
        progress: bool = False,
        cancel: Callable[[], bool] | None = None,
        on_text: OnText | None = None,
    ) -> list[Judgement]:
        """Judge each candidate against a reference: is it better?

        Args:
            candidates: one or several, as in :meth:`score`.
            reference: one for all, or one each.
            prompt: what they were to show; one for all, or one each.
            instruction: what to judge by, a preset's name or a record.
            debias: ask both orders and average the log-odds, so that the rewards of (a, b) and (b, a) add up to one.
            explain: have the model write a chain of thought before its verdict.
            batch_size: questions per forward pass.
            progress: show progress on stderr.
            cancel: asked between batches; once it returns true, :class:`Cancelled` is raised.
            on_text: as in :meth:`score`; the swapped questions of `debias` are counted on after the others.

        Returns:
            One judgement per candidate, in order; `reference` is the index of the reference among those given.

        Raises:
            ImageError: a picture that cannot be judged, or not as many references as candidates.
            PromptTextError: an empty prompt, or not as many prompts as candidates.
            InstructionError: no such instruction.
        """
        options = _Options(explain, batch_size, progress, cancel, on_text)
        by = get_instruction(instruction)
        return self._pairs(_still(candidates), _still(reference), [None], prompt, by, debias, options)

    def score_video(
        self,
        videos: VideoInput | Sequence[VideoInput],
        prompt: str | Sequence[str],
        instruction: str | Instruction = DEFAULT_VIDEO_INSTRUCTION,
        first_frame: ImageInput | Sequence[ImageInput] | None = None,
        frames: int | None = None,
        rate: float | None = None,
        explain: bool = False,
        batch_size: int | None = None,
        progress: bool = False,
        cancel: Callable[[], bool] | None = None,
        on_text: OnText | None = None,
    ) -> list[Judgement]:
        """Judge each video on its own.

        Every model is shown videos in the way it was trained on: InternVL as numbered pictures, Qwen2.5-VL and
        Qwen3-VL as pairs of frames in time.

        Args:
            videos: one or several: paths, :class:`~diffusers_ext.rewards.videos.Clip`, lists of frames, or float
                tensors [F, 3, H, W] / [B, F, 3, H, W] in [0, 1].
            prompt: what they were to show; one for all, or one each.
            instruction: what to judge by; the presets for videos begin with ``video-``, those for image-to-video are
                ``first-frame`` and ``i2v-overall``.
            first_frame: the picture they were to begin with (image-to-video); one for all, or one each.
            frames: how many frames are shown, evenly spread (all, of a video with fewer). None for as many as the
                model was trained on, or 8.
            rate: or how many per second of the video, at most `frames`.
            explain, batch_size, progress, cancel, on_text: as in :meth:`score`.

        Raises:
            VideoError: a video that cannot be judged.
            ImageError: a first frame that cannot be used, or not as many as videos.
            ModelError: the model takes no videos.
        """
        options = _Options(explain, batch_size, progress, cancel, on_text)
        shown = self._moving(videos, frames, rate)
        return self._alone(shown, _firsts(first_frame), prompt, get_instruction(instruction), options)

    def compare_videos(
        self,
        candidates: VideoInput | Sequence[VideoInput],
        reference: VideoInput | Sequence[VideoInput],
        prompt: str | Sequence[str],
        instruction: str | Instruction = DEFAULT_VIDEO_INSTRUCTION,
        first_frame: ImageInput | Sequence[ImageInput] | None = None,
        frames: int | None = None,
        rate: float | None = None,
        debias: bool = True,
        explain: bool = False,
        batch_size: int | None = None,
        progress: bool = False,
        cancel: Callable[[], bool] | None = None,
        on_text: OnText | None = None,
    ) -> list[Judgement]:
        """Judge each video against a reference; arguments as in :meth:`score_video` and :meth:`compare`."""
        options = _Options(explain, batch_size, progress, cancel, on_text)
        judged, against = (self._moving(videos, frames, rate) for videos in (candidates, reference))
        by = get_instruction(instruction)
        return self._pairs(judged, against, _firsts(first_frame), prompt, by, debias, options)

    def log_odds(
        self,
        images: Tensor,
        prompt: str | Sequence[str],
        reference: ImageInput | Sequence[ImageInput] | None = None,
        instruction: str | Instruction = DEFAULT_INSTRUCTION,
        debias: bool = True,
        checkpointing: bool = True,
    ) -> Tensor:
        """The log-odds of :meth:`score` (or, with a reference, of :meth:`compare`), differentiable in the pixels.

        On the same pixels it gives what those give, up to the rounding to 8 bits that they do and this does not
        (`docs/backbones.md` has the measured gaps).

        Args:
            images: the candidates, float [B, 3, H, W] or [3, H, W] in [0, 1] (values a little outside are taken as
                they are), on any device. Gradients flow to them.
            prompt: what they were to show; one for all, or one each.
            reference: as in :meth:`compare`; of a tensor that requires a gradient, it gets one too.
            instruction: what to judge by.
            debias: ask both orders and take half the difference; twice the work. For comparisons only.
            checkpointing: compute activations anew in the backward pass in place of keeping them: about a third more
                time, and a fraction of the memory.

        Returns:
            float32 [B] (float64 for a model in float64), on the model's device.

        Raises:
            ImageError: tensors of the wrong shape, type or range, or not as many references as candidates.
            PromptTextError: an empty prompt, or not as many prompts as pictures.
        """
        by, candidates = get_instruction(instruction), check_batch(images)
        asked = prompts_for(prompt, len(candidates))
        against: list[Pixels] | None = None
        if reference is not None:
            others = check_batch(reference) if isinstance(reference, Tensor) else as_images(reference)
            check_count(len(others), len(candidates))
            looked = self.backbone.pixels_of(others) if isinstance(others, Tensor) else self.backbone.pixels(others)
            against = [looked]
        texts = [self._text(by, text, against is not None, explain=False) for text in asked]
        shown, given = [self.backbone.pixels_of(candidates)], [example_images(by)] * len(candidates)
        value = self._differentiable(texts, given, shown, against, debias, checkpointing)
        return value / (self.config.pointwise_temperature if against is None else self.config.temperature)

    def video_log_odds(
        self,
        videos: Tensor,
        prompt: str | Sequence[str],
        instruction: str | Instruction = DEFAULT_VIDEO_INSTRUCTION,
        first_frame: ImageInput | Sequence[ImageInput] | None = None,
        frames: int | None = None,
        fps: float = RATE,
        checkpointing: bool = True,
    ) -> Tensor:
        """The log-odds of :meth:`score_video`, differentiable in the pixels of the frames that are shown.

        Args:
            videos: float [B, F, 3, H, W] or [F, 3, H, W] in [0, 1], on any device. Gradients flow to them.
            prompt: what they were to show; one for all, or one each.
            instruction, first_frame, frames: as in :meth:`score_video`.
            fps: frames per second that the videos have.
            checkpointing: as in :meth:`log_odds`.

        Returns:
            float32 [B] (float64 for a model in float64), on the model's device.

        Raises:
            ImageError: tensors of the wrong shape, type or range, or not as many first frames as videos.
            PromptTextError: an empty prompt, or not as many prompts as videos.
            ModelError: the model takes no videos.
        """
        by, candidates = get_instruction(instruction), check_clips(videos)
        count, total = candidates.shape[:2]
        asked = prompts_for(prompt, count)
        firsts = [[]] if first_frame is None else [[image] for image in as_images(first_frame)]
        places = spread(total, self.config.video_frames if frames is None else frames)
        seen, rate = candidates[:, list(places)], fps * len(places) / total
        parts, stretches = self.backbone.clip(len(places), rate)
        texts = [
            self._text(by, text, False, explain=False, candidate=parts, first_frame=first_frame is not None)
            for text in asked
        ]
        examples = example_images(by)
        given = [[*examples, *first] for first in one_each(firsts, count, "first frames")]
        # What the vision tower takes in one go is frames of one number.
        alike = [list(lot) for _, lot in groupby(stretches, lambda stretch: stretch.stop - stretch.start)]
        lots = [torch.stack([seen[:, stretch] for stretch in lot], dim=1).flatten(0, 1) for lot in alike]
        shown = [self.backbone.moving(lot, 1 / rate) for lot in lots]
        value = self._differentiable(texts, given, shown, None, False, checkpointing)
        return value / self.config.pointwise_temperature

    def _differentiable(
        self,
        texts: Sequence[str],
        given: Sequence[Sequence[Image.Image]],
        candidates: Sequence[Pixels],
        references: Sequence[Pixels] | None,
        debias: bool,
        checkpointing: bool,
    ) -> Tensor:
        layouts = [self.backbone.pieces(text) for text in texts]
        with self._combiner.alone():
            return candidate_log_odds(self.backbone, layouts, candidates, references, given, debias, checkpointing)

    def question(
        self,
        candidate: ImageInput,
        prompt: str,
        reference: ImageInput | None = None,
        instruction: str | Instruction = DEFAULT_INSTRUCTION,
        explain: bool = False,
        thought: str | None = None,
    ) -> Question:
        """One question as the model reads it, up to where its answer begins: what training is made of.

        Args:
            candidate: the picture in question.
            prompt: what it was to show.
            reference: the picture to compare with, if any.
            instruction: what to judge by.
            explain: whether a chain of thought is asked for.
            thought: a chain of thought that has been written already; what comes next is the verdict.
        """
        shown, against = _still(candidate)[0], None if reference is None else _still(reference)[0]
        return self._begun(shown, against, prompt, get_instruction(instruction), explain, thought)

    def video_question(
        self,
        candidate: VideoInput,
        prompt: str,
        reference: VideoInput | None = None,
        instruction: str | Instruction = DEFAULT_VIDEO_INSTRUCTION,
        explain: bool = False,
        thought: str | None = None,
        frames: int | None = None,
        rate: float | None = None,
        first_frame: ImageInput | None = None,
    ) -> Question:
        """The same about a video; `frames`, `rate` and `first_frame` as in :meth:`score_video`."""
        (shown,) = self._moving(candidate, frames, rate)
        against = None if reference is None else self._moving(reference, frames, rate)[0]
        (first,) = _firsts(first_frame)
        return self._begun(shown, against, prompt, get_instruction(instruction), explain, thought, first)

    def think(
        self, questions: Sequence[Question], temperature: float = 0.0, seed: int = 0, batch_size: int | None = None
    ) -> list[str]:
        """The chain of thought that the model writes after each question.

        Args:
            questions: from :meth:`question` or :meth:`video_question`, with `explain`.
            temperature: 0 for the likeliest word each time; above it, words are drawn.
            seed: of the drawing.
            batch_size: questions per forward pass.
        """
        choose = drawn(temperature, seed) if temperature > 0 else likeliest
        with self._combiner.alone():
            batches = self._engine.thoughts(questions, self.config.max_new_tokens, batch_size, choose)
            found = dict(pair for batch in batches for pair in batch)
        return [found[index] for index in range(len(questions))]

    def answer(self, questions: Sequence[Question], batch_size: int | None = None) -> list[float]:
        """The log-odds of yes after each question, as the model gives them: not divided by a temperature."""
        with self._combiner.alone():
            found = dict(pair for batch in self._engine.log_odds(questions, batch_size) for pair in batch)
        return [found[index] for index in range(len(questions))]

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Look at every picture once only, however many calls within the `with` block show it."""
        with self._engine.remembering():
            yield

    def _alone(
        self,
        shown: Sequence[_Shown],
        firsts: Sequence[Picture | None],
        prompt: str | Sequence[str],
        by: Instruction,
        options: _Options,
    ) -> list[Judgement]:
        asked, firsts = prompts_for(prompt, len(shown)), one_each(firsts, len(shown), "first frames")
        examples = [Picture.of(image) for image in example_images(by)]
        answers = self._answer(
            [
                self._question(by, examples, text, first, None, candidate, options.explain)
                for candidate, first, text in zip(shown, firsts, asked, strict=True)
            ],
            options,
        )
        temperature = self.config.cot_temperature if options.explain else self.config.pointwise_temperature
        return [
            Judgement(answer.log_odds / temperature, by.name, by.criteria, index, None, answer.explanation)
            for index, answer in enumerate(answers)
        ]

    def _pairs(
        self,
        judged: Sequence[_Shown],
        against: Sequence[_Shown],
        firsts: Sequence[Picture | None],
        prompt: str | Sequence[str],
        by: Instruction,
        debias: bool,
        options: _Options,
    ) -> list[Judgement]:
        count = len(judged)
        asked, firsts = prompts_for(prompt, count), one_each(firsts, count, "first frames")
        examples = [Picture.of(image) for image in example_images(by)]
        numbers = list(range(count)) if len(against) > 1 else [0] * count
        pairs = list(zip(judged, one_each(against, count), strict=True))
        orders = [pairs, [(second, first) for first, second in pairs]] if debias else [pairs]
        questions = [
            self._question(by, examples, text, first, reference, candidate, options.explain)
            for order in orders
            for (candidate, reference), first, text in zip(order, firsts, asked, strict=True)
        ]
        answers = self._answer(questions, options)
        temperature = self.config.cot_temperature if options.explain else self.config.temperature
        found = [
            Judgement(answer.log_odds / temperature, by.name, by.criteria, index, number, answer.explanation)
            for answer, (index, number) in zip(answers, list(enumerate(numbers)) * len(orders), strict=True)
        ]
        if not debias:
            return found
        return [one.swapped(other) for one, other in zip(found[:count], found[count:], strict=True)]

    def _moving(
        self, videos: VideoInput | Sequence[VideoInput], frames: int | None, rate: float | None
    ) -> list[_Shown]:
        shown: list[_Shown] = []
        wanted = self.config.video_frames if frames is None else frames
        for clip in (item.sampled(wanted, rate) for item in as_clips(videos)):
            parts, places = self.backbone.clip(len(clip.frames), clip.rate)
            pictures = (Picture.of(*clip.frames[place], interval=1 / clip.rate) for place in places)
            shown.append(_Shown(tuple(parts), tuple(pictures)))
        return shown

    def _text(self, by: Instruction, prompt: str, pairwise: bool, explain: bool, **shown: Any) -> str:
        for token in self.tokenizer.all_special_tokens:
            if token in prompt:
                raise PromptTextError(f"the prompt holds {token!r}, which this model keeps for itself; leave it out")
        return self.backbone.question(by, prompt, pairwise=pairwise, explain=explain, **shown)

    def _question(
        self,
        by: Instruction,
        examples: Sequence[Picture],
        prompt: str,
        first: Picture | None,
        reference: _Shown | None,
        candidate: _Shown,
        explain: bool,
    ) -> _Asked:
        shown: dict[str, Any] = {"candidate": candidate.parts, "first_frame": first is not None}
        pictures = list(examples)
        if first is not None:
            pictures.append(first)
        if reference is not None:
            shown["reference"] = reference.parts
            pictures += reference.pictures
        text = self._text(by, prompt, reference is not None, explain, **shown)
        return _Asked(text, Question(self.backbone.pieces(text), (*pictures, *candidate.pictures)))

    def _begun(
        self,
        shown: _Shown,
        reference: _Shown | None,
        prompt: str,
        by: Instruction,
        explain: bool,
        thought: str | None,
        first: Picture | None = None,
    ) -> Question:
        (text,) = prompts_for(prompt, 1)
        examples = [Picture.of(image) for image in example_images(by)]
        asked = self._question(by, examples, text, first, reference, shown, explain)
        return asked.question if thought is None else self._continued(asked, thought)

    def _answer(self, questions: Sequence[_Asked], options: _Options) -> list[_Answer]:
        check_batch_size(options.batch_size)
        if (tell := options.on_text) is not None:
            questions = [replace(item, on_text=partial(tell, index)) for index, item in enumerate(questions)]
        way = _Way(options.explain, options.batch_size)
        with judging(len(questions), options.progress) as advance:
            return self._combiner.ask(questions, way, advance, options.cancel)

    def _answers(self, asked: Sequence[_Asked], way: _Way) -> Iterator[list[tuple[int, _Answer]]]:
        questions = [item.question for item in asked]
        if not way.explain:
            for found in self._engine.log_odds(questions, way.batch_size):
                yield [(index, _Answer(value)) for index, value in found]
            return

        def told(index: int, text: str) -> None:
            if (tell := asked[index].on_text) is not None:
                tell(text)

        on_text = told if any(item.on_text for item in asked) else None
        limit = self.config.max_new_tokens
        for thoughts in self._engine.thoughts(questions, limit, way.batch_size, on_text=on_text):
            due = [self._continued(asked[index], thought) for index, thought in thoughts]
            values = dict(pair for found in self._engine.log_odds(due, way.batch_size) for pair in found)
            yield [(index, _Answer(values[number], thought)) for number, (index, thought) in enumerate(thoughts)]

    def _continued(self, asked: _Asked, thought: str) -> Question:
        """The question, and the thought after it as far as the verdict."""
        text = f"{asked.text}{thought} {prompts.VERDICT}"
        return Question(self.backbone.pieces(text), asked.question.pictures)


def _still(images: ImageInput | Sequence[ImageInput]) -> list[_Shown]:
    found = as_images(images)
    distinct = {id(image): image for image in found}  # each is named by its pixels, which takes a while
    with ThreadPoolExecutor() as threads:
        named = threads.map(Picture.of, distinct.values())
        shown = {key: _Shown((prompts.IMAGE,), (picture,)) for key, picture in zip(distinct, named, strict=True)}
    return [shown[id(image)] for image in found]


def _firsts(images: ImageInput | Sequence[ImageInput] | None) -> list[Picture | None]:
    return [None] if images is None else [Picture.of(image) for image in as_images(images)]


def _check_source(source: str, folder: Path) -> None:
    check_source(source, "model", "config.json")
    if folder.exists() and not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{source}: holds no safetensors weights. Other formats can run code when they are read and are refused; "
            "save the model again with save_pretrained"
        )


def find_device(name: str | torch.device | None) -> torch.device:
    """The device of that name; of None, or of ``"auto"``, where weights that are spread have their first.

    Raises:
        ModelError: there is none.
    """
    if name in (None, "auto"):
        return default_device()
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"there is no device {str(name)!r} here ({_first_line(error)})") from error


def default_device() -> torch.device:
    """A GPU if there is one."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _attention(name: str, device: torch.device, dtype: torch.dtype) -> str:
    if name not in _ATTENTIONS:
        raise ModelError(
            f"attention {name!r} is not known; it can be {', '.join(map(repr, _ATTENTIONS))} or None. The "
            "memory-efficient kernel of xformers is among those that 'sdpa' chooses from"
        )
    if name == "flash_attention_2":
        if find_spec("flash_attn") is None:
            raise ModelError(f"attention {name!r} needs flash-attn: pip install flash-attn; 'sdpa' needs nothing")
        if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
            raise ModelError(f"attention {name!r} runs on a GPU in float16 or bfloat16 only; choose 'sdpa'")
    return name


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
