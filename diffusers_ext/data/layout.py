"""How records are laid out in files: the two endings, and the columns of parquet."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from .problems import DataError
from .records import Preference

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS: Final = tuple(item.name for item in fields(Preference))
REQUIRED: Final = ("prompt", "a", "b", "choice")
MEDIA_FOLDER: Final = "media"
"""Where bytes go beside a JSONL file, which cannot hold them."""


def layout_of(path: Path) -> Literal["jsonl", "parquet"]:
    """By its ending, which of the two layouts a file has.

    Raises:
        DataError: another ending.
    """
    if path.suffix in (".jsonl", ".parquet"):
        return path.suffix[1:]  # type: ignore[return-value]
    raise DataError(f"{path}: ends in {path.suffix or 'nothing'}; expected .jsonl or .parquet")


def import_parquet() -> tuple[Any, Any]:
    """The modules pyarrow and pyarrow.parquet.

    Raises:
        DataError: they are not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError("parquet files need pyarrow: pip install 'rewarddance[train]'") from error
    return pa, pq


def parquet_schema() -> pa.Schema:
    """Media are laid out as the `datasets` library lays out pictures: as bytes, or as a path."""
    pa, _ = import_parquet()
    medium = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    source = pa.struct([("dataset", pa.string()), ("row", pa.string()), ("license", pa.string())])
    types = {
        "a": medium,
        "b": medium,
        "first_frame": medium,
        "strength": pa.float64(),
        "margin": pa.float64(),
        "criteria": pa.list_(pa.string()),
        "source": source,
    }
    return pa.schema([(name, types.get(name, pa.string())) for name in COLUMNS])
