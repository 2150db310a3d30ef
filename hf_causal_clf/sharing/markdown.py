"""Text that others chose, put into Markdown so that it is shown as it is and breaks nothing. Knows text only."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .cells import Cell, Code, Link, Name

_MARKUP = {"&": "&amp;", "<": "&lt;", ">": "&gt;", **{character: f"\\{character}" for character in r"\`*_{}[]|~$"}}
_ENTITIES = {ord(character): f"&#{ord(character)};" for character in r"\`*_{}[]|~$&<>"}
_OPEN_BAR = re.compile(r"(?<!\\)((?:\\\\)*)\|")  # no backslash escapes it
_NOT_IN_CODE = re.compile(r"[`|\s]{2}|[`|\n\t\\]|^\s|\s$")


def escape(text: str) -> str:
    """Return text for a line of prose or a cell of a table."""
    return "".join(_MARKUP.get(character, character) for character in " ".join(text.split()))


def code(text: str) -> str:
    """Return text as inline code, also in a cell of a table; white space at its ends is kept."""
    if not _NOT_IN_CODE.search(text):
        return f"`{text}`"
    shown = text.replace("\n", "↵").replace("\t", "⇥")
    return f"<code>{shown.translate(_ENTITIES).replace(' ', '&nbsp;')}</code>"


def fenced(text: str, language: str = "") -> str:
    """Return text as a code block, with a fence longer than any in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def table(rows: Sequence[Sequence[Cell]]) -> str:
    """Return rows of cells as a table, without a new line at its end.

    Args:
        rows: At least the heading, which is the first; all of the same length. Plain text is Markdown. A `|` in a cell
            is escaped unless it is already, and a line break becomes a space: neither ends the cell.
    """
    heading, *body = ["|" + "|".join(map(_cell, row)) + "|" for row in rows]
    return "\n".join([heading, "|" + "---|" * len(rows[0]), *body])


def marked(cell: Cell) -> str:
    """Return what a cell says as Markdown."""
    if isinstance(cell, tuple):
        return "".join(map(marked, cell))
    if isinstance(cell, Link):
        return f"[{escape(cell.text)}]({cell.address})"
    return code(cell) if isinstance(cell, Code) else escape(cell) if isinstance(cell, Name) else cell


def _cell(cell: Cell) -> str:
    text = _OPEN_BAR.sub(r"\1\\|", " ".join(marked(cell).splitlines()))
    return f" {text} " if text else " "
