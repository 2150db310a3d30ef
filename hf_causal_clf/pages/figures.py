"""Figures on a page: a file that matplotlib wrote, or a figure that is drawn, becomes a part of it. Knows no run."""

from __future__ import annotations

import base64
import json
import re
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from ..evaluation.plot_style import save_figure
from ..sharing.cells import Name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure as Drawing

MOST_BYTES = 600_000  # of a picture on a page
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_NOT_SHOWN = {"metadata", "style"}


@dataclass(frozen=True)
class Figure:
    """A figure as a page shows it.

    Attributes:
        name: Of its files, and of its place on the page.
        title: Heading.
        description: What it shows, in a sentence.
        svg: The picture; empty where it is not drawn by the page itself.
        png: The same as a `data:` address, where the SVG is too large; empty where both are.
        numbers: What it shows, rows below a heading; `None` where the run did not write them.
        path: Of the picture, from the page; empty where it is on the page alone.
    """

    name: str
    title: str
    description: str
    svg: str
    png: str
    numbers: Sequence[Sequence[Any]] | None
    path: str


def read_figure(folder: Path, path: str, title: str, description: str) -> Figure | None:
    """Read a figure and its numbers; `None` where it has not been drawn.

    Args:
        folder: The page's folder.
        path: Of the figure below it, without a suffix.
        title: Heading.
        description: What it shows, in a sentence.
    """
    svg, png, json_file = (folder / f"{path}.{kind}" for kind in ("svg", "png", "json"))
    if not svg.is_file():
        return None
    name = re.sub(r"[^a-z0-9]+", "-", path.lower())
    picture = ""
    with suppress(ElementTree.ParseError):  # a damaged file, of which the PNG may be whole
        if svg.stat().st_size <= MOST_BYTES:
            picture = inline_svg(svg.read_text(encoding="utf-8"), name, title, description)
    encoded = ""
    if not picture and png.is_file() and png.stat().st_size <= MOST_BYTES:
        encoded = "data:image/png;base64," + base64.b64encode(png.read_bytes()).decode()
    numbers = None
    if json_file.is_file():
        heading, *rows = json.loads(json_file.read_text(encoding="utf-8"))
        numbers = [heading, *([Name(value) if isinstance(value, str) else value for value in row] for row in rows)]
    return Figure(name, title, description, picture, encoded, numbers, f"{path}.png")


def drawn_figure(
    drawing: Drawing, name: str, title: str, description: str, numbers: Sequence[Sequence[Any]]
) -> Figure | None:
    """Return a figure that is on the page alone: no file of it stays.

    Args:
        drawing: The figure.
        name: Its place on the page: small letters, digits and `-`.
        title: Heading.
        description: What it shows, in a sentence.
        numbers: What it shows, rows below a heading.
    """
    with tempfile.TemporaryDirectory() as folder:
        save_figure(drawing, Path(folder) / name, numbers)
        figure = read_figure(Path(folder), name, title, description)
    return figure and replace(figure, path="")


def inline_svg(text: str, name: str, title: str, description: str) -> str:
    """Return an SVG document as an element of an HTML page.

    Ids get the figure's name in front, as two figures have the same; styles become attributes, which a
    content-security policy lets through; metadata, comments and sizes in points go.

    Args:
        text: The document, as matplotlib writes it.
        name: Name of the figure, unique on the page: small letters, digits and `-`.
        title: For those who do not see it.
        description: For those who do not see it.
    """
    root = ElementTree.fromstring(text)
    for element in root.iter():
        element.tag = _local(element.tag)
        for part in [part for part in element if _local(part.tag) in _NOT_SHOWN]:
            element.remove(part)
        attributes = {_local(key): value for key, value in element.attrib.items()}
        for declaration in filter(None, map(str.strip, attributes.pop("style", "").split(";"))):
            key, _, value = declaration.partition(":")
            attributes.setdefault(key.strip(), value.strip())
        if "id" in attributes:
            attributes["id"] = f"{name}-{attributes['id']}"
        if attributes.get("href", "").startswith("#"):
            attributes["href"] = f"#{name}-{attributes['href'][1:]}"
        element.attrib = {key: _REFERENCE.sub(rf"url(#{name}-\1)", value) for key, value in attributes.items()}
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title {name}-description"}
    root.attrib |= {"stroke-linejoin": "round", "stroke-linecap": "butt"}  # what the document's style says of all
    for place, (tag, said) in enumerate((("title", title), ("desc", description))):
        part = ElementTree.Element(tag, id=f"{name}-{'title' if tag == 'title' else 'description'}")
        part.text = said
        root.insert(place, part)
    return ElementTree.tostring(root, encoding="unicode")


def _local(name: str) -> str:
    """A name without its namespace, which HTML knows by itself."""
    return name.rpartition("}")[2]
