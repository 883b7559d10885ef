"""What holds for the repository as a whole."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_no_two_files_of_tests_have_one_name():
    # pytest takes them for one module where they are collected together, and then runs none.
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
