"""Split a data set into train, validation and test, such that no prompt and no picture is in two of them."""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .layout import layout_of
from .media import MediaFolder, relocate
from .problems import DataError, Problem, sift
from .prompts import normalized
from .reading import read
from .records import Preference
from .writing import write

SPLITS: Final = ("train", "validation", "test")


@dataclass(frozen=True)
class Plan:
    """Which split each prompt goes to.

    Attributes:
        splits: the split of each prompt, by the prompt as :func:`normalized` gives it.
        groups: how many groups of prompts hold together, for they share pictures.
        largest: the number of records in the largest of them.
        records: how many records there are in all.
    """

    splits: Mapping[str, str]
    groups: int
    largest: int
    records: int

    def split_of(self, record: Preference) -> str:
        """The split of one of the records that the plan was made for."""
        return self.splits[normalized(record.prompt)]


@dataclass(frozen=True)
class Written:
    """What :func:`split_file` wrote.

    Attributes:
        counts: records in each split.
        plan: see :class:`Plan`.
        problems: rows left out, and why.
    """

    counts: dict[str, int]
    plan: Plan
    problems: tuple[Problem, ...]


def plan_splits(
    records: Iterable[Preference], media: MediaFolder, validation: float = 0.1, test: float = 0.1, seed: int = 0
) -> Plan:
    """Decide which split every prompt goes to; the rest is for training.

    Records that share a prompt (normalised) or a medium (by content) belong to one group, and so do those that are
    linked through others. A group goes, as a whole, where a hash of the seed and one of its prompts says. So the
    fractions are met on average, the same data give the same splits in whatever order they come, and what is added
    later moves nothing, unless it links groups that were apart: those must then come together, and one may move.

    Args:
        records: at least one.
        media: where their media are; a medium that is not there is known by its path alone.
        validation: the share of groups for validation, in [0, 1].
        test: the share of groups for test, in [0, 1].
        seed: another seed gives other splits.

    Raises:
        DataError: the shares are out of range, or add up to more than one.
    """
    if not (validation >= 0 and test >= 0 and validation + test <= 1):
        raise DataError(f"the shares {validation} and {test} must each be at least 0, and together at most 1")
    groups = _Groups()
    counts: Counter[str] = Counter()
    for record in records:
        prompt = normalized(record.prompt)
        counts[prompt] += 1
        for medium in record.media.values():
            groups.join(f"prompt {prompt}", f"medium {media.digest(medium)}")
    members: dict[str, list[str]] = {}
    for prompt in counts:
        members.setdefault(groups.find(f"prompt {prompt}"), []).append(prompt)
    splits: dict[str, str] = {}
    for prompts in members.values():
        # Of the group's prompts the one with the lowest hash speaks for it, whatever order they came in.
        split = _drawn(min(prompts, key=_rank), validation, test, seed)
        splits |= dict.fromkeys(prompts, split)
    largest = max((sum(counts[prompt] for prompt in prompts) for prompts in members.values()), default=0)
    return Plan(splits, len(members), largest, counts.total())


def _rank(prompt: str) -> bytes:
    return hashlib.sha256(prompt.encode()).digest()


def _drawn(prompt: str, validation: float, test: float, seed: int) -> str:
    drawn = int.from_bytes(hashlib.sha256(f"{seed} {prompt}".encode()).digest()[:8], "big") / 2**64
    if drawn < test:
        return "test"
    return "validation" if drawn < test + validation else "train"


class _Groups:
    """Disjoint sets of names."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}

    def find(self, name: str) -> str:
        """What stands for the set that a name is in."""
        root = name
        while (parent := self._parents.setdefault(root, root)) != root:
            root = parent
        while name != root:
            self._parents[name], name = root, self._parents[name]
        return root

    def join(self, first: str, second: str) -> None:
        self._parents[self.find(first)] = self.find(second)


def split_file(path: Path, out: Path, validation: float = 0.1, test: float = 0.1, seed: int = 0) -> Written:
    """Write `train`, `validation` and `test`, in the layout of the file, to a new folder: all of them or nothing.

    The file is read once to plan (see :func:`plan_splits`) and once for each split, so it need not fit into memory.
    Media are not copied; their paths are made relative to the new folder.

    Raises:
        DataError: the file cannot be read or holds no good row, or the folder holds something already.
    """
    layout_of(path)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: holds something already; choose a new folder")
    problems: list[Problem] = []
    plan = plan_splits(sift(read(path), problems), MediaFolder(path.parent), validation, test, seed)
    if not plan.records:
        raise DataError(f"{path}: holds no record that can be used" + (f"; {problems[0]}" if problems else ""))
    old, new = path.resolve().parent, out.resolve()
    partial = out.with_name(f".{out.name}.{secrets.token_hex(4)}.partial")
    try:
        counts = {}
        for split in SPLITS:
            kept = (record for record in sift(read(path), []) if plan.split_of(record) == split)
            moved = (relocate(record, old, new) for record in kept)
            counts[split] = write(partial / f"{split}{path.suffix}", moved)
        if out.exists():
            out.rmdir()
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Written(counts, plan, tuple(problems))
