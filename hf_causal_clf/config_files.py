"""YAML files of arguments: read, and checked against the argument dataclasses key by key."""

from __future__ import annotations

import difflib
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml
from transformers.hf_argparser import string_to_bool

from .mistakes import Mistakes

KINDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a mapping",
    NoneType: "null",
}
_CHECK_THEMSELVES = ("runs", "answers")  # mappings here, JSON on the command line


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML takes the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping, and raise a `yaml.MarkedYAMLError` for a key that it has twice."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} is given twice", problem_mark=key.start_mark)
            seen.add((key.tag, key.value))
        return node


def read_arguments(path: str, types: Sequence[type], mistakes: Mistakes) -> tuple[dict[str, Any], set[str]]:
    """Read a YAML file of arguments.

    Args:
        path: Path of the file.
        types: Argument dataclasses.
        mistakes: Takes an error for keys that no argument has, and for each value of another type.

    Returns:
        Values by the names of the dataclasses' fields; and the names of those whose value is of another type.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a mapping, or has a key twice.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no configuration file {path!r}. Give --config the path of a YAML file.")
    try:
        config = _Loader(Path(path).read_text(encoding="utf-8")).get_single_data()
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} must be a mapping of argument names to values.")
    known = {item.name: item.name for kind in types for item in fields(kind)}
    for item in (item for kind in types for item in fields(kind)):
        known |= {alias.removeprefix("--"): item.name for alias in item.metadata.get("aliases", [])}
    unknown = [key for key in config if key not in known]
    with mistakes.noted():
        if unknown:
            raise ValueError(f"{path} has unknown arguments: {with_hints(unknown, known)}. See --help for all of them.")
    values, wrong = {known[key]: value for key, value in config.items() if key in known}, set()
    for kind in types:
        hints = get_type_hints(kind)
        for name in (item.name for item in fields(kind) if item.name in values and item.name not in _CHECK_THEMSELVES):
            wrong.add(name)
            with mistakes.noted():
                values[name] = _checked(path, name, values[name], hints[name])
                wrong.remove(name)
    return {name: value for name, value in values.items() if name not in wrong}, wrong


def with_hints(unknown: Iterable[Any], known: Iterable[str]) -> str:
    """List names that are not known, each with the known one that is nearest."""
    known = list(known)
    hints = [(name, difflib.get_close_matches(str(name), known, n=1)) for name in unknown]
    return ", ".join(f"{name!r}" + (f" (did you mean {hint[0]!r}?)" if hint else "") for name, hint in hints)


def _checked(path: str, name: str, value: Any, hint: Any) -> Any:
    """Return a value of the type that an argument wants; a single one in place of a list stands for a list of it."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    allowed = {get_origin(kind) or kind: get_args(kind)[:1] for kind in kinds}
    if not set(allowed) <= set(KINDS):  # enumerations and the like check themselves
        return value
    items = allowed.get(list, ())
    if type(value) is list and list in allowed and all(not items or _fits(item, items) for item in value):
        return value
    if type(value) is not list and _fits(value, allowed):
        return value
    if _fits(value, items):
        return [value]
    if type(value) is str and list not in allowed and any(_reads_as(kind, value) for kind in allowed):
        return value  # converted as on the command line
    wanted = " or ".join(KINDS[kind] + (" of texts" if kind is list and items == (str,) else "") for kind in allowed)
    unquoted = str in (*allowed, *items)
    quotes = " Put texts in quotes where YAML reads them as something else." if unquoted else ""
    raise ValueError(f"{path}: {name} must be {wanted}, got {value!r}.{quotes}")


def _fits(value: Any, kinds: Iterable[type]) -> bool:
    return any(type(value) is kind or (kind is float and type(value) is int) for kind in kinds)


def _reads_as(kind: type, text: str) -> bool:
    """Whether the command line takes a text for a value of this type; 5e-4 is a text in YAML."""
    reads: dict[type, Callable[[str], Any]] = {int: int, float: float, bool: string_to_bool}
    try:
        return kind is not NoneType and reads.get(kind, str)(text) is not None
    except (ValueError, ArgumentTypeError):
        return False
