"""A page: one HTML file with everything in it, that loads nothing and runs nothing but its own short script.

A new kind of page is a template that extends `page.html`, and a function that says what it has to fill in.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runs.summary import rate_in_words
from .text import cell_html, clean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"


def render_page(template: str, **values: Any) -> str:
    """Fill in a template.

    Args:
        template: Name of its file.
        values: What it needs; any text in it is escaped.

    Returns:
        The whole HTML document.
    """
    parts = {name: (_TEMPLATES / f"page.{name}").read_text(encoding="utf-8") for name in ("css", "js")}
    hashes = {name: f"'sha256-{_sha256(part)}'" for name, part in parts.items()}
    policy = (
        f"default-src 'none'; script-src {hashes['js']}; style-src {hashes['css']}; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    return _environment().get_template(template).render(**values, policy=policy, style=parts["css"], script=parts["js"])


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
        finalize=clean,
    )
    environment.filters |= {"cell": cell_html, "kinds": column_kinds, "python": repr, "rate": rate_in_words}
    return environment


def column_kinds(rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return for each column whether it has `number`s or `text`."""
    kinds = []
    for column in zip(*rows[1:], strict=True) if len(rows) > 1 else [()] * len(rows[0]):
        filled = [value for value in column if value not in (None, "", "–")]
        kinds.append("number" if filled and all(map(_is_number, filled)) else "text")
    return kinds


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int | float) or (type(value) is str and value.lstrip("+-")[:1].isdigit())
