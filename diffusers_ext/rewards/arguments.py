"""What every judge takes, in this process or behind a server: checked and spread in one way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from .errors import ImageError, PromptTextError
from .images import as_images
from .instructions import Instruction

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")


def prompts_for(prompt: str | Sequence[str], count: int) -> list[str]:
    """A prompt for each of `count` pictures.

    Raises:
        PromptTextError: an empty prompt, or not as many prompts as pictures.
    """
    found = [prompt] * count if isinstance(prompt, str) else list(prompt)
    if len(found) != count:
        raise PromptTextError(f"got {len(found)} prompts for {count} pictures; give one for all, or one each")
    if not all(text.strip() for text in found):
        raise PromptTextError("the prompt is empty; say what is wanted")
    return found


def check_count(given: int, candidates: int, name: str = "references") -> None:
    """Refuse a number of references (or of what else goes with candidates) that is neither one nor theirs.

    Raises:
        ImageError: it is another.
    """
    if given not in (1, candidates):
        raise ImageError(f"got {given} {name} for {candidates} candidates; give one for all, or one each")


def one_each(items: Sequence[T], candidates: int, name: str = "references") -> list[T]:
    """An item for each candidate, of one for all or one each; raises what :func:`check_count` does."""
    check_count(len(items), candidates, name)
    return list(items) * (candidates if len(items) == 1 else 1)


def check_batch_size(batch_size: int | None) -> None:
    """Refuse a batch that would hold nothing."""
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")


def example_images(by: Instruction) -> list[Image.Image]:
    """The pictures of an instruction's examples, in the order in which the question has places for them."""
    paths = [path for item in by.examples for path in (item.reference, item.candidate) if path is not None]
    return as_images(paths) if paths else []


@contextmanager
def judging(total: int, shown: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr (if `shown`), and the function that moves it on."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=not shown) as bar:
        task = bar.add_task("judging", total=total)
        yield lambda count: bar.advance(task, count)
