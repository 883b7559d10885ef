"""Vision-language models that can judge, one file each."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from ..errors import ModelError

if TYPE_CHECKING:
    from .base import Backbone

BACKBONES: Final[dict[str, str]] = {
    "internvl": "internvl.InternVL",
    "qwen2_5_vl": "qwen2_5_vl.Qwen25VL",
    "qwen3_vl": "qwen3_vl.Qwen3VL",
    "qwen3_vl_reranker": "qwen3_vl_reranker.Qwen3VLReranker",
}
"""`model_type` of a `config.json`, and the module and class that serve it. (A reranker calls itself qwen3_vl.)"""

SUPPORTED: Final = "InternVL (2.5, 3, 3.5), Qwen2.5-VL, Qwen3-VL, Qwen3-VL-Reranker"


def backbone_type(model_type: str, name: str) -> type[Backbone]:
    """The class that serves a model, chosen by its `model_type`.

    Args:
        model_type: what its `config.json` says.
        name: what it is called; the rerankers made of Qwen3-VL can be told by nothing else.

    Raises:
        ModelError: no backbone serves it.
    """
    kind = f"{model_type}_reranker" if "reranker" in name.lower() else model_type
    if kind not in BACKBONES:
        raise ModelError(f"{name}: models of type {kind!r} cannot serve as judges; these can: {SUPPORTED}")
    module, _, member = BACKBONES[kind].partition(".")
    return getattr(import_module(f".{module}", __name__), member)


def backbone_of(model: Any, processor: Any, name: str) -> Backbone:
    """The backbone of a loaded model."""
    return backbone_type(model.config.model_type, name)(model, processor)
