"""What a script tells on standard output: once for all processes, in lines of a terminal's width."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Sequence

WIDTH = 99
NO_BREAK = "\xa0"


def tell(text: str) -> None:
    """Print a text in the main process, broken into lines of less than 100 characters.

    No line is broken within a word, or at a no-break space, which is printed as a space.
    """
    if int(os.environ.get("RANK", 0)) == 0:
        lines = textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        print("\n".join(lines).replace(NO_BREAK, " "), flush=True)


def tell_lines(lines: Iterable[str]) -> None:
    """Print lines as they are, but for white space at their ends, in the main process."""
    if int(os.environ.get("RANK", 0)) == 0:
        print("\n".join(line.rstrip() for line in lines), flush=True)


def unbroken(text: str) -> str:
    """Return a text that `tell` prints in one line."""
    return text.replace(" ", NO_BREAK)


def beginning(value: object, length: int = 40) -> str:
    """Return the beginning of a value in quotes, in one line: of a text, so many characters."""
    text = " ".join(value.split()) if isinstance(value, str) else repr(value)
    shown = text if len(text) <= length else f"{text[:length]}…"
    return repr(shown) if isinstance(value, str) else shown


def listed(items: Sequence[str], limit: int = 10) -> str:
    """List the first items, and the number of the others."""
    more = len(items) - limit
    return ", ".join(items) if more <= 0 else f"{', '.join(items[:limit])} and {more:,} others"
