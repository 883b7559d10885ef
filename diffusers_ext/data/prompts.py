"""When two prompts are the same."""

from __future__ import annotations

import unicodedata


def normalized(prompt: str) -> str:
    """A prompt without what does not change its meaning: case, width, composition of letters, kind of white space.

    Two prompts are the same if this is: Unicode NFKC, case folded, every run of white space one blank.
    """
    # Folding can undo the normal form, so it is restored afterwards.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", prompt).casefold())
    return " ".join(folded.split())
