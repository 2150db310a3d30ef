"""How figures look, and writing them.

Knows no data. matplotlib is imported where it is used.
"""

from __future__ import annotations

import functools
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec
from unicodedata import category

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_Arguments = ParamSpec("_Arguments")

BLUE, RED, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#595959"  # Okabe and Ito: safe for the colour-blind
COLOURS = (BLUE, RED, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
_PIXELS = 1200  # widest PNG
_STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # a `$` in a label is a dollar
    "text.usetex": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e0e0e0",
    "legend.frameon": False,
    "figure.autolayout": False,
    "figure.constrained_layout.use": False,
    "svg.hashsalt": "hf_causal_clf",  # the same figure is the same file
}


def styled(draw: Callable[_Arguments, Figure]) -> Callable[_Arguments, Figure]:
    """Let a function draw in the style of this package."""

    @functools.wraps(draw)
    def wrapper(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Figure:
        from matplotlib import rc_context

        with rc_context(_STYLE):
            return draw(*args, **kwargs)

    return wrapper


def new_figure(width: float, height: float, *, gap: float = 0.02) -> Figure:
    """Return an empty figure: its size in inches, the gap between columns of axes in parts of their width."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(wspace=gap))


def write_beside(axes: Axes, place: float, text: str) -> None:
    """Write a text to the right of the axes, at the height `place`."""
    at: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points"}
    axes.annotate(text, (1, place), (8, 0), va="center", fontsize=9, annotation_clip=False, **at)


def shorten(names: Sequence[str], limit: int) -> list[str]:
    """Names in one line, cut to `limit` characters: at the end, or in the middle where that keeps them apart.

    Control characters and others that have no place in an SVG become "�".
    """
    lines = [" ".join(name.split()) for name in names]
    lines = ["".join(map(_in_svg, line)) for line in lines]
    ends = [line if len(line) <= limit else line[: limit - 1] + "…" for line in lines]
    times, tail = Counter(ends), limit // 2
    middles = [line if len(line) <= limit else line[: limit - tail - 1] + "…" + line[-tail:] for line in lines]
    return [end if times[end] == 1 else middle for end, middle in zip(ends, middles, strict=True)]


def _in_svg(character: str) -> str:
    return "�" if category(character) in ("Cc", "Cs") or character in "\ufffe\uffff" else character


def save_figure(
    figure: Figure, path_without_suffix: str | PathLike[str], numbers: Sequence[Sequence[Any]] | None = None
) -> tuple[Path, Path]:
    """Write a figure as PNG and SVG; each file is there whole or not at all, and the same figure is the same bytes.

    Args:
        figure: The figure. Its layout is final from here on, as laying it out again would move it a little.
        path_without_suffix: Path to which `.png` and `.svg` are added; missing folders are made.
        numbers: What it shows, rows below a heading: written beside it as `.json`.

    Returns:
        The paths of the two pictures.
    """
    from matplotlib import rc_context

    base = Path(path_without_suffix)
    base.parent.mkdir(parents=True, exist_ok=True)
    dpi = min(160.0, _PIXELS / figure.get_figwidth())
    metadata: dict[str, dict[str, None]] = {"png": {"Software": None}, "svg": {"Date": None}}
    kinds = (*metadata, "json") if numbers is not None else tuple(metadata)
    targets = {kind: base.with_name(f"{base.name}.{kind}") for kind in kinds}
    asides: dict[str, Path] = {}
    with rc_context(_STYLE):
        figure.draw_without_rendering()
        figure.set_layout_engine(None)  # with an engine, even one that does nothing, `savefig` draws twice
    try:
        for kind, target in targets.items():  # the numbers last: who reads them has the pictures
            handle, aside = tempfile.mkstemp(dir=base.parent, prefix=f".{target.name}.")
            asides[kind] = Path(aside)
            with os.fdopen(handle, "wb") as file, rc_context(_STYLE):
                if kind == "json":
                    file.write(json.dumps(numbers, allow_nan=False).encode())
                else:
                    figure.savefig(file, format=kind, dpi=dpi, metadata=metadata[kind])
            os.chmod(aside, 0o644)
        for kind, target in targets.items():
            os.replace(asides[kind], target)
    finally:
        for path in asides.values():
            path.unlink(missing_ok=True)
    return targets["png"], targets["svg"]
