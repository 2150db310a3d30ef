"""Where the templates of cards and reports are, and filling them in. Knows no run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .markdown import code, escape, fenced, marked, table

if TYPE_CHECKING:
    from jinja2 import Environment


def template_folder() -> Path:
    """Return the folder of the templates: in the package where it is installed, else at the top of the repository."""
    package = Path(__file__).parents[1]
    inside = package / "model_cards"
    return inside if inside.is_dir() else package.parent / "model_cards"


def template_environment() -> Environment:
    """Return the Jinja environment of the templates, with filters that put text into Markdown.

    The filters are `md` (for prose and cells), `code`, `fenced`, `marked` (of a cell) and `table`.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(template_folder()),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, not HTML: the filters
    )
    environment.filters |= {"md": escape, "code": code, "fenced": fenced, "marked": marked, "table": table}
    return environment
