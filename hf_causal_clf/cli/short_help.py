"""The help of a recipe: this package's own options, and those of transformers and TRL that people set, in groups."""

from __future__ import annotations

import textwrap
from argparse import SUPPRESS, Action, ArgumentParser
from collections.abc import Sequence
from dataclasses import fields
from inspect import get_annotations
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

_WIDTH = 100
_INDENT = 34  # of an option's text
_KINDS = {str: "TEXT", int: "NUMBER", float: "NUMBER", bool: "true|false"}
_OFTEN_SET = {  # options of transformers and TRL, by group
    "Model": "model_name_or_path model_revision attn_implementation lora_dropout load_in_4bit",
    "Run": "output_dir seed resume_from_checkpoint report_to log_level",
    "Training": "learning_rate lr_scheduler_type warmup_steps weight_decay optim num_train_epochs max_steps "
    "per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps bf16 activation_checkpointing "
    "logging_steps eval_strategy save_strategy",
    "Hub": "push_to_hub hub_model_id",
}
_GROUP_OF = {name: group for group, names in _OFTEN_SET.items() for name in names.split()}


def short_help(parser: ArgumentParser, types: Sequence[type]) -> str:
    """Return the text of a recipe's `--help`.

    Args:
        parser: The recipe's parser.
        types: Its argument dataclasses. One names its group of options as for transformers' parser, by
            `_argument_group_name`.
    """
    actions = {action.dest: action for action in parser._actions if f"--{action.dest}" in action.option_strings}
    groups: dict[str, list[str]] = {}
    hidden = 0
    for kind in types:
        hints = get_type_hints(kind)
        own, stock = _fields_set(kind, stock=False), _fields_set(kind, stock=True)
        title = getattr(kind, "_argument_group_name", "Options")
        for name in (item.name for item in fields(kind) if item.init):
            group = title if name in own - stock else _GROUP_OF.get(name, title if name in own else None)
            action = actions[name]
            if group is None:
                hidden += 1
            elif list(action.choices or ()) != [action.default]:  # else there is nothing to choose
                groups.setdefault(group, []).append(_option(action, hints[name]))
    groups["Hub"] = groups.pop("Hub", [])  # last
    parts = [(parser.description or "").strip(), _line("--config FILE", "YAML file of options. The command line wins.")]
    parts += ["\n".join([f"{group}:", *lines]) for group, lines in groups.items() if lines]
    more = f"--help-all shows {hidden} more options, of transformers and TRL." if hidden else ""
    return "\n\n".join([*parts, more]).rstrip()


def _fields_set(kind: type, *, stock: bool) -> set[str]:
    """Names of the fields that a class sets which is, or is not, of transformers or TRL."""
    classes = [each for each in kind.__mro__ if (each.__module__.partition(".")[0] in ("transformers", "trl")) == stock]
    return {name for each in classes for name in get_annotations(each)}


def _option(action: Action, hint: Any) -> str:
    """Return the lines of an option: its name, what it takes, its text and its default."""
    text, default = " ".join((action.help or "").split()).replace("%%", "%"), action.default
    if isinstance(default, bool):
        default = str(default).lower()
    elif isinstance(default, list):
        default = " ".join(map(str, default))
    default = getattr(default, "value", default)
    if action.required:
        text += " (required)"
    elif default not in (None, "", SUPPRESS):
        text += f" (default: {default if str(default).strip() == str(default) else repr(default)})"
    return _line(f"--{action.dest} {_kind(action, hint)}", text)


def _kind(action: Action, hint: Any) -> str:
    choices = "|".join(map(str, action.choices or ()))
    if 0 < len(choices) < 40:
        return choices
    if get_origin(hint) in (Union, UnionType):
        hint = next(kind for kind in get_args(hint) if kind is not NoneType)
    if get_origin(hint) is list:
        return f"{_KINDS.get(get_args(hint)[0], 'TEXT')} …"
    return _KINDS.get(hint, "TEXT")


def _line(option: str, text: str) -> str:
    """Put an option before its text, or above where it is long."""
    lines = textwrap.wrap(
        text, _WIDTH, initial_indent=" " * _INDENT, subsequent_indent=" " * _INDENT, break_on_hyphens=False
    )
    option = f"  {option}"
    if len(option) < _INDENT - 1:
        return "\n".join([option + lines[0][len(option) :], *lines[1:]])
    return "\n".join([option, *lines])
