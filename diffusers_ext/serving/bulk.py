"""Whole data sets of pictures and prompts, judged on Ray Data.

The input is cut into shards, each of which becomes one parquet file. A file is there once all of its shard is judged,
so that a run that was interrupted goes on with the shards that are missing.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.exceptions import RayError

from ..rewards.errors import RewardDanceError
from ..rewards.instructions import DEFAULT_INSTRUCTION, Instruction, get_instruction
from ..rewards.judgement import sigmoid
from .judging import answer, anywhere, load_judge, told_by_worker
from .questions import Asked, Recipe, Way

PICTURES: Final = (".png", ".jpg", ".jpeg")
RUN_FILE: Final = "run.json"
_FILES_PER_SHARD: Final = 1024
_ROWS_PER_BLOCK: Final = 16
_END: Final = "end of shard"
_COMMON: Final = (
    ("shard", pa.int64()),
    ("row", pa.int64()),
    ("key", pa.string()),
    ("prompt", pa.string()),
    ("problem", pa.string()),
)
_READ: Final = pa.schema([*_COMMON, ("image", pa.large_binary())])
_JUDGED: Final = pa.schema([*_COMMON, ("log_odds", pa.float64()), ("explanation", pa.string())])
_RESULTS: Final = ("reward", "log_odds", "explanation", "error")


class DatasetError(RewardDanceError):
    """A data set that cannot be read, or a folder of results that belongs to another run."""


@dataclass(frozen=True)
class Shard:
    """A part of the input.

    Attributes:
        source: a parquet file, a tar file or a folder.
        part: which row group of the parquet file; for a folder, which stretch of its files.
    """

    source: str
    part: int = 0


@dataclass(frozen=True)
class Columns:
    """Where pictures and prompts are: columns of parquet; in webdataset and folders, prompts are in `.txt` files."""

    image: str = "image"
    prompt: str = "prompt"


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        shards: of the whole input.
        skipped: shards that were there already.
        judged: rows judged in this run.
        errors: rows of this run that could not be judged, and why, by shard and row.
    """

    shards: int
    skipped: int
    judged: int
    errors: dict[str, str]


Row = dict[str, Any]


def plan(source: Path, columns: Columns) -> list[Shard]:
    """Cut the input into shards, always the same way.

    Args:
        source: a parquet file, a tar file (webdataset), or a folder of either, or of PNG and JPEG files.
        columns: where to look.

    Raises:
        DatasetError: there is nothing of the kind, or a parquet file without the columns.
    """
    if not source.exists():
        raise DatasetError(f"{source}: there is no such file or folder")
    source = source.resolve()
    files = [source] if source.is_file() else sorted(source.rglob("*"))
    parquet = [file for file in files if file.suffix == ".parquet"]
    tars = [file for file in files if file.suffix == ".tar"]
    if parquet:
        return [Shard(str(file), part) for file in parquet for part in range(_row_groups(file, columns))]
    if tars:
        return [Shard(str(file)) for file in tars]
    count = len(_pictures_in(source)) if source.is_dir() else 0
    if not count:
        raise DatasetError(f"{source}: holds no parquet, tar, PNG or JPEG files")
    return [Shard(str(source), part) for part in range(-(-count // _FILES_PER_SHARD))]


def _row_groups(file: Path, columns: Columns) -> int:
    try:
        found = pq.ParquetFile(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise DatasetError(f"{file}: not a parquet file that can be read ({error})") from error
    if missing := {columns.image, columns.prompt} - set(found.schema_arrow.names):
        raise DatasetError(
            f"{file}: has no column {sorted(missing)[0]!r}; it has {', '.join(found.schema_arrow.names)}"
        )
    return found.num_row_groups


def _pictures_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in PICTURES and file.is_file())


def rows(shard: Shard, columns: Columns) -> Iterator[Row]:
    """The rows of a shard: `key`, `image` (bytes, or None) and `prompt` (or None), and why one of them is None."""
    path = Path(shard.source)
    if path.is_dir():
        start = shard.part * _FILES_PER_SHARD
        for file in _pictures_in(path)[start : start + _FILES_PER_SHARD]:
            text = file.with_suffix(".txt")
            prompt = text.read_text(encoding="utf-8", errors="replace").strip() if text.is_file() else None
            yield _row(file.relative_to(path).as_posix(), file.read_bytes(), prompt, f"there is no {text.name}")
    elif path.suffix == ".tar":
        yield from _tar_rows(path, columns)
    else:
        for batch in pq.ParquetFile(path).iter_batches(64, [shard.part], [columns.image, columns.prompt]):
            for item in batch.to_pylist():
                image, prompt = item[columns.image], item[columns.prompt]
                content, problem = _content(image, path.parent)
                yield _row("", content, prompt if isinstance(prompt, str) else None, problem or "the prompt is no text")


def _row(key: str, image: bytes | None, prompt: str | None, problem: str) -> Row:
    whole = image is not None and prompt is not None
    return {"key": key, "image": image, "prompt": prompt, "problem": None if whole else problem}


def _content(image: Any, folder: Path) -> tuple[bytes | None, str]:
    """The bytes of a picture that a parquet file holds, or names, or holds as the `datasets` library does."""
    if isinstance(image, dict):
        image = image.get("bytes") or image.get("path")
    if isinstance(image, bytes):
        return image, ""
    if isinstance(image, str):
        try:
            return (folder / image).read_bytes(), ""
        except OSError as error:
            return None, f"{image}: cannot be read ({error.strerror})"
    return None, "there is no picture"


def _tar_rows(path: Path, columns: Columns) -> Iterator[Row]:
    """Members of a tar that share a name up to the first dot are one row, as webdataset has it."""
    with tarfile.open(path) as tar:
        found: dict[str, dict[str, tarfile.TarInfo]] = {}
        for member in tar:
            folder, _, name = member.name.rpartition("/")
            stem, _, ending = name.partition(".")
            if member.isfile() and ending:
                found.setdefault(f"{folder}/{stem}".lstrip("/"), {})[ending.lower()] = member
        for key, members in found.items():
            contents = {ending: _read(tar, member) for ending, member in members.items()}
            image = next((contents[ending[1:]] for ending in PICTURES if ending[1:] in contents), None)
            prompt = _prompt(contents, columns)
            problem = "there is no picture" if image is None else "there is no prompt (.txt, or .json with the column)"
            yield _row(key, image, prompt, problem)


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


def _prompt(contents: Mapping[str, bytes], columns: Columns) -> str | None:
    if "txt" in contents:
        return contents["txt"].decode("utf-8", "replace").strip()
    try:
        found = json.loads(contents.get("json", b"null"))
    except ValueError:
        return None
    prompt = found.get(columns.prompt) if isinstance(found, dict) else None
    return prompt if isinstance(prompt, str) else None


def _read_shard(batch: pa.Table, shards: Sequence[Shard], columns: Columns) -> Iterator[pa.Table]:
    """For Ray Data: from the number of a shard to its rows, a few at a time, and a last one that counts them."""
    for number in batch["shard"].to_pylist():
        waiting: list[Row] = []
        count = 0
        try:
            for row in rows(shards[number], columns):
                waiting.append({**row, "shard": number, "row": count})
                count += 1
                if len(waiting) == _ROWS_PER_BLOCK:
                    yield pa.Table.from_pylist(waiting, _READ)
                    waiting = []
        except (OSError, tarfile.TarError, pa.ArrowException) as error:
            problem = f"{shards[number].source}: cannot be read from here on ({error})"
            waiting.append({**_row("", None, None, problem), "shard": number, "row": count})
            count += 1
        waiting.append({"shard": number, "row": count, "problem": _END})
        yield pa.Table.from_pylist(waiting, _READ)


class Scorer:
    """For Ray Data: a worker with a model."""

    def __init__(self, model: str | None, quantization: str | None, device: str | None, way: Way) -> None:
        self._judge = load_judge(model, quantization, device)
        self._way = way

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Judge the rows that have nothing wrong with them."""
        found = batch.to_pylist()
        good = [row for row in found if not row["problem"]]
        asked = [Asked(self._way, row["prompt"], row["image"]) for row in good]
        for row, result in zip(good, answer(self._judge, asked), strict=True):
            if result.judgement is None:
                row["problem"] = result.problem
            else:
                row["log_odds"], row["explanation"] = result.judgement.log_odds, result.judgement.explanation
        return pa.Table.from_pylist(found, _JUDGED)


def score_dataset(
    source: str | Path,
    out: str | Path,
    model: str | None = None,
    quantization: str | None = None,
    device: str | None = None,
    instruction: Instruction | None = None,
    explain: bool = False,
    columns: Columns = Columns(),
    replicas: int = 1,
    cpus: float = 1.0,
    gpus: float = 0.0,
    batch_size: int = 32,
    progress: bool = False,
    written: Callable[[Path], None] = lambda path: None,
) -> Summary:
    """Judge every picture of a data set on its own, on the Ray that this process is connected to.

    Args:
        source: what :func:`plan` takes.
        out: folder for one parquet file per shard; made if it is not there. Each has the columns of the input but the
            picture (or `key` and `prompt`), then `reward`, `log_odds`, `explanation` and `error`, of which the last
            says why a row could not be judged.
        model: a folder or a hub id; None is the nano model.
        quantization: see :meth:`RewardModel.from_pretrained`.
        device: where each worker runs; by default its GPU if it has one.
        instruction: what to judge by; by default "overall".
        explain: have the model write a chain of thought before each verdict.
        columns: where pictures and prompts are.
        replicas: workers, each with a copy of the model.
        cpus: CPU cores for each.
        gpus: GPUs for each.
        batch_size: rows judged in one call.
        progress: show progress on stderr.
        written: told of each file once it is there.

    Raises:
        DatasetError: nothing to read, or `out` holds the results of another run.
        ModelError: the model cannot be loaded.
    """
    by = get_instruction(instruction or DEFAULT_INSTRUCTION)
    folder = Path(out)
    shards = plan(Path(source), columns)
    way = Way(Recipe.of(by), pairwise=False, explain=explain)
    _claim(folder, shards, anywhere(model), by, explain, columns)
    files = [folder / f"part-{number:05d}.parquet" for number in range(len(shards))]
    missing = [number for number, file in enumerate(files) if not file.exists()]
    if not missing:
        return Summary(len(shards), len(shards), 0, {})
    ray.data.DataContext.get_current().enable_progress_bars = False
    data = (
        ray.data.from_items([{"shard": number} for number in missing], override_num_blocks=len(missing))
        .map_batches(
            _read_shard,  # type: ignore[arg-type]  # Ray's types know no further arguments
            batch_size=1,
            batch_format="pyarrow",
            fn_kwargs={"shards": shards, "columns": columns},
            num_cpus=0.25,
        )
        .map_batches(
            Scorer,
            fn_constructor_args=(anywhere(model), quantization, device, way),
            batch_size=batch_size,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=replicas),
            num_cpus=cpus,
            num_gpus=gpus,
        )
    )
    judged = 0
    errors: dict[str, str] = {}
    try:
        for number, results in _whole(data, len(missing), progress):
            _write(_table(shards[number], columns, results), files[number])
            written(files[number])
            judged += sum(item["problem"] is None for item in results)
            errors |= {f"{files[number].name}:{item['row']}": item["problem"] for item in results if item["problem"]}
    except RayError as error:
        raise told_by_worker(error) from error
    return Summary(len(shards), len(shards) - len(missing), judged, errors)


def _claim(
    folder: Path, shards: Sequence[Shard], model: str | None, by: Instruction, explain: bool, columns: Columns
) -> None:
    """See that a folder holds results of this very run, or none yet."""
    run = {
        "model": model,
        "instruction": {"name": by.name, "text": by.text},
        "explain": explain,
        "columns": asdict(columns),
        "shards": [asdict(shard) for shard in shards],
    }
    file = folder / RUN_FILE
    if file.is_file():
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            before = {}
        changed = [key for key, value in run.items() if not isinstance(before, dict) or before.get(key) != value]
        if changed:
            raise DatasetError(
                f"{folder}: holds the results of a run with other {' and '.join(changed)}; choose another folder, or "
                "empty this one"
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.glob("*.parquet"))):
        raise DatasetError(f"{folder}: holds something else already; choose a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(run, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _whole(data: Any, count: int, progress: bool) -> Iterator[tuple[int, list[Row]]]:
    """Shards whose rows are all there, as they come; their rows in order."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    found: dict[int, list[Row]] = {}
    sizes: dict[int, int] = {}
    shown = (TextColumn("{task.description}"), MofNCompleteColumn(), TextColumn("shards"), TimeElapsedColumn())
    with Progress(*shown, console=Console(stderr=True), transient=True, disable=not progress) as bar:
        task = bar.add_task("judged 0 rows,", total=count)
        judged = 0
        for item in data.iter_rows():
            number = int(item["shard"])
            if item["problem"] == _END:
                sizes[number] = int(item["row"])
            else:
                found.setdefault(number, []).append(item)
                judged += 1
            bar.update(task, description=f"judged {judged:,} rows,")
            if len(found.get(number, [])) == sizes.get(number, -1):
                yield number, sorted(found.pop(number, []), key=lambda row: row["row"])
                bar.advance(task)


def _table(shard: Shard, columns: Columns, results: Sequence[Row]) -> pa.Table:
    """The results beside what the input says, without its pictures."""
    values = [item["log_odds"] for item in results]
    found = {
        "reward": pa.array([None if value is None else sigmoid(value) for value in values], pa.float64()),
        "log_odds": pa.array(values, pa.float64()),
        "explanation": pa.array([item["explanation"] for item in results], pa.string()),
        "error": pa.array([item["problem"] for item in results], pa.string()),
    }
    if Path(shard.source).suffix == ".parquet":
        file = pq.ParquetFile(shard.source)
        names = [name for name in file.schema_arrow.names if name not in (columns.image, *_RESULTS)]
        kept = file.read_row_group(shard.part, names)
        if kept.num_rows == len(results):
            return pa.table({**{name: kept[name] for name in names}, **found})
    named = {name: pa.array([item[name] for item in results], pa.string()) for name in ("key", "prompt")}
    return pa.table({**named, **found})


def _write(table: pa.Table, file: Path) -> None:
    """All of it or nothing."""
    partial = file.with_suffix(".partial")
    pq.write_table(table, partial)
    partial.replace(file)
