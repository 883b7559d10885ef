"""The judges and pipelines of a page, each loaded when it is first asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from diffusers_ext.nano import DEFAULT_PIPELINE, DEFAULT_REWARD_MODEL, DEFAULT_VIDEO_REWARD_MODEL, GENERATOR_OPTIONS
from diffusers_ext.rewards.addresses import connected, is_address
from diffusers_ext.rewards.errors import ModelError, RewardDanceError

from .runs import LORA
from .settings import Settings

if TYPE_CHECKING:
    from diffusers_ext.ranking import Judge

T = TypeVar("T")

LORA_GUIDANCE: Final = 1.0
"""What LoRAs are trained with, and paint best with: none."""
_LOADING: Final = threading.Lock()
"""One model at a time: the libraries do not like being imported by two threads at once."""


class Lazy(Generic[T]):
    """Something that is loaded when it is first needed. Where that fails, the next who needs it tries again."""

    def __init__(self, name: str, load: Callable[[], T]) -> None:
        self.name = name
        self.state = "not loaded yet"
        self._load = load
        self._loaded: list[T] = []

    @property
    def settled(self) -> bool:
        """Whether it has been loaded, or cannot be."""
        return self.state not in ("not loaded yet", "loading")

    def get(self) -> T:
        """It, loaded.

        Raises:
            RewardDanceError: it cannot be loaded; `state` says why, too.
        """
        if self._loaded:
            return self._loaded[0]
        with _LOADING:
            if not self._loaded:
                self.state = "loading"
                try:
                    self._loaded.append(self._load())
                except Exception as error:  # whatever a library raises must not take the page down
                    self.state = f"cannot be loaded: {error}"
                    if isinstance(error, RewardDanceError):
                        raise
                    raise ModelError(f"{self.name}: could not be loaded ({error})") from error
                self.state = "ready"
        return self._loaded[0]


class Models:
    """The judges and pipelines that visitors can choose from, by name.

    Attributes:
        is_nano: whether the pipeline is the nano generator, which has settings of its own.
    """

    def __init__(self, settings: Settings) -> None:
        judges = settings.judges or (str(DEFAULT_REWARD_MODEL), str(DEFAULT_VIDEO_REWARD_MODEL))
        pipelines = settings.pipelines or (str(DEFAULT_PIPELINE),)
        device = settings.device
        self._judges = _named(judges, lambda source: _load_judge(source, device))
        self._pipelines = _named(pipelines, lambda source: _load_pipeline(source, device))
        self._judge_sources = dict(zip(self._judges, judges, strict=True))
        self._pipeline_sources = dict(zip(self._pipelines, pipelines, strict=True))
        self._brush = threading.Lock()
        self._worn: dict[str, tuple[Path, int]] = {}
        self.is_nano = not settings.pipelines

    @property
    def judges(self) -> list[str]:
        return list(self._judges)

    @property
    def video_judge(self) -> str:
        """The judge of videos that is chosen to begin with."""
        nano = DEFAULT_VIDEO_REWARD_MODEL.name
        return nano if nano in self._judges else self.judges[0]

    @property
    def pipelines(self) -> list[str]:
        return list(self._pipelines)

    @property
    def all(self) -> list[Lazy[Any]]:
        return [*self._judges.values(), *self._pipelines.values()]

    def judge(self, name: str) -> Judge:
        """A judge by its name. Threads may share it.

        Raises:
            ModelError: it is not among those named at the start, or cannot be loaded.
        """
        return _chosen(self._judges, name, "judge").get()

    @contextmanager
    def painting(self, name: str, lora: Path | None = None) -> Iterator[Any]:
        """A pipeline by its name, to oneself: its scheduler remembers where it is, so it paints one thing at a time.

        Args:
            name: of the pipeline.
            lora: the folder of a LoRA that it is to paint with, or None for the pipeline as it is.

        Raises:
            ModelError: as :meth:`judge`, or the LoRA cannot be loaded.
        """
        pipeline = _chosen(self._pipelines, name, "pipeline").get()
        with self._brush:
            self._dress(name, pipeline, lora)
            yield pipeline

    def judge_source(self, name: str) -> str | None:
        """Where a judge comes from, as a training takes it: None for the nano judge.

        Raises:
            ModelError: there is no such judge here.
        """
        _chosen(self._judges, name, "judge")
        return _as_trained(self._judge_sources[name], DEFAULT_REWARD_MODEL)

    def pipeline_source(self, name: str) -> str | None:
        """Where a pipeline comes from, as a training takes it: None for the nano generator.

        Raises:
            ModelError: there is no such pipeline here.
        """
        _chosen(self._pipelines, name, "pipeline")
        return _as_trained(self._pipeline_sources[name], DEFAULT_PIPELINE)

    def _dress(self, name: str, pipeline: Any, lora: Path | None) -> None:
        """Have a pipeline wear a LoRA, or none; one that it wears already it keeps, unless the file has changed."""
        wanted = None if lora is None else (lora, (lora / LORA).stat().st_mtime_ns)
        if self._worn.get(name) == wanted:
            return
        if self._worn.pop(name, None) is not None:
            pipeline.unload_lora_weights()
        if lora is None or wanted is None:
            return
        try:
            pipeline.load_lora_weights(str(lora), weight_name=LORA, use_safetensors=True, local_files_only=True)
        except Exception as error:  # whatever a library raises must leave the pipeline as it was
            with suppress(Exception):
                pipeline.unload_lora_weights()
            raise ModelError(f"the LoRA {lora.name!r} cannot be loaded into {name} ({error})") from error
        self._worn[name] = wanted

    def options(self, steps: float | None, guidance: float | None) -> dict[str, Any]:
        """What a pipeline is called with; what is left open is the pipeline's own (for the nano generator, ours)."""
        options = dict(GENERATOR_OPTIONS) if self.is_nano else {}
        if steps is not None:
            options["num_inference_steps"] = int(steps)
        if guidance is not None:
            options["guidance_scale"] = float(guidance)
        return options

    @property
    def first(self) -> list[Lazy[Any]]:
        """The judge and the pipeline that are chosen to begin with."""
        return [next(iter(self._judges.values())), next(iter(self._pipelines.values()))]

    def load_first(self) -> None:
        """Load them, so that nobody waits for them; what fails says so in its `state`."""
        for lazy in self.first:
            with suppress(RewardDanceError):
                lazy.get()


def _named(sources: Sequence[str], load: Callable[[str], T]) -> dict[str, Lazy[T]]:
    """Folders go by their last part, unless two have the same; hub ids and URLs by themselves."""
    names = [Path(source).name if Path(source).is_dir() else source for source in sources]
    unique = [name if names.count(name) == 1 else source for name, source in zip(names, sources, strict=True)]
    return {name: Lazy(name, partial(load, source)) for name, source in zip(unique, sources, strict=True)}


def _chosen(known: dict[str, Lazy[T]], name: str, kind: str) -> Lazy[T]:
    if name not in known:
        raise ModelError(f"there is no {kind} {name!r} here; this page has {', '.join(map(repr, known))}")
    return known[name]


def _as_trained(source: str, nano: Path) -> str | None:
    """A source as a run's configuration holds it, whose process may be elsewhere."""
    if not Path(source).exists():
        return source
    place = Path(source).resolve()
    return None if place == nano.resolve() else str(place)


def _load_judge(source: str, device: str | None) -> Judge:
    from diffusers_ext.cli.loading import load_reward_model

    return connected(source) if is_address(source) else load_reward_model(source, None, device)


def _load_pipeline(source: str, device: str | None) -> Any:
    from diffusers_ext.cli.loading import load_pipeline

    return load_pipeline(source, device)
