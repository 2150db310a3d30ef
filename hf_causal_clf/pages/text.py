"""Text that others chose, on a page: it stays text, and bounds the page. Knows text only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from unicodedata import category

from markupsafe import Markup, escape

from ..sharing.cells import Code, Link, Name

SHORT = 160  # characters of a text before it is opened
MOST = 1_000  # and when it is
_KEPT = "\n\t"


class Names(tuple[str, ...]):
    """Names of labels, each by itself; none is a dash."""


@dataclass(frozen=True)
class Folded:
    """A text that is read after a click on what stands for it.

    Attributes:
        shown: Parts of what is seen before.
        text: Text that others chose.
    """

    shown: tuple[Any, ...]
    text: str


def clean(value: Any) -> Any:
    """Return text with "�" for each control character and half surrogate, which no page can have; all else as it is."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    if value.isprintable():
        return value
    kept = ("�" if category(each) in ("Cc", "Cs") and each not in _KEPT else each for each in value)
    return type(value)("".join(kept))


def cell_html(value: Any) -> Markup:
    """Return what a cell says: a number with its separators, code, a link, names of labels, or text.

    A long name is cut: the rest of what is shown is behind a click, and how much is not shown is said.
    """
    if value is None:
        return Markup("")
    if isinstance(value, bool):
        return Markup("yes" if value else "no")
    if isinstance(value, int | float):
        return Markup(f"{value:,}" if isinstance(value, int) else f"{value:.3f}")
    if isinstance(value, Names):
        return Markup(", ").join(_marked(clean(name), "bdi") for name in value) if value else Markup("–")
    if isinstance(value, tuple):
        return Markup("").join(map(cell_html, value))
    if isinstance(value, Folded):
        return _folded(cell_html(value.shown), clean(value.text[:MOST]), "bdi", len(value.text) - MOST)
    if isinstance(value, Link):
        return Markup('<a href="{}">{}</a>').format(clean(value.address), _marked(clean(value.text), "bdi"))
    text = clean(str(value))
    if not isinstance(value, Code | Name):
        return escape(text)
    tag = "code" if isinstance(value, Code) else "bdi"
    return _marked(text, tag) if len(text) <= SHORT else _opened(text, tag)


def _marked(text: str, tag: str) -> Markup:
    """Text in an element: `bdi` changes the direction of nothing around it."""
    return Markup("<{0}>{1}</{0}>").format(Markup(tag), text)


def _opened(text: str, tag: str) -> Markup:
    return _folded(_marked(text[:SHORT] + "…", tag), "…" + text[SHORT:MOST], tag, len(text) - MOST)


def _folded(summary: Markup, text: str, tag: str, left: int) -> Markup:
    """A text behind a click, of which so many characters are left out."""
    more = Markup("<p>{:,} more characters are not shown.</p>").format(left) if left > 0 else ""
    shown = _marked(text + ("…" if left > 0 else ""), tag)
    return Markup("<details><summary>{}</summary>{}{}</details>").format(summary, shown, more)
