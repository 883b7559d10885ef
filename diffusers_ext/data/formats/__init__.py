"""Readers of published data sets, one file for each family.

Each takes the folder that a data set was unpacked in, or one file of it, and gives preferences and problems in order.
The paths of media are relative to that folder (of a file: to the folder that it is in).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeAlias

from ..problems import DataError, Problem
from ..records import Preference
from .genai_bench import read_genai_bench
from .hpdv2 import read_hpdv2
from .hpdv3 import read_hpdv3
from .imagerewarddb import read_imagerewarddb
from .mj_bench import read_mj_bench
from .own_ratings import read_own_ratings
from .pickapic import read_pickapic
from .videofeedback import read_videofeedback
from .videogen_rewardbench import read_videogen_rewardbench

Reader: TypeAlias = Callable[[Path], Iterator[Preference | Problem]]

FORMATS: Final[dict[str, Reader]] = {
    "hpdv2": read_hpdv2,
    "hpdv3": read_hpdv3,
    "pickapic": read_pickapic,
    "imagerewarddb": read_imagerewarddb,
    "genai-bench": read_genai_bench,
    "mj-bench": read_mj_bench,
    "videofeedback": read_videofeedback,
    "videogen-rewardbench": read_videogen_rewardbench,
    "ratings": read_own_ratings,
}


def get_format(name: str) -> Reader:
    """The reader of a format.

    Raises:
        DataError: no such format; the message gives the nearest one and the whole list.
    """
    if name in FORMATS:
        return FORMATS[name]
    near = difflib.get_close_matches(name, FORMATS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise DataError(f"no format is named {name!r}.{hint} Known: {', '.join(FORMATS)}.")
