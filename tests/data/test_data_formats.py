from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from preference_samples import png

from diffusers_ext.data import FORMATS, DataError, Preference, Problem, convert, load
from diffusers_ext.data.formats import get_format
from diffusers_ext.data.formats.hpdv3 import read_hpdv3
from diffusers_ext.data.formats.videofeedback import read_videofeedback_ratings
from diffusers_ext.rewards.instructions import PRESETS

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def image(number):
    return {"bytes": png(number), "path": f"{number}.png"}


def parquet(file, columns, **types):
    file.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([(name, types.get(name) or pa.array(values).type) for name, values in columns.items()])
    pq.write_table(pa.table(columns, schema=schema), file)
    return file


def found(name, source):
    items = list(FORMATS[name](Path(source)))
    records = [item for item in items if isinstance(item, Preference)]
    problems = [item for item in items if isinstance(item, Problem)]
    for record in records:
        assert record.instruction is None or record.instruction in PRESETS
    return records, problems


def verdicts(records):
    return [(record.a, record.b, record.choice) for record in records]


def test_hpdv2_training_pairs(tmp_path):
    rows = [
        {"human_preference": [1, 0], "prompt": "a fox", "file_path": ["000001.jpg", "000002.jpg"]},
        {"human_preference": [0, 1], "prompt": "a dog", "file_path": ["000003.jpg", "000004.jpg"]},
        {"human_preference": [1, 1], "prompt": "a cat", "file_path": ["000005.jpg", "000006.jpg"]},
        {"human_preference": [1], "prompt": "a cat", "file_path": ["000005.jpg", "000006.jpg"]},
        {"human_preference": [1, 0], "prompt": " ", "file_path": ["000005.jpg", "000006.jpg"]},
        {"human_preference": [0, 1, 0], "prompt": "a cow", "file_path": ["000007.jpg", "000008.jpg", "000009.jpg"]},
    ]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    records, problems = found("hpdv2", tmp_path)
    assert verdicts(records) == [
        ("train/000001.jpg", "train/000002.jpg", "a"),
        ("train/000003.jpg", "train/000004.jpg", "b"),
        ("train/000005.jpg", "train/000006.jpg", "tie"),
        ("train/000007.jpg", "train/000008.jpg", "b"),
        ("train/000008.jpg", "train/000009.jpg", "a"),
    ]
    assert (records[0].source.dataset, records[0].source.row, records[0].source.license) == (
        "HPDv2",
        "train:1",
        "Apache-2.0",
    )
    assert [(item.row, item.field) for item in problems] == [(4, "human_preference"), (5, "prompt")]


def test_hpdv2_rankings(tmp_path):
    ballots = [[1, 2, 3], [1, 3, 2], [2, 1, 3], [3, 1, 2]]
    row = {
        "prompt": "a fox",
        "image_path": ["0.jpg", "1.jpg", "2.jpg"],
        "rank": [2, 1, 3],
        "raw_annotations": [{"rank": rank, "user_hash": "x"} for rank in ballots],
    }
    (tmp_path / "test").mkdir()
    (tmp_path / "test.json").write_text(json.dumps([row, {**row, "rank": [1, 1]}, {**row, "raw_annotations": None}]))
    records, problems = found("hpdv2", tmp_path)
    assert len(records) == 6
    assert [(item.row, item.field) for item in problems] == [(2, "rank")]
    for record, (i, j) in zip(records, itertools.combinations(range(3), 2), strict=False):
        assert (record.a, record.b) == (f"test/{i}.jpg", f"test/{j}.jpg")
        assert record.choice == ("a" if row["rank"][i] < row["rank"][j] else "b")
        assert record.margin == abs(row["rank"][i] - row["rank"][j])
        votes = sum(1 if rank[i] < rank[j] else -1 for rank in ballots) / len(ballots)
        agrees = votes * (1 if record.choice == "a" else -1) > 0
        assert record.strength == (abs(votes) if agrees else None)
    assert [record.strength for record in records[3:]] == [None] * 3


def test_hpdv3(tmp_path):
    base = {"prompt": "a fox", "path1": "images/1.jpg", "path2": "images/2.jpg", "model1": "flux", "model2": "infinity"}
    rows = [
        {**base, "choice_dist": [12, 7], "confidence": 0.9999},
        {**base, "choice_dist": None, "confidence": None},
        {**base, "choice_dist": [3, 9], "confidence": 0.6},
        {**base, "path2": None},
    ]
    (tmp_path / "all.json").write_text(json.dumps(rows * 5))
    (tmp_path / "train.json").write_text(json.dumps(rows))
    (tmp_path / "test.json").write_text(json.dumps([base]))
    records, problems = found("hpdv3", tmp_path)
    assert verdicts(records) == [("images/1.jpg", "images/2.jpg", "a")] * 4
    assert [record.strength for record in records] == [pytest.approx(5 / 19), None, None, None]
    assert [record.source.row for record in records] == ["train:1", "train:2", "train:3", "test:1"]
    assert [(item.file, item.row, item.field) for item in problems] == [("train.json", 4, "b")]
    sure = [item for item in read_hpdv3(tmp_path, 0.95) if isinstance(item, Preference)]
    assert [record.source.row for record in sure] == ["train:1", "train:2", "test:1"]
    (tmp_path / "train.json").unlink()
    assert len(found("hpdv3", tmp_path)[0]) == 16


def test_pickapic(tmp_path):
    columns = {
        "are_different": [True] * 5,
        "best_image_uid": ["x"] * 5,
        "caption": ["a fox", "a dog", "a cat", "a cow", "a hen"],
        "has_label": [True, True, True, False, True],
        "jpg_0": [png(number) for number in range(5)],
        "jpg_1": [png(number + 5) for number in range(5)],
        "label_0": [1.0, 0.0, 0.5, 0.0, 0.3],
        "label_1": [0.0, 1.0, 0.5, 0.0, 0.3],
        "ranking_id": [11, 12, 13, 14, 15],
    }
    parquet(tmp_path / "data" / "validation_unique-00000-of-00001.parquet", columns)
    records, problems = found("pickapic", tmp_path)
    assert verdicts(records) == [(png(0), png(5), "a"), (png(1), png(6), "b"), (png(2), png(7), "tie")]
    assert [record.source.row for record in records] == ["11", "12", "13"]
    assert [(item.row, item.field) for item in problems] == [(5, "label_0")]
    del columns["jpg_0"], columns["jpg_1"]
    parquet(tmp_path / "data" / "validation_unique-00000-of-00001.parquet", columns)
    with pytest.raises(DataError, match="has no column 'jpg_0'"):
        found("pickapic", tmp_path)


PICTURES = [
    {
        "image_path": f"images/test/test_1/{prompt}{n}.webp",
        "prompt_id": prompt,
        "prompt": f"about {prompt}",
        "rank": rank,
    }
    | {"classification": "x", "image_amount_in_total": 3, "overall_rating": 5, "fidelity_rating": 6}
    for prompt, ranks in (("p", [2, 1, 2]), ("q", [1, 2, 3]))
    for n, rank in enumerate(ranks)
]


def in_image_reward_order(records):
    assert [(record.choice, record.margin) for record in records] == [
        ("b", 1.0),
        ("tie", None),
        ("a", 1.0),
        ("a", 1.0),
        ("a", 2.0),
        ("a", 1.0),
    ]
    assert (records[0].a, records[0].b) == ("images/test/test_1/p0.webp", "images/test/test_1/p1.webp")
    assert {record.prompt for record in records} == {"about p", "about q"}


def test_imagerewarddb_metadata(tmp_path):
    table = {name: [row[name] for row in PICTURES] for name in PICTURES[0]}
    parquet(tmp_path / "metadata-test.parquet", table)
    records, problems = found("imagerewarddb", tmp_path)
    assert not problems
    in_image_reward_order(records)


def test_imagerewarddb_unpacked_zip_files(tmp_path):
    folder = tmp_path / "images" / "test" / "test_1"
    folder.mkdir(parents=True)
    (folder / "test_1.json").write_text(json.dumps([*PICTURES, {**PICTURES[0], "rank": None}, 3]))
    records, problems = found("imagerewarddb", tmp_path)
    in_image_reward_order(records)
    assert [(item.row, item.field) for item in problems] == [(7, "rank"), (8, "row")]


def test_imagereward_test_file(tmp_path):
    rows = [
        {
            "id": "005658-0040",
            "prompt": "a fox",
            "generations": ["x/1.webp", "x/2.webp", "x/3.webp"],
            "ranking": [1, 5, 3],
        },
        {"id": "005658-0041", "prompt": "a fox", "generations": ["x/1.webp", "x/2.webp"], "ranking": [1]},
    ]
    (tmp_path / "test.json").write_text(json.dumps(rows))
    records, problems = found("imagerewarddb", tmp_path / "test.json")
    assert [(record.choice, record.margin) for record in records] == [("a", 4.0), ("a", 2.0), ("b", 2.0)]
    assert records[2].source.row == "005658-0040:1-2"
    assert [(item.row, item.field) for item in problems] == [(2, "ranking")]


def test_genai_bench(tmp_path):
    votes = ["leftvote", "rightvote", "tievote", "bothbad_vote", "upvote"]
    images = {
        "prompt": ["a fox"] * 5,
        "left_model": ["x"] * 5,
        "left_image": [image(number) for number in range(5)],
        "right_model": ["y"] * 5,
        "right_image": [image(number + 5) for number in range(5)],
        "vote_type": votes,
    }
    parquet(tmp_path / "image_generation" / "test-00000-of-00001.parquet", images, left_image=IMAGE, right_image=IMAGE)
    records, problems = found("genai-bench", tmp_path)
    assert [record.choice for record in records] == ["a", "b", "tie", "tie"]
    assert (records[0].a, records[0].b, records[0].instruction) == (png(0), png(5), "overall")
    assert [(item.row, item.field) for item in problems] == [(5, "vote_type")]

    address = "https://huggingface.co/datasets/tianleliphoebe/genai-arena-video-mp4/blob/main/dir"
    videos = {
        "prompt": ["a fox runs"],
        "left_model": ["x"],
        "left_video": [f"{address}/left.mp4"],
        "right_model": ["y"],
        "right_video": [f"{address}/right.mp4"],
        "vote_type": ["rightvote"],
    }
    (tmp_path / "fetched").mkdir()
    (tmp_path / "fetched" / "left.mp4").write_bytes(b"video")
    parquet(tmp_path / "video_generation" / "test_v1-00000-of-00001.parquet", videos)
    parquet(tmp_path / "video_generation" / "test-00000-of-00001.parquet", videos)
    edits = {"source_image": [image(0)], "vote_type": ["leftvote"]}
    parquet(tmp_path / "image_edition" / "test-00000-of-00001.parquet", edits, source_image=IMAGE)
    records, problems = found("genai-bench", tmp_path)
    # A video that was not fetched keeps its name, which is not there.
    assert verdicts(records[4:]) == [("fetched/left.mp4", "right.mp4", "b")]
    assert records[4].instruction == "video-overall"
    assert [(item.row, item.field) for item in problems] == [(None, "source_image"), (5, "vote_type")]
    only = tmp_path / "video_generation" / "test-00000-of-00001.parquet"
    assert len(found("genai-bench", only)[0]) == 1


@pytest.mark.parametrize("today", [False, True])
def test_mj_bench(tmp_path, today):
    columns = {
        "caption": ["a fox", "a dog", "a cat"],
        "image0": [image(0), image(1), image(2)],
        "image1": [image(3), image(4), image(5)],
        "label": [0, 1, 7],
        **({"category": ["Quality"] * 3, "subcategory": ["light"] * 3} if today else {"info": [""] * 3}),
    }
    parquet(tmp_path / "data" / "alignment.parquet", columns, image0=IMAGE, image1=IMAGE)
    parquet(tmp_path / "data" / "bias.parquet", {"caption": ["x"], "image": [image(0)]}, image=IMAGE)
    records, problems = found("mj-bench", tmp_path)
    assert verdicts(records) == [(png(0), png(3), "a"), (png(1), png(4), "b")]
    assert {record.criteria for record in records} == {("quality",) if today else ("alignment",)}
    assert [(item.file, item.row, item.field) for item in problems] == [
        ("alignment.parquet", 3, "label"),
        ("bias.parquet", None, "file"),
    ]


ASPECTS = ("visual quality", "temporal consistency", "dynamic degree", "text-to-video alignment", "factual consistency")


def test_videofeedback(tmp_path):
    scores = [[3, 1, 2, 4, 1], [2, 1, 4, 3, 1], [1, 1, 1, 1, 9]]
    columns = {
        "id": ["6000001", "p000002", "6000003"],
        "images": [[f"{name}_{frame:02d}.jpg" for frame in range(3)] for name in ("6000001", "p000002", "6000003")],
        "text prompt": ["a fox runs", "a fox runs", "a dog"],
        "video link": [
            f"https://huggingface.co/datasets/x/resolve/main/{n}.mp4" for n in ("6000001", "p/p000002", "3")
        ],
        **{aspect: [row[number] for row in scores] for number, aspect in enumerate(ASPECTS)},
        "conversations": [[{"from": "human", "value": "?"}]] * 3,
    }
    parquet(tmp_path / "annotated" / "train-00000-of-00001.parquet", columns)
    (tmp_path / "mp4" / "p").mkdir(parents=True)
    (tmp_path / "mp4" / "p" / "p000002.mp4").write_bytes(b"video")
    ratings = list(read_videofeedback_ratings(tmp_path))
    assert sum(isinstance(item, Problem) for item in ratings) == 1
    assert (ratings[0].medium, ratings[0].rating, ratings[0].criteria) == ("images/6000001", 3, ("visual quality",))
    records, problems = found("videofeedback", tmp_path)
    assert [(item.row, item.field) for item in problems] == [(3, "rating")]
    assert [(record.criteria[0], record.choice, record.margin, record.strength) for record in records] == [
        ("visual quality", "a", 1.0, pytest.approx(1 / 3)),
        ("dynamic degree", "b", 2.0, pytest.approx(2 / 3)),
        ("alignment", "a", 1.0, pytest.approx(1 / 3)),
    ]
    assert (records[0].a, records[0].b) == ("images/6000001", "mp4/p/p000002.mp4")
    assert records[2].instruction == "video-alignment"


def test_videogen_rewardbench(tmp_path):
    names = ["path_A", "path_B", "A_model", "B_model", "prompt", "VQ", "MQ", "TA", "Overall", "fps_A"]
    rows = [
        ["videos/x/1.mp4", "./videos/y/1.mp4", "x", "y", 'a "fox",\nrunning', "A", "B", "same", "A", "24.0"],
        ["videos/x/2.mp4", "videos/y/2.mp4", "x", "y", "a dog", "invalid", "C", "", "same", "24.0"],
        ["videos/x/3.mp4", "videos/x/3.mp4", "x", "y", "a dog", "A", "invalid", "invalid", "", "24.0"],
        ["videos/x/4.mp4", "videos/y/4.mp4", "x"],
    ]
    with (tmp_path / "videogen-rewardbench.csv").open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    records, problems = found("videogen-rewardbench", tmp_path)
    assert [(record.criteria, record.instruction, record.choice) for record in records] == [
        (("visual quality",), None, "a"),
        (("motion",), "video-motion", "b"),
        (("alignment",), "video-alignment", "tie"),
        ((), "video-overall", "a"),
        ((), "video-overall", "tie"),
    ]
    assert (records[0].a, records[0].b) == ("videos/x/1.mp4", "videos/y/1.mp4")
    assert records[0].prompt == 'a "fox",\nrunning'
    assert [(item.row, item.field) for item in problems] == [(2, "MQ"), (3, "b"), (4, "row")]
    (tmp_path / "videogen-rewardbench.csv").write_text("path_A,prompt\n")
    with pytest.raises(DataError, match="has no column 'path_B'"):
        found("videogen-rewardbench", tmp_path)


def test_ratings_of_your_own(tmp_path):
    lines = [
        '{"prompt": "a fox", "medium": "1.png", "rating": 4, "scale": [1, 5]}',
        '{"prompt": "a fox", "medium": "2.png", "rating": 1, "scale": [1, 5]}',
        '{"prompt": "a fox", "medium": "3.png", "rating": 8, "scale": [1, 5]}',
        "broken",
    ]
    (tmp_path / "mine.jsonl").write_text("\n".join(lines))
    records, problems = found("ratings", tmp_path / "mine.jsonl")
    assert [(record.choice, record.margin, record.strength) for record in records] == [("a", 3.0, 0.75)]
    assert [(item.row, item.field) for item in problems] == [(3, "rating"), (4, "row")]


@pytest.mark.parametrize("name", FORMATS)
def test_a_folder_of_something_else_is_refused(tmp_path, name):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(DataError):
        found(name, tmp_path)


def test_unknown_formats_are_refused():
    with pytest.raises(DataError, match="Did you mean 'hpdv2'"):
        get_format("hpd-v2")


@pytest.mark.parametrize(
    ("text", "kept", "complaint"),
    [
        ('[{"human_preference": [1, 0], "prompt": "p", "file_path": ["1", "2"]}, {"human_pref', 1, "nothing after it"),
        ('[{"human_preference": [1, 0], "prompt": "p", "file_path": ["1", "2"]} {}]', 1, "expected a comma"),
        ("[3]", 0, "is no object"),
    ],
)
def test_json_that_breaks_off_keeps_what_came_before(tmp_path, text, kept, complaint):
    (tmp_path / "train.json").write_text(text)
    records, problems = found("hpdv2", tmp_path)
    assert len(records) == kept
    assert complaint in problems[0].message


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe[", b"null"])
def test_json_that_is_no_array_is_refused(tmp_path, content):
    (tmp_path / "train.json").write_bytes(content)
    with pytest.raises(DataError, match=r"train.json"):
        found("hpdv2", tmp_path)


@pytest.mark.parametrize("layout", ["jsonl", "parquet"])
def test_converting_makes_paths_relative_to_the_new_file(tmp_path, layout, pictures_in):
    source = pictures_in(tmp_path / "hpd", "train/1.jpg", "train/2.jpg", "train/4.jpg")
    rows = [
        {"human_preference": [1, 0], "prompt": "a fox", "file_path": ["1.jpg", "2.jpg"]},
        {"human_preference": [1, 0], "prompt": "a dog", "file_path": ["3.jpg", "4.jpg"]},
        {"human_preference": [0, 1], "prompt": "A FOX", "file_path": ["1.jpg", "2.jpg"]},
    ]
    (source / "train.json").write_text(json.dumps(rows))
    out = tmp_path / "mine" / f"x.{layout}"
    done = convert(source, out, "hpdv2")
    assert done.records == 2
    (problem,) = done.problems
    assert (problem.file, problem.field) == ("hpd (train:2)", "a")
    assert "which is not there" in problem.message
    for record in load(out).records:
        assert (out.parent / record.a).read_bytes() == png(0)
        assert (out.parent / record.b).read_bytes() == png(1)
    assert convert(source, out, "hpdv2", need_media=False).records == 3
    assert convert(source, out, "hpdv2", merge_votes=True).records == 1
    (record,) = load(out).records
    assert record.choice == "tie"


def test_converting_can_embed_pictures(tmp_path, pictures_in):
    source = pictures_in(tmp_path / "hpd", "train/1.jpg", "train/2.jpg")
    (source / "train.json").write_text('[{"human_preference": [1, 0], "prompt": "p", "file_path": ["1.jpg", "2.jpg"]}]')
    convert(source / "train.json", tmp_path / "x.parquet", "hpdv2", embed_media=True)
    (record,) = load(tmp_path / "x.parquet").records
    assert (record.a, record.b) == (png(0), png(1))
    with pytest.raises(DataError, match="only a parquet file"):
        convert(source, tmp_path / "x.jsonl", "hpdv2", embed_media=True)


def test_files_from_outside_are_not_embedded(tmp_path, pictures_in):
    source = pictures_in(tmp_path / "hpd", "train/1.jpg", "train/2.jpg")
    (tmp_path / "secret").write_text("secret")
    (source / "train" / "link.jpg").symlink_to(tmp_path / "secret")
    names = [["1.jpg", "2.jpg"], ["1.jpg", "../../secret"], ["1.jpg", "link.jpg"], ["1.jpg", "lost.jpg"]]
    rows = [{"human_preference": [1, 0], "prompt": "p", "file_path": pair} for pair in names]
    (source / "train.json").write_text(json.dumps(rows))
    done = convert(source, tmp_path / "x.parquet", "hpdv2", need_media=False, embed_media=True)
    assert done.records == 1
    assert [item.file for item in done.problems] == ["hpd (train:2)", "hpd (train:3)", "hpd (train:4)"]
    assert b"secret" not in (tmp_path / "x.parquet").read_bytes()


def test_converting_nothing_leaves_the_old_file(tmp_path):
    (tmp_path / "x.jsonl").write_text("old")
    (tmp_path / "train.json").write_text("[]")
    with pytest.raises(DataError, match="no record that can be used"):
        convert(tmp_path, tmp_path / "x.jsonl", "hpdv2")
    rows = [{"human_preference": [1, 0], "prompt": "a fox", "file_path": ["1.jpg", "2.jpg"]}] * 3
    (tmp_path / "train.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match=r"the first of 6 problems: .*not there"):
        convert(tmp_path, tmp_path / "x.jsonl", "hpdv2")
    with pytest.raises(DataError, match="no such file or folder"):
        convert(tmp_path / "lost", tmp_path / "x.jsonl", "hpdv2")
    assert (tmp_path / "x.jsonl").read_text() == "old"


def test_the_document_lists_every_format_and_shows_a_record():
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    table = text.split("| format |")[1].split("\n\n")[0]
    assert [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")] == list(FORMATS)
    record = Preference.from_row(json.loads(text.split("```json")[1].split("```")[0]))
    assert None not in record.as_row().values()
