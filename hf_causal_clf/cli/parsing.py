"""Arguments from the command line and YAML files, checked against their dataclasses key by key."""

from __future__ import annotations

import difflib
import sys
from argparse import (
    SUPPRESS,
    Action,
    ArgumentError,
    ArgumentParser,
    ArgumentTypeError,
    RawDescriptionHelpFormatter,
)
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

import yaml
from transformers.hf_argparser import HfArgumentParser, string_to_bool
from transformers.utils.logging import log_levels, set_verbosity

from .mistakes import Mistakes, raised_here
from .short_help import short_help

KINDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a mapping",
    NoneType: "null",
}
_CHECK_THEMSELVES = ("runs", "answers", "target_prior")  # mappings here, JSON on the command line


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
            raise ValueError(
                f"{path} has unknown arguments: {with_hints(unknown, known)}. See --help-all for all of them."
            )
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


class _ShortHelp(Action):
    """Prints the short help of a recipe and ends."""

    def __init__(self, types: Sequence[type], **options: Any) -> None:
        super().__init__(**options, nargs=0, default=SUPPRESS, help="Show the options that people set.")
        self.types = types

    def __call__(self, parser: ArgumentParser, *_: Any) -> None:
        print(short_help(parser, self.types))
        parser.exit()


class _Parser(HfArgumentParser):
    """transformers' parser; a value that is not allowed is noted, and the rest is parsed all the same."""

    def __init__(self, types: Sequence[type], mistakes: Mistakes, description: str | None) -> None:
        layout = {"description": description, "formatter_class": RawDescriptionHelpFormatter}
        super().__init__(types, **layout, allow_abbrev=False, add_help=False)
        self.add_argument("-h", "--help", action=_ShortHelp, types=types)
        self.add_argument("--help-all", "--help_all", action="help", help="Show all options.")
        self.mistakes = mistakes
        self.wrong: set[str] = set()

    def take_defaults(self, values: dict[str, Any]) -> None:
        """Take values in the place of defaults; an option that has one need not be given."""
        for action in self._actions:
            if action.dest in values:
                action.default, action.required = values[action.dest], False

    def error(self, message: str) -> NoReturn:
        """Raise a `ValueError` in place of printing the usage, which lists all arguments, and an exit."""
        raise ValueError(f"{message[:1].upper()}{message[1:]}. See --help.")

    def _get_values(self, action: Action, arg_strings: list[str]) -> Any:
        try:
            return super()._get_values(action, arg_strings)
        except ArgumentError as error:
            self.wrong.add(action.dest)
            with self.mistakes.noted():
                raise _refused(action, arg_strings, error) from error
            return action.default


def _refused(action: Action, words: list[str], error: ArgumentError) -> ValueError:
    """Say which values an argument takes, as of one in a YAML file."""
    kind = bool if action.type is string_to_bool else action.type
    if action.choices is not None:
        allowed = f"must be one of {list(action.choices)}"
    elif kind in KINDS:
        allowed = f"must be {KINDS[kind]}"
    else:
        return ValueError(f"{error}.")
    return ValueError(f"{action.dest} {allowed}, got {words[0] if len(words) == 1 else words!r}.")


def parse_arguments(
    types: Sequence[type],
    description: str | None = None,
    args: Sequence[str] | None = None,
    *,
    check: Callable[[Sequence[Any], Mistakes], None] | None = None,
) -> tuple[Any, ...]:
    """Parse `--config file.yaml` and the command line, which overrides it, with transformers' parser.

    Args:
        types: Argument dataclasses.
        description: Text at the top of `--help`.
        args: Command line; by default the program's own.
        check: Where something is wrong, notes the mistakes that arguments point to (in the documents, say), so that
            one start tells all of them. It is given what could be built of `types`, `None` for the others.

    Returns:
        One instance for each of `types`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If arguments are unknown or given twice in the file, values are not allowed, or there are two
            files; a line for each.
    """
    mistakes = Mistakes()
    parser = _Parser(types, mistakes, description)
    if not any(item.name == "log_level" for kind in types for item in fields(kind)):
        parser.add_argument("--log_level", default=SUPPRESS, choices=list(log_levels), help="What is logged.")
    args = list(sys.argv[1:] if args is None else args)
    args = [part for arg in args for part in (arg.split("=", 1) if arg.startswith("--config=") else [arg])]
    if args.count("--config") > 1:
        paths = [path for word, path in pairwise(args) if word == "--config"]
        raise ValueError(f"--config is given twice: {', '.join(paths)}. Give one file.")
    if "--config" in args:
        position = args.index("--config")
        values, parser.wrong = read_arguments("".join(args[position + 1 : position + 2]), types, mistakes)
        parser.take_defaults(values)
        del args[position : position + 2]
    given, unknown = parser.parse_known_args(args)
    with mistakes.noted():
        if unknown:
            known = [option for action in parser._actions for option in action.option_strings]
            names = [part for part in unknown if part.startswith("--")] or unknown
            raise ValueError(f"Unknown arguments: {with_hints(names, known)}. See --help-all for all of them.")
    parsed = [_build(kind, vars(given), parser) for kind in types]
    if mistakes.errors and check is not None:
        check(parsed, mistakes)
    mistakes.report()
    if hasattr(given, "log_level") and not any(hasattr(each, "log_level") for each in parsed):
        set_verbosity(log_levels[given.log_level])
    return tuple(parsed)


def _build(kind: type, given: dict[str, Any], parser: _Parser) -> Any:
    """Build an argument dataclass, unless a value of it is wrong; stock classes raise errors of many types."""
    names = {item.name for item in fields(kind) if item.init}
    if names & parser.wrong:
        return None
    with parser.mistakes.noted():
        try:
            return kind(**{name: given[name] for name in names})
        except (ValueError, TypeError, OSError, ImportError) as error:
            if raised_here(error):
                raise
            raise ValueError(str(error)) from error
    return None
