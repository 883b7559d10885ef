from __future__ import annotations

import pytest
from diffusers import StableDiffusion3Pipeline

from diffusers_ext.nano import DEFAULT_PIPELINE
from tests.sampling.redness import Redness


@pytest.fixture
def redness():
    return Redness()


@pytest.fixture(scope="session")
def pipeline():
    loaded = StableDiffusion3Pipeline.from_pretrained(DEFAULT_PIPELINE)
    loaded.set_progress_bar_config(disable=True)
    return loaded
