"""One record for every question: repeated votes are counted, and conflicting ones settled."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from .media import MediaFolder
from .prompts import normalized
from .records import Preference

Question: TypeAlias = tuple[str, tuple[str, str], tuple[str, ...], "str | None", "str | None"]
_EVEN: Final = 1e-9
"""Below it votes are even: sums of shares are not exact."""


def question_of(record: Preference, media: MediaFolder) -> Question:
    """What a record answers: the prompt (normalised), the two media by content in either order, and by what.

    Two records with different first frames ask different things.
    """
    first, second = sorted((media.digest(record.a), media.digest(record.b)))
    given = None if record.first_frame is None else media.digest(record.first_frame)
    return normalized(record.prompt), (first, second), record.criteria, record.instruction, given


@dataclass
class _Votes:
    """The votes on one question, as seen by its first record."""

    first: Preference
    digest_of_a: str
    strengths: list[float] = field(default_factory=list)
    margins: list[float | None] = field(default_factory=list)
    known: list[float] = field(default_factory=list)
    rationales: list[tuple[float, str]] = field(default_factory=list)


def merge(records: Iterable[Preference], media: MediaFolder) -> Iterator[Preference]:
    """Give every question one record: the first, with the verdict of all.

    A question is the prompt (normalised), the two media by content, in either order, the criteria, the instruction and
    the first frame.
    A vote counts with its strength, or as 1 where that is not known; a tie as 0. The mean over all votes, positive for
    a, decides: its sign is the choice, its size the strength, and where it is zero the verdict is a tie. If all agree,
    the strength is the mean of those that are known, or stays unknown. The margin is the mean of the signed margins, if
    every vote has one. The rationale is the first of a vote that agrees and sees the two in the same order.

    A merged record counts as one vote if it is merged again, so merge all there is at once.

    Args:
        records: all of them are held in memory but for repeated ones.
        media: where their media are.

    Yields:
        Records in the order in which the questions first came.
    """
    found: dict[Question, _Votes] = {}
    for record in records:
        question = question_of(record, media)
        digest = media.digest(record.a)
        votes = found.setdefault(question, _Votes(record, digest))
        _count(votes, record if digest == votes.digest_of_a else record.swapped())
    for votes in found.values():
        yield votes.first if len(votes.strengths) == 1 else _settled(votes)


def _count(votes: _Votes, record: Preference) -> None:
    signed = record.signed_strength
    votes.strengths.append(signed)
    if record.strength is not None:
        votes.known.append(record.strength)
    # A tie says that there is no margin, whether or not it was written down.
    margin = 0.0 if record.choice == "tie" else record.margin
    votes.margins.append(None if margin is None else math.copysign(margin, signed))
    if record.rationale:
        votes.rationales.append((signed, record.rationale))


def _settled(votes: _Votes) -> Preference:
    signed = votes.strengths
    mean = math.fsum(signed) / len(signed)
    if all(value == 0 for value in signed) or abs(mean) < _EVEN:
        agreeing = [text for value, text in votes.rationales if value == 0]
        return replace(
            votes.first, choice="tie", strength=None, margin=None, rationale=agreeing[0] if agreeing else None
        )
    agreeing = [text for value, text in votes.rationales if value * mean > 0]
    unanimous = all(value * mean > 0 for value in signed)
    known = votes.known
    strength = (math.fsum(known) / len(known) if known else None) if unanimous else min(abs(mean), 1.0)
    margins = [value for value in votes.margins if value is not None]
    margin = math.fsum(margins) / len(margins) if len(margins) == len(signed) else None
    return replace(
        votes.first,
        choice="a" if mean > 0 else "b",
        strength=strength,
        # Votes can lead one way and margins the other; then there is none to speak of.
        margin=abs(margin) if margin is not None and margin * mean >= 0 else None,
        rationale=agreeing[0] if agreeing else None,
    )
