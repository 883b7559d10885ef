from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from diffusers_ext.data import Preference, write

BRIGHT, DARK = (230, 220, 210), (40, 50, 60)


def shade(colour, seed):
    noise = np.random.default_rng(seed).normal(0.0, 15.0, (64, 64, 3))
    return Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def preferences(tmp_path_factory):
    """A file of preferences for bright pictures over dark ones, half of them with a rationale."""
    folder = tmp_path_factory.mktemp("preferences")
    (folder / "media").mkdir()
    records = []
    for number in range(12):
        first_is_bright = number % 3 != 0
        for side, bright in (("a", first_is_bright), ("b", not first_is_bright)):
            shade(BRIGHT if bright else DARK, 2 * number + bright).save(folder / "media" / f"{number}{side}.png")
        rationale = "The candidate is vivid." if number % 2 else None
        names = (f"media/{number}{side}.png" for side in "ab")
        choice = "a" if first_is_bright else "b"
        records.append(Preference("a photo of a star", *names, choice, rationale=rationale))
    write(folder / "train.jsonl", records)
    write(folder / "held.jsonl", records[:6])
    return folder
