"""Task instructions: the part of the context that says by which criteria a picture is judged.

Instructions are data. The presets below are plain :class:`Instruction` records; users add their own with
:func:`load_instructions` or by making one, and pass either a name or a record wherever an instruction is taken.
"""

from __future__ import annotations

import difflib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from .errors import InstructionError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Task = Literal["t2i", "t2v", "i2v"]
TASKS: Final[tuple[Task, ...]] = get_args(Task)
DEFAULT_INSTRUCTION: Final = "overall"
DEFAULT_VIDEO_INSTRUCTION: Final = "video-overall"


@dataclass(frozen=True)
class Example:
    """A judged comparison shown to the model before the question (in-context reference).

    Attributes:
        prompt: what the pictures were made for.
        candidate: path of the candidate picture.
        verdict: whether the candidate was better than the reference (or, with no reference, good).
        reference: path of the reference picture, or None for a pointwise example.
    """

    prompt: str
    candidate: Path
    verdict: bool
    reference: Path | None = None


@dataclass(frozen=True)
class Instruction:
    """What to judge by.

    Attributes:
        name: how users select it.
        text: what the model reads, one or more full sentences.
        criteria: names of the criteria it covers, e.g. ``("alignment",)``.
        task: text-to-image, text-to-video or image-to-video.
        examples: judged comparisons put before the question, in order.
    """

    name: str
    text: str
    criteria: tuple[str, ...]
    task: Task = "t2i"
    examples: tuple[Example, ...] = ()

    def __post_init__(self) -> None:
        if not self.name.strip() or not self.text.strip():
            raise InstructionError("an instruction needs a name and a text; one of them is empty")
        if self.task not in TASKS:
            raise InstructionError(f"instruction {self.name!r}: task {self.task!r} is not one of {', '.join(TASKS)}")


PRESETS: Final[dict[str, Instruction]] = {
    item.name: item
    for item in (
        Instruction(
            "alignment",
            "Judge how well the image matches the prompt: every object, its count, colour and place. "
            "Ignore how good it looks.",
            ("alignment",),
        ),
        Instruction(
            "exactness",
            "Judge whether the image matches the prompt and shows nothing else: every object, its count, colour and "
            "place, and no object that the prompt does not name. Ignore how good it looks.",
            ("alignment", "exactness"),
        ),
        Instruction(
            "aesthetics",
            "Judge how good the image looks: sharp, free of noise, with rich contrast and colour. Ignore the prompt.",
            ("aesthetics",),
        ),
        Instruction(
            "structure",
            "Judge whether every object is whole and well formed, with no broken or deformed parts. Ignore the prompt.",
            ("structure",),
        ),
        Instruction(
            "overall",
            "Judge the image as a whole: first it must match the prompt, then it must look good and be well formed.",
            ("alignment", "aesthetics", "structure"),
        ),
        Instruction(
            "video-alignment",
            "Judge how well the video matches the prompt: every object, action and motion, in the right order. "
            "Ignore how good it looks.",
            ("alignment",),
            task="t2v",
        ),
        Instruction(
            "video-motion",
            "Judge the motion of the video: smooth, plausible, as strong as the prompt asks, with no flicker.",
            ("motion",),
            task="t2v",
        ),
        Instruction(
            "video-overall",
            "Judge the video as a whole: first it must match the prompt, then it must move well, look good "
            "and be well formed in every frame.",
            ("alignment", "motion", "aesthetics", "structure"),
            task="t2v",
        ),
        Instruction(
            "first-frame",
            "Judge how faithfully the video keeps the given first frame: the same objects, identity, colours, style.",
            ("first-frame fidelity",),
            task="i2v",
        ),
        Instruction(
            "i2v-overall",
            "Judge the video as a whole: it must keep the given first frame, match the prompt, move well, look good.",
            ("first-frame fidelity", "alignment", "motion", "aesthetics"),
            task="i2v",
        ),
    )
}


def get_instruction(
    instruction: str | Instruction = DEFAULT_INSTRUCTION, own: dict[str, Instruction] | None = None
) -> Instruction:
    """Look an instruction up by name among the presets and the user's `own`; a record is returned as it is.

    Raises:
        InstructionError: no such name; the message gives the nearest one and the whole list.
    """
    if isinstance(instruction, Instruction):
        return instruction
    known = PRESETS | (own or {})
    if instruction in known:
        return known[instruction]
    near = difflib.get_close_matches(instruction, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise InstructionError(f"no instruction is named {instruction!r}.{hint} Known: {', '.join(known)}.")


def load_instructions(path: str | Path) -> dict[str, Instruction]:
    """Read instructions from a TOML or JSON file: a table per instruction, keyed by its name.

    ::

        [portrait]
        text = "Judge how natural the face looks."
        criteria = ["face"]

        [[portrait.examples]]
        prompt = "a portrait of an old sailor"
        candidate = "good.png"        # relative to this file
        reference = "bad.png"
        verdict = true

    Raises:
        InstructionError: unreadable file, an unknown key, a missing `text`, or an example picture that is not there.
    """
    path = Path(path)
    try:
        raw = path.read_text(encoding="utf-8")
        tables = json.loads(raw) if path.suffix == ".json" else tomllib.loads(raw)
    except (OSError, ValueError) as error:
        raise InstructionError(f"{path}: cannot be read as instructions ({error})") from error
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise InstructionError(f"{path}: expected one table per instruction, e.g. [portrait] with a text")
    return {name: _from_table(name, table, path) for name, table in tables.items()}


def _from_table(name: str, table: dict[str, Any], path: Path) -> Instruction:
    _refuse_unknown(table, {"text", "criteria", "task", "examples"}, f"{path}: instruction {name!r}")
    if not isinstance(table.get("text"), str):
        raise InstructionError(f"{path}: instruction {name!r} has no text")
    criteria, shown = table.get("criteria", [name]), table.get("examples", [])
    if not isinstance(criteria, list) or not all(isinstance(item, str) for item in criteria):
        raise InstructionError(f"{path}: the criteria of instruction {name!r} must be a list of names")
    if not isinstance(shown, list) or not all(isinstance(item, dict) for item in shown):
        raise InstructionError(f"{path}: the examples of instruction {name!r} must be a list of tables")
    examples = tuple(_example(item, name, path) for item in shown)
    return Instruction(name, table["text"], tuple(criteria), table.get("task", "t2i"), examples)


def _example(item: dict[str, Any], name: str, path: Path) -> Example:
    where = f"{path}: an example of instruction {name!r}"
    _refuse_unknown(item, {"prompt", "candidate", "reference", "verdict"}, where)
    texts = [item.get("prompt"), item.get("candidate"), item.get("reference", "")]
    if not isinstance(item.get("verdict"), bool) or not all(isinstance(text, str) for text in texts):
        raise InstructionError(f"{where} needs a prompt, a candidate picture and a verdict (true or false)")
    pictures = {key: path.parent / item[key] for key in ("candidate", "reference") if key in item}
    for picture in pictures.values():
        if not picture.is_file():
            raise InstructionError(f"{where} names the picture {picture}, which is not there")
    return Example(item["prompt"], pictures["candidate"], item["verdict"], pictures.get("reference"))


def _refuse_unknown(table: dict[str, Any], allowed: set[str], where: str) -> None:
    if unknown := set(table) - allowed:
        raise InstructionError(f"{where} has unknown keys {sorted(unknown)}; it takes {sorted(allowed)}")
