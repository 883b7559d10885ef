"""What a model or a pipeline is named by: a folder that it was saved to, or its id on the hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from .rewards.errors import ModelError

_HUB_ID: Final = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # and no ./folder


def shipped(source: str | Path) -> str | Path:
    """The folder of a judge that comes with the package, if that is its name; a folder here that is so called wins."""
    from .nano import REWARD_MODELS

    return source if Path(source).exists() else REWARD_MODELS.get(str(source), source)


def check_source(source: str, kind: str, index: str) -> None:
    """Refuse what is neither a saved folder nor an id.

    Args:
        source: the folder, or the id (``owner/name``).
        kind: what is to be loaded: a model, a pipeline.
        index: the file that every folder of that kind holds.

    Raises:
        ModelError: there is no such folder and it is no id, or the folder holds no index.
    """
    folder = Path(source)
    if folder.exists():
        if not (folder / index).is_file():
            raise ModelError(f"{source}: holds no {index}, so it is not a {kind}'s folder")
    elif not _HUB_ID.fullmatch(source):
        from .nano import REWARD_MODELS

        names = f", nor one that comes with the package ({', '.join(REWARD_MODELS)})" if kind == "model" else ""
        raise ModelError(
            f"{source}: there is no such folder, and it is not the id of a {kind} on the hub (owner/name){names}"
        )
