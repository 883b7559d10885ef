"""People's votes on pairs, kept in one SQLite file until they are wanted as preferences.

A vote is on the disk before :meth:`VoteStore.add` returns, pictures and all, and counts once however often it is sent.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, Literal, get_args

from .problems import DataError
from .records import Choice, Preference, Source

Ballot = Literal["a", "b", "tie", "both bad"]
BALLOTS: Final[tuple[Ballot, ...]] = get_args(Ballot)

_PATIENCE: Final = 10.0
"""Seconds to wait for another process that is writing."""
_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS media (digest TEXT PRIMARY KEY, content BLOB NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS votes (number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, prompt TEXT NOT NULL, "
    "a TEXT NOT NULL REFERENCES media, b TEXT NOT NULL REFERENCES media, choice TEXT NOT NULL, instruction TEXT, "
    "maker_of_a TEXT, maker_of_b TEXT, judge TEXT, judged REAL, cast_at REAL NOT NULL, "
    "withdrawn INTEGER NOT NULL DEFAULT 0) STRICT",
)


@dataclass(frozen=True)
class Vote:
    """One person's choice between two pictures or videos.

    Attributes:
        key: what tells this vote from every other one; a vote that is sent again has the same key.
        prompt: what both were made for.
        a: bytes of the file of the first, as it was shown (on the left).
        b: bytes of the file of the second.
        choice: "a", "b", "tie" or "both bad".
        instruction: name of the instruction to judge by; None for an overall choice.
        maker_of_a: what made a: a model, or a way to use one.
        maker_of_b: what made b.
        judge: name of the judge that was asked as well.
        judged: the probability, in [0, 1], that a is better, by that judge.

    Raises:
        DataError: no key, a choice that is none, or what :class:`Preference` refuses.
    """

    key: str
    prompt: str
    a: bytes
    b: bytes
    choice: Ballot
    instruction: str | None = None
    maker_of_a: str | None = None
    maker_of_b: str | None = None
    judge: str | None = None
    judged: float | None = None

    def __post_init__(self) -> None:
        if not self.key.strip():
            raise DataError("a vote needs a key of its own, by which it is known when it is sent again")
        if self.choice not in BALLOTS:
            raise DataError(f"the choice {self.choice!r} is not one of {', '.join(map(repr, BALLOTS))}")
        self.as_preference()

    def as_preference(self) -> Preference:
        """The vote as a record to train on and measure by. Of two that are both bad neither is better: a tie."""
        choice: Choice = "tie" if self.choice == "both bad" else self.choice
        source = Source("votes", self.key)
        return Preference(self.prompt, self.a, self.b, choice, instruction=self.instruction, source=source)


_COLUMNS: Final = tuple(item.name for item in fields(Vote))


class VoteStore:
    """Votes in an SQLite file, for any number of threads and processes at a time.

    The file is in WAL mode and fully synchronised, so that what was added is there after a crash of the process or the
    machine. Pictures lie in it once each, by their SHA-256.

    Example:
        >>> votes = VoteStore("votes.sqlite")
        >>> votes.add(Vote("3f2a", "a red star", left, right, "a"))
        True
        >>> write("votes.jsonl", votes.preferences())
    """

    def __init__(self, path: str | Path) -> None:
        """Open a file of votes; it is made if it is not there.

        Raises:
            DataError: it cannot be written, or is no file of votes.
        """
        self.path = Path(path)
        with self._connected() as database:
            database.execute("PRAGMA journal_mode = WAL")
            for table in _TABLES:
                database.execute(table)

    def add(self, vote: Vote) -> bool:
        """Keep a vote.

        Returns:
            Whether it is new. A vote whose key is there already changes nothing, and a withdrawn one stays withdrawn.

        Raises:
            DataError: it could not be kept.
        """
        digests = {name: hashlib.sha256(getattr(vote, name)).hexdigest() for name in ("a", "b")}
        values = {name: getattr(vote, name) for name in _COLUMNS} | digests | {"cast_at": time.time()}
        columns, places = ", ".join(values), ", ".join(f":{name}" for name in values)
        insertion = f"INSERT INTO votes ({columns}) VALUES ({places}) ON CONFLICT (key) DO NOTHING"
        with self._connected() as database:
            database.execute("BEGIN IMMEDIATE")
            for name, digest in digests.items():
                database.execute("INSERT OR IGNORE INTO media VALUES (?, ?)", (digest, getattr(vote, name)))
            done = database.execute(insertion, values)
            database.execute("COMMIT")
            return done.rowcount == 1

    def withdraw(self, key: str) -> bool:
        """Have a vote count no longer. Returns whether it counted until now."""
        with self._connected() as database:
            done = database.execute("UPDATE votes SET withdrawn = 1 WHERE key = ? AND NOT withdrawn", (key,))
            return done.rowcount == 1

    def __len__(self) -> int:
        with self._connected() as database:
            return int(database.execute("SELECT count(*) FROM votes WHERE NOT withdrawn").fetchone()[0])

    def __iter__(self) -> Iterator[Vote]:
        """The votes that count, in the order in which they came."""
        columns = ", ".join(f"{name}.content" if name in ("a", "b") else f"votes.{name}" for name in _COLUMNS)
        media = "JOIN media AS a ON a.digest = votes.a JOIN media AS b ON b.digest = votes.b"
        with self._connected() as database:
            for row in database.execute(f"SELECT {columns} FROM votes {media} WHERE NOT withdrawn ORDER BY number"):
                yield Vote(*row)

    def outcomes(self) -> list[Outcome]:
        """The votes that count with no pictures: all that tables and figures are made of."""
        names = ", ".join(item.name for item in fields(Outcome))
        with self._connected() as database:
            return [Outcome(*row) for row in database.execute(f"SELECT {names} FROM votes WHERE NOT withdrawn")]

    def preferences(self) -> Iterator[Preference]:
        """The votes that count as records for :func:`~diffusers_ext.data.write`, a record each; `merge` counts them."""
        return (vote.as_preference() for vote in self)

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # A connection for each thing that is done: it costs a fraction of a millisecond, and threads share none.
            with closing(sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None)) as database:
                database.execute("PRAGMA synchronous = FULL")
                yield database
        except (sqlite3.Error, OSError) as error:
            raise DataError(f"{self.path}: {_told(error)}") from error


@dataclass(frozen=True)
class Outcome:
    """What came of a pair; see :class:`Vote`."""

    choice: Ballot
    maker_of_a: str | None
    maker_of_b: str | None
    judge: str | None
    judged: float | None


def _told(error: Exception) -> str:
    message = str(error)
    if "locked" in message:
        return f"another program has been writing to it for over {_PATIENCE:g} seconds; nothing was kept, try again"
    if "readonly" in message or "unable to open" in message:
        return f"cannot be written ({message}); name a file in a folder that can be"
    if "not a database" in message or "malformed" in message:
        return f"is no file of votes, or is damaged ({message}); name another"
    return f"the votes could not be read or written ({message})"
