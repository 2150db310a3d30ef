"""The page of explained documents: their text, marked, as that is what it is about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..evaluation.plot_style import shorten
from ..pages.page import render_page
from ..pages.text import Names
from ..sharing.cells import Link, Name
from .explanation import Explanation
from .showing import printable, strengths

MOST = 200  # documents; a page of more would be slow
_LISTED = 5  # parts with the largest drops
_LENGTH = 60  # of a name where it is one of many


def render_explanations(explanations: Sequence[tuple[Any, Explanation]], *, run: str, rows_file: str) -> str:
    """Render the page of explained documents, of the first 200.

    Args:
        explanations: Id and explanation of each document.
        run: Name of the run.
        rows_file: Name of the file that has all documents.

    Returns:
        The whole HTML document.
    """
    articles = [_article(place, *each) for place, each in enumerate(explanations[:MOST], start=1)]
    heading = ["document", "predicted", "explained", "its probability", "largest change", "without"]
    return render_page(
        "explanations.html",
        run=Name(run),
        documents=len(explanations),
        rows_file=rows_file,
        overview=[heading, *(each["row"] for each in articles)],
        articles=articles,
        sections={"overview": "Overview", "documents": "Documents"} if len(articles) > 1 else {},
    )


def _article(place: int, name: Any, explanation: Explanation) -> dict[str, Any]:
    """What the page says of a document."""
    drops, parts = explanation.drops_of(), explanation.parts()
    answer = [explanation.predicted] if isinstance(explanation.predicted, str) else explanation.predicted
    [document] = shorten([str(name)], _LENGTH)
    predicted, [label] = Names(shorten(answer, _LENGTH)), shorten([explanation.label], _LENGTH)
    order = sorted(np.flatnonzero(np.nan_to_num(drops)), key=lambda part: -abs(drops[part]))[:_LISTED]
    changes = [[_change(drops[part]), Name(printable(parts[part].strip()))] for part in order]
    row = [Link(document, f"#document-{place}"), predicted, Names([label]), explanation.probability]
    return {
        "id": f"document-{place}",
        "name": Name(document),
        "predicted": predicted,
        "label": Name(label),
        "probability": explanation.probability,
        "row": [*row, *(changes[0] if changes else ["–", "–"])],
        "pieces": [
            _piece(part, strength, drop) for part, strength, drop in zip(parts, strengths(drops), drops, strict=True)
        ],
        "changes": [["change", "without"], *changes],
    }


def _piece(part: str, strength: int, drop: float) -> tuple[str, str, str, str]:
    """Class of the mark, the change, the text in the mark, and that after it."""
    if strength == 0:
        return "", "", "", printable(part)
    kept = part.rstrip()
    mark = f"{'for' if strength > 0 else 'against'}{abs(strength)}"
    return mark, _change(drop), printable(kept), printable(part[len(kept) :])


def _change(drop: float) -> str:
    return f"{-drop:+.3f}"
