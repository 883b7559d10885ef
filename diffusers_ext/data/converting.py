"""From a published data set to a file of preferences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .formats import get_format
from .layout import layout_of
from .media import MediaFolder, embedded, present, relocate
from .merging import merge
from .problems import DataError, Problem, sift
from .records import Preference
from .writing import write


@dataclass(frozen=True)
class Converted:
    """What :func:`convert` did.

    Attributes:
        records: how many were written.
        problems: rows left out, and why.
    """

    records: int
    problems: tuple[Problem, ...]


def convert(
    source: str | Path,
    out: str | Path,
    format: str,
    need_media: bool = True,
    merge_votes: bool = False,
    embed_media: bool = False,
) -> Converted:
    """Convert a published data set, as it is on the disk, to one file of preferences: whole or not at all.

    Media that are files are not copied: their paths are made relative to the folder of the new file.

    Args:
        source: the folder that the data set was unpacked in, or one file of it.
        out: what to write; it ends in .jsonl or .parquet.
        format: name of the format; see :data:`diffusers_ext.data.FORMATS`.
        need_media: leave out records whose media are not on the disk.
        merge_votes: have one record for each question; see :func:`merge`.
        embed_media: put the bytes of media into the file; only parquet can hold them.

    Raises:
        DataError: an unknown format, a source that is not there or not of the format, no record that can be used, or a
            file that cannot be written. What was at `out` is left as it was.
    """
    source, out = Path(source), Path(out)
    reader = get_format(format)
    if layout_of(out) != "parquet" and embed_media:
        raise DataError(f"{out}: only a parquet file can hold the bytes of media; end its name in .parquet")
    if not source.exists():
        raise DataError(f"{source}: there is no such file or folder")
    root = source if source.is_dir() else source.parent
    media, problems = MediaFolder(root), list[Problem]()

    def found() -> Iterator[Preference]:
        records = sift(reader(source), problems)
        if need_media:
            records = present(records, media, problems, source.name)
        if merge_votes:
            records = merge(records, media)
        if embed_media:
            records = embedded(records, root, problems, source.name)
        old, new = root.resolve(), out.resolve().parent
        count = 0
        for record in records:
            count += 1
            yield relocate(record, old, new)
        if not count:
            told = f"; the first of {len(problems)} problems: {problems[0]}" if problems else ""
            raise DataError(f"{source}: holds no record that can be used{told}")

    return Converted(write(out, found()), tuple(problems))
