"""A voter's way through the arena: the pair that is shown, those voted on, and back again."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from diffusers_ext.data import DataError, write
from diffusers_ext.data.votes import BALLOTS, Ballot, Outcome, VoteStore
from diffusers_ext.evaluation.arena import agreements, standings

from .pairing import Pair
from .telling import say, text

_REMEMBERED: Final = 20
"""How many votes can be undone, one after the other."""
NAMES: Final[dict[Ballot, str]] = {"a": "left", "b": "right", "tie": "tie", "both bad": "both bad"}


@dataclass
class Voter:
    """One visitor.

    Attributes:
        pair: what is shown and not voted on yet.
        cast: the last pairs voted on.
    """

    pair: Pair | None = None
    cast: list[Pair] = field(default_factory=list)

    def vote(self, store: VoteStore, key: str, choice: Ballot) -> Pair:
        """Vote on the pair that is shown.

        Args:
            store: where votes are kept.
            key: of the pair that the voter saw; a click that comes late must not count for the next one.
            choice: for left ("a") or right ("b"), or neither.

        Returns:
            The pair voted on.

        Raises:
            DataError: it is not that pair which is shown, or the vote could not be kept.
        """
        if choice not in BALLOTS:
            raise DataError(f"the choice {choice!r} is not one of {', '.join(map(repr, BALLOTS))}")
        for earlier in self.cast:
            if earlier.key == key:
                return earlier  # a second click, or a request sent again: it has been counted
        pair = self.pair
        if pair is None or pair.key != key:
            raise DataError("that pair is not shown any more; vote on the one that is, or ask for another")
        store.add(pair.vote(choice))
        self.pair = None
        self.cast = [*self.cast[1 - _REMEMBERED :], pair]
        return pair

    def undo(self, store: VoteStore) -> Pair:
        """Take the last vote back, and show its pair again.

        Raises:
            DataError: there is none, or it could not be taken back.
        """
        if not self.cast:
            raise DataError("there is no vote of yours to undo")
        store.withdraw(self.cast[-1].key)
        self.pair = self.cast.pop().again()
        return self.pair


def revealed(pair: Pair, choice: Ballot) -> str:
    """What a voter learns once the vote is cast, as HTML."""
    side, sure = ("left", pair.judged) if pair.judged > 0.5 else ("right", 1 - pair.judged)
    return say(
        f"You chose {NAMES[choice]}. Left was {pair.maker_of_left}; right was {pair.maker_of_right}. "
        f"{pair.judge} prefers the {side} one ({100 * sure:.0f}%)."
    )


def table(outcomes: Sequence[Outcome]) -> str:
    """The standings, and how often the judge agrees, as HTML."""
    if not outcomes:
        return say("No votes yet.")
    rows = "".join(
        f'<tr><td class="rd-place">{place}</td>'
        f"<td>{text(item.maker)}</td><td>{item.elo:.0f}</td>"
        f"<td>{item.low:.0f} to {item.high:.0f}</td><td>{item.votes}</td></tr>"
        for place, item in enumerate(standings(outcomes), start=1)
    )
    head = "".join(f"<th>{name}</th>" for name in ("", "maker", "Elo", "95% interval", "votes"))
    said = "".join(
        say(
            f"{item.judge} agrees with {item.agreed} of {item.votes} votes that are no ties: {100 * item.share:.0f}% "
            f"(95% interval {100 * item.interval[0]:.0f}% to {100 * item.interval[1]:.0f}%)."
        )
        for item in agreements(outcomes)
    )
    return (
        f'<div class="rd-result"><div class="rd-scroll"><table class="rd-table"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{said}{say(f'{len(outcomes)} votes in all.')}</div>"
    )


def export(store: VoteStore, folder: Path) -> Path:
    """All votes as preference records: a ZIP with `votes.jsonl` and its pictures, to be unpacked and read.

    Raises:
        DataError: there are none, or they cannot be read.
    """
    if not len(store):
        raise DataError("there are no votes to export yet")
    archive = folder / "votes.zip"
    with tempfile.TemporaryDirectory(dir=folder) as name:
        root = Path(name)
        write(root / "votes.jsonl", store.preferences())
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
            for file in sorted(root.rglob("*")):
                if file.is_file():
                    out.write(file, file.relative_to(root).as_posix())
    return archive
