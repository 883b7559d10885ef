"""Judges that are named by an address, as everybody who takes a judge's name understands it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .remote import RemoteRewardModel


def is_address(source: str | Path | None) -> bool:
    """Whether a judge's name is the URL of one that is served elsewhere, and not a folder or a hub id."""
    return str(source).startswith(("http://", "https://"))


def connected(url: str) -> RemoteRewardModel:
    """The judge at a URL; its key, if it wants one, is that in the environment variable REWARDDANCE_API_KEY.

    Raises:
        ModelError: no URL, or no httpx.
    """
    from .remote import RemoteRewardModel

    return RemoteRewardModel(url, api_key=os.environ.get("REWARDDANCE_API_KEY"))
