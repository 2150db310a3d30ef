"""YAML files of arguments: read, and checked against the argument dataclasses key by key."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

_KINDS = {
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


def read_arguments(path: str, types: Sequence[type]) -> dict[str, Any]:
    """Read a YAML file of arguments.

    Args:
        path: Path of the file.
        types: Argument dataclasses.

    Returns:
        Values by the names of the dataclasses' fields.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a mapping, has a key that no argument has or a key twice, or a value of another type.
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
    if unknown:
        raise ValueError(f"{path} has unknown arguments: {with_hints(unknown, known)}. See --help for all of them.")
    values = {known[key]: value for key, value in config.items()}
    for kind in types:
        hints = get_type_hints(kind)
        for name in (item.name for item in fields(kind) if item.name in values):
            if name not in _CHECK_THEMSELVES:
                values[name] = _checked(path, name, values[name], hints[name])
    return values


def with_hints(unknown: Iterable[Any], known: Iterable[str]) -> str:
    """List names that are not known, each with the known one that is nearest."""
    known = list(known)
    hints = [(name, difflib.get_close_matches(str(name), known, n=1)) for name in unknown]
    return ", ".join(f"{name!r}" + (f" (did you mean {hint[0]!r}?)" if hint else "") for name, hint in hints)


def _checked(path: str, name: str, value: Any, hint: Any) -> Any:
    """Return a value of the type that an argument wants; a single one in place of a list stands for a list of it."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    allowed = {get_origin(kind) or kind: get_args(kind)[:1] for kind in kinds}
    if not set(allowed) <= set(_KINDS):  # enumerations and the like check themselves
        return value
    items = allowed.get(list, ())
    if type(value) is list and list in allowed and all(not items or _fits(item, items) for item in value):
        return value
    if type(value) is not list and _fits(value, allowed):
        return value
    if _fits(value, items):
        return [value]
    if type(value) is str and list not in allowed:  # converted as on the command line
        return value
    wanted = " or ".join(_KINDS[kind] + (" of texts" if kind is list and items == (str,) else "") for kind in allowed)
    unquoted = str in (*allowed, *items)
    quotes = " Put texts in quotes where YAML reads them as something else." if unquoted else ""
    raise ValueError(f"{path}: {name} must be {wanted}, got {value!r}.{quotes}")


def _fits(value: Any, kinds: Iterable[type]) -> bool:
    return any(type(value) is kind or (kind is float and type(value) is int) for kind in kinds)
