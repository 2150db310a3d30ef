"""What a cell of a table says, before it is Markdown or HTML. Knows text only."""

from __future__ import annotations

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
