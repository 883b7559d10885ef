from __future__ import annotations

import pytest
from preference_samples import png

from diffusers_ext.data import (
    MediaFolder,
    Preference,
    Rating,
    check,
    load,
    locate,
    merge,
    pairs_from_ratings,
    plan_splits,
    split_file,
    write,
)


def begun(prompt="a fox runs", frame="frames/fox.png", clips=("clips/1.mp4", "clips/2.mp4"), choice="a"):
    return Preference(prompt, *clips, choice, instruction="i2v-overall", first_frame=frame)


@pytest.fixture
def folder(tmp_path, pictures_in):
    return pictures_in(tmp_path, "frames/fox.png", "frames/dog.png", "clips/1.mp4", "clips/2.mp4", "clips/3.mp4")


@pytest.mark.parametrize("layout", ["jsonl", "parquet"])
def test_files_keep_them_and_a_split_keeps_them_in_reach(folder, layout):
    file = folder / f"all.{layout}"
    write(file, [begun(), begun(frame=None), begun("another", "frames/dog.png")])
    assert [record.first_frame for record in load(file).records] == ["frames/fox.png", None, "frames/dog.png"]
    split_file(file, folder / "splits", 0.0, 0.0)
    (items, problems) = locate([folder / "splits" / f"train.{layout}"])
    assert problems == [] and items[1].given() is None
    assert items[0].given().read_bytes() == (folder / "frames/fox.png").read_bytes()


def test_one_that_is_not_there_or_no_picture_is_named(folder):
    write(folder / "all.jsonl", [begun(), begun(frame="frames/lost.png"), begun(frame="frames")])
    found = check(folder / "all.jsonl")
    assert [(item.row, item.field) for item in found.problems] == [(2, "first_frame"), (3, "first_frame")]
    assert "not there" in found.problems[0].message and "one picture" in found.problems[1].message
    assert found.media == 3 and len(locate([folder / "all.jsonl"])[0]) == 1


def test_bytes_go_into_files_beside_jsonl(folder):
    write(folder / "all.jsonl", [begun(frame=png(7))])
    (record,) = load(folder / "all.jsonl").records
    assert (folder / record.first_frame).read_bytes() == png(7)


def test_another_first_frame_is_another_question_and_the_same_one_is_known_by_content(folder):
    (folder / "copy.png").write_bytes((folder / "frames/fox.png").read_bytes())
    records = [begun(), begun(frame="copy.png"), begun(frame="frames/dog.png", choice="b"), begun(frame=None)]
    assert len(list(merge(records, MediaFolder(folder)))) == 3


def test_records_that_share_one_are_not_split(folder):
    one = begun("a fox runs")
    other = begun("a fox sleeps", clips=("clips/2.mp4", "clips/3.mp4"))
    apart = begun("a dog sleeps", "frames/dog.png", ("x/4.mp4", "x/5.mp4"))
    assert plan_splits([one, other, apart], MediaFolder(folder)).groups == 2
    alone = begun("a fox sleeps", clips=("x/4.mp4", "x/5.mp4"))
    assert plan_splits([one, alone], MediaFolder(folder)).groups == 1, "linked by the frame alone"


def test_ratings_are_compared_where_they_began_alike():
    rated = [Rating("a fox", f"{n}.mp4", float(n), first_frame=frame) for n, frame in ((1, "x.png"), (2, "x.png"))]
    rated.append(Rating("a fox", "3.mp4", 3.0, first_frame="y.png"))
    (pair,) = pairs_from_ratings(rated)
    assert (pair.first_frame, pair.choice, pair.b) == ("x.png", "b", "2.mp4")
