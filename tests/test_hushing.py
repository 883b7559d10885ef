from __future__ import annotations

import logging
import threading

import diffusers
import pytest
import transformers
from huggingface_hub.utils import are_progress_bars_disabled

from diffusers_ext.cli.loading import DONE
from diffusers_ext.hushing import hushed


@pytest.fixture
def told():
    """The messages that the libraries let through, as they come."""
    found = []
    listener = logging.Handler()
    listener.emit = lambda record: found.append(record.getMessage())
    for library in (transformers, diffusers):
        library.logging.add_handler(listener)
    yield found
    for library in (transformers, diffusers):
        library.logging.remove_handler(listener)


@pytest.fixture
def shown(capfd, told):
    """What comes of a notice, an error and a bar of each library: the messages, and how many bars."""

    def show():
        told.clear()
        capfd.readouterr()
        bars = 0
        for library in (transformers, diffusers):
            logger = library.logging.get_logger(f"{library.__name__}.somewhere")
            logger.warning("a notice")
            logger.error("an error")
            assert list(library.logging.tqdm(range(2), desc="a bar")) == [0, 1]
            bars += "a bar" in capfd.readouterr().err
        return list(told), bars

    return show


def state():
    return (
        [library.logging.get_verbosity() for library in (transformers, diffusers)],
        [library.logging.is_progress_bar_enabled() for library in (transformers, diffusers)],
        logging.getLogger("bitsandbytes").level,
        logging.root.manager.disable,
        are_progress_bars_disabled(),
    )


@pytest.fixture(autouse=True)
def loud():
    """Both libraries louder than they are by default, and back."""
    DONE.close()  # other tests load what a command does, and no command ends
    before = [library.logging.get_verbosity() for library in (transformers, diffusers)]
    for library in (transformers, diffusers):
        library.logging.set_verbosity_info()
    yield
    for library, level in zip((transformers, diffusers), before, strict=True):
        library.logging.set_verbosity(level)


def test_errors_alone_are_told_and_all_is_as_before_afterwards(shown):
    before, loud = state(), (["a notice", "an error"] * 2, 2)
    assert shown() == loud
    with pytest.raises(KeyError), hushed():
        assert shown() == (["an error"] * 2, 0)
        raise KeyError
    assert state() == before
    assert shown() == loud


def test_whoever_wants_less_still_gets_less(shown):
    transformers.logging.set_verbosity(logging.CRITICAL)
    diffusers.logging.disable_progress_bar()
    try:
        with hushed():
            assert shown() == (["an error"], 0)
        assert transformers.logging.get_verbosity() == logging.CRITICAL
        assert not diffusers.logging.is_progress_bar_enabled()
    finally:
        diffusers.logging.enable_progress_bar()


def test_threads_that_overlap_leave_it_as_it_was(shown):
    before = state()
    inside, leave = threading.Event(), threading.Event()

    def other():
        with hushed():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with hushed():
        thread.start()
        assert inside.wait(10)
    assert "a notice" not in shown()[0], "the other one is still there"
    leave.set()
    thread.join()
    assert state() == before


def test_the_shipped_models_are_loaded_and_used_without_a_word(capfd, told, tmp_path):
    for library in (transformers, diffusers):
        library.logging.set_verbosity_warning()
    before = state()
    with hushed():  # some notices come as soon as a pipeline is imported
        from diffusers import DiffusionPipeline

        from diffusers_ext import RewardModel
        from diffusers_ext.nano import DEFAULT_PIPELINE
        from diffusers_ext.nano.demo import run

        pipeline = DiffusionPipeline.from_pretrained(DEFAULT_PIPELINE)
    pipeline.set_progress_bar_config(disable=True)
    run(tmp_path, RewardModel.default("cpu"), pipeline, ["a photo of a star"], n=1)
    assert (told, *capfd.readouterr()) == ([], "", "")
    assert state() == before
