"""What a cell of a table says, before it is Markdown or HTML. Knows text only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


class Name(str):
    """Text that others chose, such as a label's name."""


class Code(str):
    """Text that is shown as code."""


@dataclass(frozen=True)
class Link:
    """Text with an address."""

    text: str
    address: str


Cell = str | Link | tuple[str | Link, ...]  # a tuple is its parts, one after the other
Table = Sequence[Sequence[Cell]]  # the first row is the heading


def hub_link(name: str) -> Link:
    """Return a link to a model on the Hub."""
    return Link(name, f"https://huggingface.co/{name}")


def names_in(text: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return a text in parts: the names that are in it, and its other words."""
    longest_first = sorted(names, key=len, reverse=True)  # one may be a part of another
    parts = re.split(f"({'|'.join(map(re.escape, longest_first))})", text)
    return tuple(Name(part) if place % 2 else part for place, part in enumerate(parts))
