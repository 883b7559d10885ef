"""The judge: a vision-language model asked a yes/no question, whose reward is the probability of yes."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    StoppingCriteria,
    StoppingCriteriaList,
)

from . import prompts
from .config import RewardConfig
from .errors import Cancelled, ImageError, ModelError, PromptTextError
from .images import as_images
from .instructions import DEFAULT_INSTRUCTION, Instruction, get_instruction
from .judgement import Judgement
from .processors import load_processor
from .tokens import TokenGroups

if TYPE_CHECKING:
    from PIL import Image

    from .images import ImageInput

Quantization = Literal["nf4", "int8"]
BATCH_SIZE: Final = 16
_HUB_ID: Final = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class _Question:
    text: str
    images: tuple[Image.Image, ...]


@dataclass(frozen=True)
class _Answer:
    log_odds: float
    explanation: str | None = None


class RewardModel:
    """A generative reward model (RewardDance, arXiv 2509.08826).

    The reward of candidate x1 against reference x2 for prompt y under instruction i is P(yes | x1, x2, y, i), read at
    the position of the verdict as the sigmoid of log P(yes) - log P(no). Any vision-language model that transformers
    loads as image-text-to-text can serve.

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
            ModelError: the tokenizer has no usable yes or no.
        """
        self.model = model.eval()
        self.processor: Any = processor
        self.name = name
        self.config = config or RewardConfig()
        self.tokens = TokenGroups.of(self.tokenizer)
        self._lock = threading.Lock()

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path,
        quantization: Quantization | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> RewardModel:
        """Load a judge.

        Args:
            path_or_id: a folder written by `save_pretrained`, or the id of a model on the hub (``owner/name``), which
                is fetched. Only safetensors weights are read.
            quantization: ``"nf4"`` or ``"int8"`` by bitsandbytes, or None.
            device: where to run; by default the GPU if there is one.
            dtype: by default float32 on a CPU, bfloat16 elsewhere.

        Raises:
            ModelError: there is no such model, it is not a vision-language model, its weights are not safetensors,
                or quantization was asked for without bitsandbytes.
        """
        source = str(path_or_id)
        folder = Path(source)
        _check_source(source, folder)
        place = _device(device) if device is not None else _default_device()
        precision = dtype or (torch.float32 if place.type == "cpu" else torch.bfloat16)
        options: dict[str, Any] = {"dtype": precision, "use_safetensors": True}
        if quantization is not None:
            options |= {"quantization_config": _quantization(quantization, precision), "device_map": {"": place}}
        try:
            model, loaded = AutoModelForImageTextToText.from_pretrained(source, output_loading_info=True, **options)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
            raise ModelError(
                f"{source}: could not be loaded as a vision-language model ({_first_line(error)})"
            ) from error
        if missing := sorted(loaded["missing_keys"]):
            raise ModelError(f"{source}: {len(missing)} of its weights are missing, the first of them {missing[0]!r}")
        if quantization is None:
            model = model.to(place)
        config = RewardConfig.load(folder) if folder.is_dir() else None
        return cls(model, load_processor(source), folder.name or source, config)

    @classmethod
    def default(cls, device: str | torch.device | None = None) -> RewardModel:
        """The nano reward model that comes with the package. It knows the nano world only."""
        from ..nano import DEFAULT_REWARD_MODEL

        return cls.from_pretrained(DEFAULT_REWARD_MODEL, device=device)

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

        Returns:
            One judgement per picture, in order.

        Raises:
            ImageError: a picture that cannot be judged.
            PromptTextError: an empty prompt, or not as many prompts as pictures.
            InstructionError: no such instruction.
        """
        candidates, by = as_images(images), get_instruction(instruction)
        asked = _prompts(prompt, len(candidates))
        questions = [
            self._question(by, text, None, image, explain) for image, text in zip(candidates, asked, strict=True)
        ]
        answers = self._answer(questions, explain, batch_size, progress, cancel)
        temperature = self.config.cot_temperature if explain else self.config.pointwise_temperature
        return [
            Judgement(answer.log_odds / temperature, by.name, by.criteria, index, None, answer.explanation)
            for index, answer in enumerate(answers)
        ]

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

        Returns:
            One judgement per candidate, in order; `reference` is the index of the reference among those given.

        Raises:
            ImageError: a picture that cannot be judged, or not as many references as candidates.
            PromptTextError: an empty prompt, or not as many prompts as candidates.
            InstructionError: no such instruction.
        """
        judged, against, by = as_images(candidates), as_images(reference), get_instruction(instruction)
        if len(against) not in (1, len(judged)):
            raise ImageError(
                f"got {len(against)} references for {len(judged)} candidates; give one for all, or one each"
            )
        asked = _prompts(prompt, len(judged))
        numbers = list(range(len(judged))) if len(against) > 1 else [0] * len(judged)
        pairs = [(image, against[number]) for image, number in zip(judged, numbers, strict=True)]
        orders = [pairs, [(second, first) for first, second in pairs]] if debias else [pairs]
        questions = [
            self._question(by, text, second, first, explain)
            for order in orders
            for (first, second), text in zip(order, asked, strict=True)
        ]
        answers = self._answer(questions, explain, batch_size, progress, cancel)
        temperature = self.config.cot_temperature if explain else self.config.temperature
        found = [
            Judgement(answer.log_odds / temperature, by.name, by.criteria, index, number, answer.explanation)
            for answer, (index, number) in zip(answers, list(enumerate(numbers)) * len(orders), strict=True)
        ]
        if not debias:
            return found
        half = len(judged)
        return [first.swapped(second) for first, second in zip(found[:half], found[half:], strict=True)]

    def _question(
        self, by: Instruction, prompt: str, reference: Image.Image | None, candidate: Image.Image, explain: bool
    ) -> _Question:
        for token in self.tokenizer.all_special_tokens:
            if token in prompt:
                raise PromptTextError(f"the prompt holds {token!r}, which this model keeps for itself; leave it out")
        messages = prompts.question(by, prompt, pairwise=reference is not None, explain=explain)
        text = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        examples = [path for item in by.examples for path in (item.reference, item.candidate) if path is not None]
        shown = as_images(examples) if examples else []
        return _Question(text, (*shown, *([reference] if reference is not None else []), candidate))

    def _answer(
        self,
        questions: Sequence[_Question],
        explain: bool,
        batch_size: int | None,
        progress: bool,
        cancel: Callable[[], bool] | None,
    ) -> list[_Answer]:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        answers: list[_Answer] = []
        for batch in _batches(questions, batch_size or BATCH_SIZE, progress):
            if cancel is not None and cancel():
                raise Cancelled(f"stopped as asked, after {len(answers)} of {len(questions)} judgements")
            with self._lock, torch.inference_mode():
                answers += self._explained(batch) if explain else self._direct(batch)
        return answers

    def _direct(self, questions: Sequence[_Question]) -> list[_Answer]:
        return [_Answer(value) for value in self._log_odds(self._inputs(questions)).tolist()]

    def _explained(self, questions: Sequence[_Question]) -> list[_Answer]:
        """Let the model think until it writes the word that comes before a verdict, then read the verdict there."""
        inputs = self._inputs(questions)
        generated = self.model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=self.config.max_new_tokens,
            stopping_criteria=StoppingCriteriaList([_VerdictDue(self.tokenizer, inputs["input_ids"].shape[1])]),
            pad_token_id=self.tokenizer.pad_token_id,
        )
        texts = self.tokenizer.batch_decode(generated[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        thoughts = [text.split(prompts.VERDICT)[0].strip() for text in texts]
        due = [
            _Question(f"{question.text}{thought} {prompts.VERDICT}", question.images)
            for question, thought in zip(questions, thoughts, strict=True)
        ]
        values = self._log_odds(self._inputs(due)).tolist()
        return [_Answer(value, thought) for value, thought in zip(values, thoughts, strict=True)]

    def _inputs(self, questions: Sequence[_Question]) -> dict[str, Tensor]:
        inputs = self.processor(
            images=[image for question in questions for image in question.images],
            text=[question.text for question in questions],
            padding=True,
            return_tensors="pt",
        )
        return {
            name: value.to(self.device, self.model.dtype) if value.is_floating_point() else value.to(self.device)
            for name, value in inputs.items()
            if isinstance(value, Tensor)
        }

    def _log_odds(self, inputs: dict[str, Tensor]) -> Tensor:
        """Log P(yes) - log P(no) after the last token of each row, float32 [batch].

        Only the rows of the output head that belong to yes and no are computed, and at one position only. Padding is on
        the left, so the last position is the last token of every row.
        """
        last = self.model.base_model(**inputs, use_cache=False).last_hidden_state[:, -1]
        ids = [*self.tokens.yes, *self.tokens.no]
        head: Any = self.model.get_output_embeddings()
        if head.weight.is_floating_point():
            bias = head.bias[ids].float() if getattr(head, "bias", None) is not None else None
            logits = torch.nn.functional.linear(last.float(), head.weight[ids].float(), bias)
        else:
            logits = head(last)[:, ids].float()  # a quantized head cannot be sliced
        yes, no = logits.split([len(self.tokens.yes), len(self.tokens.no)], dim=1)
        return yes.logsumexp(1) - no.logsumexp(1)


class _VerdictDue(StoppingCriteria):
    """Stops a row once it has written the word that comes before the verdict."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, start: int) -> None:
        self._tokenizer = tokenizer
        self._start = start

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:  # type: ignore[override]
        tails = self._tokenizer.batch_decode(input_ids[:, max(self._start, input_ids.shape[1] - 8) :])
        return torch.tensor([prompts.VERDICT in tail for tail in tails], device=input_ids.device)


def _prompts(prompt: str | Sequence[str], count: int) -> list[str]:
    found = [prompt] * count if isinstance(prompt, str) else list(prompt)
    if len(found) != count:
        raise PromptTextError(f"got {len(found)} prompts for {count} pictures; give one for all, or one each")
    if not all(text.strip() for text in found):
        raise PromptTextError("the prompt is empty; say what the picture was to show")
    return found


def _batches(questions: Sequence[_Question], size: int, progress: bool) -> Iterator[Sequence[_Question]]:
    from rich.console import Console
    from rich.progress import track

    starts = range(0, len(questions), size)
    for start in track(starts, "judging", disable=not progress, console=Console(stderr=True), transient=True):
        yield questions[start : start + size]


def _check_source(source: str, folder: Path) -> None:
    if not folder.exists():
        if _HUB_ID.fullmatch(source):
            return
        raise ModelError(f"{source}: there is no such folder, and it is not the id of a model on the hub (owner/name)")
    if not (folder / "config.json").is_file():
        raise ModelError(f"{source}: holds no config.json, so it is not a model's folder")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{source}: holds no safetensors weights. Other formats can run code when they are read and are refused; "
            "save the model again with save_pretrained"
        )


def _device(name: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"there is no device {str(name)!r} here ({_first_line(error)})") from error


def _default_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _quantization(name: Quantization, dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig
    from transformers.utils import is_bitsandbytes_available

    if name not in ("nf4", "int8"):
        raise ModelError(f"quantization {name!r} is not known; it can be 'nf4', 'int8' or None")
    if not is_bitsandbytes_available():
        raise ModelError(f"quantization {name!r} needs bitsandbytes: pip install 'rewarddance[quantization]'")
    if name == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
