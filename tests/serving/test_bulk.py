from __future__ import annotations

import io
import json
import tarfile

import pytest

pytest.importorskip("ray.data", reason="needs Ray Data (pip install 'ray[data]')")

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray_clusters import ray_cluster

from diffusers_ext.rewards.errors import ModelError
from diffusers_ext.serving.bulk import Columns, DatasetError, Shard, _read_shard, plan, rows, score_dataset
from diffusers_ext.serving.judging import told_by_worker

PROMPTS = ["a red star", "a blue circle", "two squares", "a cross", "three stars", "a cat"]


def png(image):
    found = io.BytesIO()
    image.save(found, "PNG")
    return found.getvalue()


@pytest.fixture
def parquet(tmp_path, pictures):
    images = [png(image) for image in pictures]
    images[4] = images[4][:2000]
    source = tmp_path / "in.parquet"
    table = {"id": list(range(6)), "image": images, "prompt": [*PROMPTS[:2], None, *PROMPTS[3:]]}
    pq.write_table(pa.table(table), source, row_group_size=2)
    return source


def tar_of(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_row_groups_of_parquet_are_shards(parquet):
    shards = plan(parquet, Columns())
    assert shards == [Shard(str(parquet), part) for part in range(3)]
    found = [row for shard in shards for row in rows(shard, Columns())]
    assert [row["prompt"] for row in found] == [*PROMPTS[:2], None, *PROMPTS[3:]]
    assert [row["problem"] for row in found] == [None, None, "the prompt is no text", None, None, None]


def test_pictures_in_parquet_may_be_records_or_paths(tmp_path, pictures):
    pictures[0].save(tmp_path / "a.png")
    for images in (
        [{"bytes": png(pictures[0]), "path": None}, {"bytes": None, "path": "a.png"}],
        ["a.png", str(tmp_path / "a.png")],
    ):
        source = tmp_path / "in.parquet"
        pq.write_table(pa.table({"picture": images, "text": ["x", "y"]}), source)
        columns = Columns("picture", "text")
        found = [row for shard in plan(source, columns) for row in rows(shard, columns)]
        assert len(found) == 2
        assert all(row["image"] and not row["problem"] for row in found)
    pq.write_table(pa.table({"image": ["lost.png", None], "prompt": ["x", "y"]}), source)
    problems = [row["problem"] for shard in plan(source, Columns()) for row in rows(shard, Columns())]
    assert problems == ["lost.png: cannot be read (No such file or directory)", "there is no picture"]


def test_members_of_a_tar_with_one_name_are_a_row(tmp_path, pictures):
    content = png(pictures[0])
    members = {
        "a/1.png": content,
        "a/1.txt": b" a red star\n",
        "a/2.json": json.dumps({"prompt": "a cat"}).encode(),
        "a/2.JPG": content,
        "b/1.png": content,
        "b/2.txt": b"no picture",
        "b/1.cls": b"7",
    }
    tar_of(tmp_path / "00000.tar", members)
    (shard,) = plan(tmp_path, Columns())
    found = {row["key"]: row for row in rows(shard, Columns())}
    assert {key: (row["prompt"], row["image"] == content) for key, row in found.items()} == {
        "a/1": ("a red star", True),
        "a/2": ("a cat", True),
        "b/1": (None, True),
        "b/2": ("no picture", False),
    }
    assert [bool(row["problem"]) for row in found.values()] == [False, False, True, True]


def test_pictures_in_a_folder_have_their_prompts_beside_them(picture_files, tmp_path):
    for file in picture_files[:5]:
        file.with_suffix(".txt").write_text(f"about {file.stem}\n")
    (shard,) = plan(tmp_path, Columns())
    found = list(rows(shard, Columns()))
    assert [row["key"] for row in found] == [file.name for file in picture_files]
    assert [row["prompt"] for row in found] == [*(f"about picture{number}" for number in range(5)), None]
    assert found[5]["problem"] == "there is no picture5.txt"


def test_what_cannot_be_read_is_refused(tmp_path, parquet):
    with pytest.raises(DatasetError, match="no such file"):
        plan(tmp_path / "lost", Columns())
    with pytest.raises(DatasetError, match="no column 'caption'; it has id, image, prompt"):
        plan(parquet, Columns(prompt="caption"))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(DatasetError, match="not a parquet file"):
        plan(tmp_path / "bad.parquet", Columns())
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DatasetError, match="holds no"):
        plan(empty, Columns())


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster():
        yield


def results(out):
    return [row for file in sorted(out.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


@pytest.mark.slow
def test_a_run_that_was_interrupted_goes_on_where_it_was(
    cluster, parquet, tmp_path, pictures, untrained_judge, untrained_model_folder
):
    class Interrupted(Exception):
        pass

    def interrupt(path):
        raise Interrupted

    out = tmp_path / "out"
    options = {"model": str(untrained_model_folder), "device": "cpu", "batch_size": 4}
    with pytest.raises(Interrupted):
        score_dataset(parquet, out, **options, written=interrupt)
    (first,) = out.glob("*.parquet")
    before = first.stat().st_mtime_ns
    written = []
    summary = score_dataset(parquet, out, **options, written=written.append)
    assert (summary.shards, summary.skipped, len(written)) == (3, 1, 2)
    assert first not in written
    assert first.stat().st_mtime_ns == before
    assert [file.name for file in sorted(out.iterdir())] == [*(f"part-0000{n}.parquet" for n in range(3)), "run.json"]

    found = results(out)
    assert [row["id"] for row in found] == list(range(6))
    assert set(found[0]) == {"id", "prompt", "reward", "log_odds", "explanation", "error"}
    good = [0, 1, 3, 5]
    expected = untrained_judge.score([pictures[n] for n in good], [PROMPTS[n] for n in good])
    for number, judgement in zip(good, expected, strict=True):
        assert found[number]["error"] is None
        assert found[number]["reward"] == pytest.approx(judgement.reward, abs=1e-3)
        assert found[number]["log_odds"] == pytest.approx(judgement.log_odds, abs=1e-3)
    assert (found[2]["reward"], found[2]["error"]) == (None, "the prompt is no text")
    assert (found[4]["reward"], "damaged" in found[4]["error"]) == (None, True)

    assert score_dataset(parquet, out, **options).skipped == 3
    with pytest.raises(DatasetError, match="a run with other explain"):
        score_dataset(parquet, out, **options, explain=True)


def test_a_tar_that_breaks_off_keeps_what_was_read(tmp_path, pictures):
    members = {f"{number}.{ending}": png(pictures[0]) for number in range(2) for ending in ("png", "txt")}
    tar_of(tmp_path / "0.tar", members)
    (tmp_path / "1.tar").write_bytes(b"not a tar at all" * 100)
    shards = plan(tmp_path, Columns())
    batch = pa.table({"shard": [0, 1]})
    found = [row for table in _read_shard(batch, shards, Columns()) for row in table.to_pylist()]
    assert [(row["shard"], row["row"]) for row in found] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert "cannot be read" in found[3]["problem"]
    assert [row["problem"] is None for row in found] == [True, True, False, False, False]


def test_what_a_worker_says_is_told_without_the_traceback():
    cause = ModelError("lost: there is no such folder")
    trace = f"Traceback (most recent call last):\n  File x\n{type(cause).__module__}.ModelError: {cause}"
    error = told_by_worker(ray.exceptions.RayTaskError("Scorer.__init__", trace, cause))
    assert str(error) == "lost: there is no such folder"
    assert "worker failed: out of coffee" in str(told_by_worker(RuntimeError("Traceback\nout of coffee")))
