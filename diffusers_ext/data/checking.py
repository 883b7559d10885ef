"""Look a file of preferences over: what is in it, what is wrong with it, and what a user should know about it."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from .media import MediaFolder, complaints
from .merging import Question, question_of
from .problems import Problem
from .prompts import normalized
from .reading import numbered
from .records import CHOICES

_LONG_PROMPT: Final = 2000
_ONE_SIDED: Final = 0.9
_FEW: Final = 20


@dataclass(frozen=True)
class Report:
    """What :func:`check` finds.

    Attributes:
        records: how many rows are well formed and have their media.
        choices: how many of them say a, b and tie.
        prompts: how many different prompts they have.
        media: how many different media, by content.
        questions: how many different questions; see :func:`diffusers_ext.data.merge`.
        conflicts: how many of those have votes that disagree.
        criteria: how many records have each of the criteria.
        datasets: how many records come from each data set.
        notices: what is allowed, but should be known.
        problems: what is wrong with the other rows.
    """

    records: int
    choices: dict[str, int]
    prompts: int
    media: int
    questions: int
    conflicts: int
    criteria: dict[str, int]
    datasets: dict[str, int]
    notices: tuple[str, ...]
    problems: tuple[Problem, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def check(path: str | Path, need_media: bool = True) -> Report:
    """Look over a file of preferences.

    Args:
        path: a JSONL or parquet file.
        need_media: count a medium that is not there as a problem of its row.

    Raises:
        DataError: the file cannot be read.
    """
    path = Path(path)
    media = MediaFolder(path.parent)
    problems: list[Problem] = []
    choices: Counter[str] = Counter()
    prompts: set[str] = set()
    digests: set[str] = set()
    criteria: Counter[str] = Counter()
    datasets: Counter[str] = Counter()
    verdicts: dict[Question, set[int]] = {}
    same = longest = 0
    for number, record in numbered(path):
        if isinstance(record, Problem):
            problems.append(record)
            continue
        found = complaints(record, media) if need_media else []
        missing = [Problem(path.name, number, *complaint) for complaint in found]
        problems += missing
        if missing:
            continue
        choices[record.choice] += 1
        prompts.add(normalized(record.prompt))
        longest = max(longest, len(record.prompt))
        first, second = media.digest(record.a), media.digest(record.b)
        digests |= {media.digest(medium) for medium in record.media.values()}
        same += first == second
        criteria.update(record.criteria)
        if record.source:
            datasets[record.source.dataset] += 1
        in_order = 1 if first <= second else -1
        verdict = {"a": in_order, "b": -in_order, "tie": 0}[record.choice]
        verdicts.setdefault(question_of(record, media), set()).add(verdict)
    records = choices.total()
    conflicts = sum(len(found) > 1 for found in verdicts.values())
    return Report(
        records,
        {choice: choices[choice] for choice in CHOICES},
        len(prompts),
        len(digests),
        len(verdicts),
        conflicts,
        dict(criteria),
        dict(datasets),
        tuple(_notices(records, choices, len(verdicts), conflicts, same, longest)),
        tuple(problems),
    )


def _notices(records: int, choices: Counter[str], questions: int, conflicts: int, same: int, longest: int) -> list[str]:
    if not records:
        return ["there are no records that can be used"]
    notices = []
    if choices["tie"] == records:
        notices.append("every record is a tie, so there is nothing to learn or to measure a preference by")
    decided = records - choices["tie"]
    for choice in ("a", "b"):
        if decided >= _FEW and choices[choice] >= _ONE_SIDED * decided:
            share = choices[choice] / decided
            notices.append(
                f"{choice} is the better one in {share:.0%} of the records that choose; a judge could win by place "
                "alone, so swap them in training, and ask both orders in evaluation"
            )
    if records > questions:
        told = f", {conflicts} of them with votes that disagree" if conflicts else ""
        notices.append(f"{records} records answer {questions} questions{told}; merge them to have one for each")
    if same:
        notices.append(f"{same} records compare a picture with a copy of itself")
    if longest > _LONG_PROMPT:
        notices.append(f"the longest prompt has {longest:,} characters; a judge may have to cut it")
    return notices
