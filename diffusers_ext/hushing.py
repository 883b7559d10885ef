"""Quiet for a while: the bars and notices of transformers and diffusers about what is known to be as it should.

The shipped pipeline makes diffusers say that its autoencoder is another than usual, and that prompts are cut off for
its T5, which says nothing anyway.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

_lock = threading.Lock()
_inside = 0
_undo = ExitStack()


@contextmanager
def hushed() -> Iterator[None]:
    """Keep loading bars and all that is no error off the terminal for as long as the `with` block lasts.

    What the libraries show is set for a whole process, so threads that are here at the same time share one hush; after
    the last of them everything is as it was before the first.
    """
    global _inside
    with _lock:
        if not _inside:
            _hush(_undo)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _undo.close()


def _hush(undo: ExitStack) -> None:
    from .rewards.quantization import import_quietly

    import_quietly("transformers.modeling_utils")  # torchao, where it is installed, has notices
    import diffusers
    import transformers

    for library in (transformers, diffusers):
        before = library.logging.get_verbosity()
        undo.callback(library.logging.set_verbosity, before)
        library.logging.set_verbosity(max(before, logging.ERROR))
    kernels = logging.getLogger("bitsandbytes")  # which diffusers and peft import where it is installed
    undo.callback(kernels.setLevel, kernels.level)
    kernels.setLevel(max(kernels.level, logging.ERROR))
    # transformers' own switch is that of the hub's downloads, too.
    undo.callback(transformers.logging.set_tqdm_hook, transformers.logging.set_tqdm_hook(_no_bar))
    if diffusers.logging.is_progress_bar_enabled():
        undo.callback(diffusers.logging.enable_progress_bar)
        diffusers.logging.disable_progress_bar()


def _no_bar(factory: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return factory(*arguments, **{**options, "disable": True})
