"""Files of preferences as a stream of the `datasets` library, for training."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .layout import COLUMNS, layout_of
from .media import relocate
from .problems import DataError, Problem, sift
from .reading import read

if TYPE_CHECKING:
    import datasets


def stream(*files: str | Path) -> datasets.IterableDataset:
    """Stream preferences from the disk, file by file, as the `datasets` library does: no more than a batch in memory.

    What it gives can be shuffled, mapped, batched and shared out among the workers of a `torch` DataLoader (a file to
    each). A row is what :meth:`Preference.as_row` gives; :meth:`Preference.from_row` makes a record of it again. Rows
    that are not well formed are left out, with a warning for each file.

    Args:
        files: JSONL or parquet files. The paths of media are relative to the folder of the first.

    Raises:
        DataError: no files, one that is not there or has another ending, or the library is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError("streaming needs the datasets library: pip install 'rewarddance[data]'") from error
    paths = [Path(file) for file in files]
    if not paths:
        raise DataError("no files were given to stream; at least one is needed")
    for path in paths:
        layout_of(path)
        if not path.is_file():
            raise DataError(f"{path}: there is no such file")
    text = datasets.Value("string")
    medium = {"bytes": datasets.Value("binary"), "path": text}
    other = {
        "a": medium,
        "b": medium,
        "first_frame": medium,
        "strength": datasets.Value("float64"),
        "margin": datasets.Value("float64"),
        "criteria": [text],
        "source": {"dataset": text, "row": text, "license": text},
    }
    return datasets.IterableDataset.from_generator(
        _rows,
        features=datasets.Features({name: other.get(name, text) for name in COLUMNS}),
        # A list is what the library shares out among workers; the folder is the same for all.
        gen_kwargs={"files": [str(path.resolve()) for path in paths], "folder": str(paths[0].resolve().parent)},
    )


def _rows(files: list[str], folder: str) -> Iterator[dict[str, Any]]:
    for file in files:
        problems: list[Problem] = []
        for record in sift(read(file), problems):
            yield relocate(record, Path(file).parent, Path(folder)).as_row()
        if problems:
            warnings.warn(f"{len(problems)} problems, and rows left out; the first: {problems[0]}", stacklevel=2)
