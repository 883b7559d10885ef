"""Configurations: frozen records from YAML or other plain values.

Every key is checked, and one that is not known is answered with the nearest name.
"""

from __future__ import annotations

import difflib
import os
import types
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, Union, cast, get_args, get_origin, get_type_hints

from .rewards.errors import RewardDanceError

Wrong: TypeAlias = type[RewardDanceError]
"""What is raised of a configuration that makes no sense."""


def read_yaml(path: Path, wrong: Wrong) -> dict[str, Any]:
    """The keys and values of a YAML file.

    Raises:
        RewardDanceError: (as `wrong`) it cannot be read, or holds something else.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise wrong(f"{path}: cannot be read as YAML ({error})") from error
    if not isinstance(content, dict):
        raise wrong(f"{path}: expected keys and values, e.g. `out: runs/first`")
    return content


def read(kind: type[Any], content: Any, where: str, wrong: Wrong) -> Any:
    """A record of a frozen dataclass `kind` from a mapping, its fields by their annotations.

    Fields may be bool, int, float, str, literals, tuples of one kind, other dataclasses, or unions of these; a union of
    dataclasses is told apart by the key ``name``, the class attribute `name` of each.

    Args:
        kind: the dataclass.
        content: what YAML or JSON gave.
        where: what to call it in errors, e.g. ``run.yaml``.
        wrong: what is raised, here and by the dataclasses themselves.

    Raises:
        RewardDanceError: (as `wrong`) an unknown or missing key, or a value of another kind.
    """
    if not isinstance(content, Mapping):
        raise wrong(f"{where}: expected keys and values, not {content!r}")
    hints, known = get_type_hints(kind), [item.name for item in fields(kind)]
    for key in content:
        if key not in known:
            raise wrong(f"{where}: {key!r} is not known here{_near(str(key), known)}")
    values = {key: _value(hints[key], value, f"{where}: {key}", wrong) for key, value in content.items()}
    try:
        return kind(**values)
    except wrong as error:
        raise wrong(f"{where}: {error}") from error
    except TypeError as error:
        wanted = [item.name for item in fields(kind)]
        raise wrong(f"{where}: a key is missing; it takes {', '.join(wanted)} ({error})") from error


def settle(record: Any, wrong: Wrong) -> None:
    """Make the fields of a frozen record what their annotations say, also where it was not read from a file.

    To be called first by the record's `__post_init__`; what YAML may say, Python may then say too: names and mappings
    for other records, one value for a tuple of one, paths for text.

    Raises:
        RewardDanceError: (as `wrong`) a value of another kind.
    """
    hints = get_type_hints(type(record))
    for item in fields(record):
        object.__setattr__(record, item.name, _value(hints[item.name], getattr(record, item.name), item.name, wrong))


def plain(record: Any) -> Any:
    """A record as :func:`read` takes it: mappings, lists and single values."""
    if is_dataclass(record) and not isinstance(record, type):
        own = getattr(type(record), "name", None)
        named = {"name": own} if isinstance(own, str) else {}
        return named | {item.name: plain(getattr(record, item.name)) for item in fields(record)}
    return [plain(item) for item in record] if isinstance(record, tuple) else record


def differences(old: Mapping[str, Any], new: Any, unbound: Collection[str]) -> list[str]:
    """What a run that goes on must not change and has changed, e.g. ``judges[0].weight: 0.7 -> 0.5``.

    Args:
        old: the run's configuration as :func:`plain` gave it.
        new: the record to go on with.
        unbound: keys that may change.
    """
    now = plain(new)
    return [
        line for key in {**old, **now} if key not in unbound for line in _differing(old.get(key), now.get(key), key)
    ]


def _differing(old: Any, new: Any, where: str) -> list[str]:
    """Line by line where both are of one shape, as a whole where they are not."""
    if isinstance(old, Mapping) and isinstance(new, Mapping) and old.keys() == new.keys():
        return [line for key in new for line in _differing(old[key], new[key], f"{where}.{key}")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [line for place, (was, now) in pairs for line in _differing(was, now, f"{where}[{place}]")]
    return [] if old == new else [f"{where}: {old!r} -> {new!r}"]


def _value(hint: Any, value: Any, where: str, wrong: Wrong) -> Any:
    origin, choices = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in choices:
            return None
        records = [item for item in choices if is_dataclass(item)]
        if len(records) > 1:
            return _one_of(records, value, where, wrong)
        others = [item for item in choices if item is not type(None)]
        return _value(others[0], value, where, wrong)
    if origin is Literal:
        if value not in choices:
            raise wrong(f"{where}: {value!r} is none of {', '.join(map(str, choices))}")
        return value
    if origin is tuple:
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_value(choices[0], item, f"{where}[{number}]", wrong) for number, item in enumerate(items))
    if is_dataclass(hint):
        if isinstance(value, cast(Any, hint)):
            return value
        return read(cast(Any, hint), value, where, wrong)
    return _single(hint, value, where, wrong)


def _one_of(records: list[Any], value: Any, where: str, wrong: Wrong) -> Any:
    by_name = {item.name: item for item in records}
    if isinstance(value, tuple(records)):
        return value
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping) or "name" not in value:
        raise wrong(f"{where}: expected a name, one of {', '.join(by_name)}, and its options")
    if (name := value["name"]) not in by_name:
        raise wrong(f"{where}: {name!r} is none of {', '.join(by_name)}{_near(str(name), list(by_name))}")
    return read(by_name[name], {key: item for key, item in value.items() if key != "name"}, f"{where} ({name})", wrong)


def _single(kind: Any, value: Any, where: str, wrong: Wrong) -> Any:
    if kind is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:  # YAML reads 1e-4 as text, since it wants a point in it
            return float(value)
        except ValueError:
            pass
    if kind is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise wrong(f"{where}: expected {kind.__name__}, not {value!r}")
    return value


def _near(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"
