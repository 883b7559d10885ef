from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preference_samples import png

from diffusers_ext.data import MediaFolder, Preference, Source, check, merge, write

VOTES = st.lists(
    st.tuples(st.sampled_from(["a", "b", "tie"]), st.none() | st.integers(1, 8), st.booleans()), min_size=1, max_size=7
)


def voted(choice, eighths, swap):
    strength = None if eighths is None or choice == "tie" else eighths / 8
    record = Preference("p", "1.png", "2.png", choice, strength)
    return record.swapped() if swap else record


def exact(votes):
    values = [
        {"a": 1, "b": -1, "tie": 0}[choice] * (Fraction(1) if eighths is None else Fraction(eighths, 8))
        for choice, eighths, _ in votes
    ]
    return Fraction(sum(values), len(values))


@given(VOTES)
@settings(deadline=None)
def test_the_mean_of_the_votes_decides(tmp_path_factory, votes):
    media = MediaFolder(tmp_path_factory.getbasetemp())
    records = [voted(*vote) for vote in votes]
    (found,) = merge(records, media)
    assert (found.a, found.b) == (records[0].a, records[0].b)
    mean = exact(votes)
    if found.a != "1.png":
        found = found.swapped()
    assert found.choice == ("a" if mean > 0 else "b" if mean < 0 else "tie")
    if len({choice for choice, _, _ in votes}) > 1 and mean:
        assert found.strength == pytest.approx(float(abs(mean)))
    elif mean:
        known = [eighths / 8 for _, eighths, _ in votes if eighths is not None]
        assert found.strength == (pytest.approx(sum(known) / len(known)) if known else None)
    else:
        assert not found.strength


@given(VOTES, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_neither_order_nor_swaps_nor_merging_again_change_the_verdict(tmp_path_factory, votes, random):
    media = MediaFolder(tmp_path_factory.getbasetemp())
    records = [voted(*vote) for vote in votes]
    (first,) = merge(records, media)
    assert list(merge([first], media)) == [first]
    random.shuffle(records)
    (second,) = merge([record.swapped() if random.random() < 0.5 else record for record in records], media)
    second = second if second.a == first.a else second.swapped()
    assert second.choice == first.choice
    assert second.strength == pytest.approx(first.strength)


def test_pictures_are_the_same_by_content_in_any_form(tmp_path, pictures_in):
    pictures_in(tmp_path, "1.png", "2.png", "3.png")
    (tmp_path / "copy.png").write_bytes(png(0))
    records = [
        Preference("A  red star", "1.png", "2.png", "a", source=Source("x", "1")),
        Preference("a red STAR", "2.png", "copy.png", "b"),
        Preference("a red star", png(0), png(1), "b"),
        Preference("a red star", "1.png", "3.png", "b"),
        Preference("a red star", "1.png", "2.png", "a", criteria=("alignment",)),
        Preference("a red star", "1.png", "2.png", "a", instruction="overall"),
        Preference("a blue star", "1.png", "2.png", "a"),
    ]
    found = list(merge(records, MediaFolder(tmp_path)))
    assert len(found) == 5
    assert (found[0].prompt, found[0].choice, found[0].source) == ("A  red star", "a", Source("x", "1"))
    assert found[0].strength == pytest.approx(1 / 3)
    assert found[1:] == records[3:]


def test_folders_of_frames_are_the_same_by_content(tmp_path, pictures_in):
    for video in ("1", "2", "1 again"):
        pictures_in(tmp_path / video, *(["0.png", "1.png", "2.png"] if video != "2" else ["0.png", "1.png"]))
    media = MediaFolder(tmp_path)
    assert media.digest("1") == media.digest("1 again") != media.digest("2")
    assert media.complaint("1") is None
    (tmp_path / "none").mkdir()
    assert "empty folder" in media.complaint("none")


def test_margins_and_rationales_follow_the_votes():
    media = MediaFolder("nowhere")
    a = Preference("p", "1", "2", "a", margin=3.0, rationale="1 is redder")
    b = Preference("p", "2", "1", "a", margin=1.0, rationale="2 is rounder")
    tie = Preference("p", "1", "2", "tie", rationale="alike")
    (found,) = merge([a, a, b], media)
    assert (found.choice, found.margin, found.rationale) == ("a", pytest.approx(5 / 3), "1 is redder")
    (found,) = merge([b, a, a], media)
    # The reasons for 1 were written with 1 in front, so they are not kept where 2 is.
    assert (found.choice, found.a, found.margin, found.rationale) == ("b", "2", pytest.approx(5 / 3), None)
    (found,) = merge([a, b, tie], media)
    assert (found.choice, found.strength, found.margin, found.rationale) == ("tie", None, None, "alike")
    (found,) = merge([a, Preference("p", "1", "2", "a")], media)
    assert found.margin is None


def test_check_counts_what_merging_would_settle(tmp_path, pictures_in):
    pictures_in(tmp_path, "1.png", "2.png", "3.png")
    records = [
        Preference("p", "1.png", "2.png", "a"),
        Preference("P", "2.png", "1.png", "b"),
        Preference("p", "1.png", "3.png", "a"),
        Preference("p", "3.png", "1.png", "a"),
        Preference("q", "1.png", "2.png", "tie"),
    ]
    write(tmp_path / "x.jsonl", records)
    report = check(tmp_path / "x.jsonl")
    assert (report.records, report.questions, report.conflicts, report.prompts, report.media) == (5, 3, 1, 2, 3)
    assert len(list(merge(records, MediaFolder(tmp_path)))) == report.questions
