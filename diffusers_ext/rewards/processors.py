"""Processors of vision-language models, with or without torchvision."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, ProcessorMixin
from transformers.utils import is_torchvision_available

from .errors import ModelError


def load_processor(path_or_id: str) -> ProcessorMixin:
    """The processor of a model, set to pad on the left.

    Where torchvision is missing, processors that also take videos cannot be made as they are, since their video half
    needs it; then only the half for pictures and text is loaded.

    Raises:
        ModelError: there is no processor there, or it cannot be loaded without torchvision.
    """
    try:
        processor = AutoProcessor.from_pretrained(path_or_id) if is_torchvision_available() else _image_half(path_or_id)
    except (OSError, ValueError, ImportError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{path_or_id}: its processor could not be loaded ({error})") from error
    if not processor.chat_template:
        raise ModelError(f"{path_or_id}: its processor has no chat template, so no question can be put to the model")
    processor.tokenizer.padding_side = "left"
    if processor.tokenizer.pad_token_id is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return processor


def _image_half(path_or_id: str) -> ProcessorMixin:
    tokenizer = AutoTokenizer.from_pretrained(path_or_id)
    pictures = AutoImageProcessor.from_pretrained(path_or_id, backend="pil")
    settings, _ = ProcessorMixin.get_processor_dict(path_or_id)
    name = settings.get("processor_class") or getattr(tokenizer, "processor_class", None)
    whole = getattr(transformers, name or "", None)
    if whole is None:
        raise ModelError(f"{path_or_id}: names no processor class that transformers {transformers.__version__} knows")
    taken = inspect.signature(whole.__init__).parameters
    options = {key: value for key, value in settings.items() if key in taken and not isinstance(value, dict)}
    options.setdefault("chat_template", tokenizer.chat_template or _template(path_or_id))
    return _without_videos(whole)(image_processor=pictures, tokenizer=tokenizer, **options)


def _template(path_or_id: str) -> str | None:
    file = Path(path_or_id) / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    file = Path(path_or_id) / "chat_template.json"
    return json.loads(file.read_text(encoding="utf-8"))["chat_template"] if file.is_file() else None


def _without_videos(whole: type[ProcessorMixin]) -> Any:
    """A subclass that never asks for a video processor: transformers reads what it needs off `__init__`'s names."""
    if "video_processor" not in inspect.signature(whole.__init__).parameters:
        return whole

    class ImageHalf(whole):  # type: ignore[misc, valid-type]
        def __init__(self, image_processor: Any = None, tokenizer: Any = None, **options: Any) -> None:
            super().__init__(image_processor, tokenizer, None, **options)

    ImageHalf.__name__ = whole.__name__
    return ImageHalf
