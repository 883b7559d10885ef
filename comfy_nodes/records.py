"""One more record at the end of a file of preferences."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

from diffusers_ext.data import DataError, Preference, write


def append(path: Path, record: Preference) -> None:
    """Add a record to a JSONL file; it is on the disk before this returns, and what was there stays as it is.

    Any number of threads and processes may do so at a time. A line that a crash has cut off stays a line of its own.

    Args:
        path: of the file, which is made if it is not there; ends in .jsonl.
        record: to add; pictures that it holds as bytes become files in the folder `media` beside the file.

    Raises:
        DataError: it could not be written.
    """
    alone = path.with_name(f".{path.stem}.{uuid4().hex}.jsonl")
    try:
        write(alone, [record])
        line = alone.read_bytes()
        with path.open("ab+") as file:
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        alone.unlink(missing_ok=True)
