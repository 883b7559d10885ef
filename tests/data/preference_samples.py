from __future__ import annotations

import io

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from diffusers_ext.data import Preference, Source


def png(number):
    pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8)
    found = io.BytesIO()
    Image.fromarray(pixels).save(found, "PNG")
    return found.getvalue()


def texts(**options):
    return st.text(st.characters(exclude_categories=["Cs"]), **options).filter(str.strip)


def paths():
    return st.text("abcé漢😀 ._-\n\"'\\", min_size=1, max_size=12).filter(
        lambda name: name.strip() and "\\\\" not in name
    )


@st.composite
def preferences(draw, media=None):
    media = paths() if media is None else media
    a = draw(media)
    b = draw(media.filter(lambda other: other != a))
    choice = draw(st.sampled_from(["a", "b", "tie"]))
    optional = st.none() | texts(max_size=20)
    return Preference(
        draw(texts(max_size=40)),
        a,
        b,
        choice,
        strength=None if choice == "tie" else draw(st.none() | st.floats(0, 1)),
        margin=draw(st.none() | st.floats(0, 1e300)),
        criteria=tuple(draw(st.lists(texts(max_size=8), max_size=3))),
        instruction=draw(optional),
        rationale=draw(optional),
        source=draw(st.none() | st.builds(Source, texts(max_size=8), optional, optional)),
        first_frame=draw(st.none() | media),
    )
