"""Explanations to look at: coloured text for a terminal, a page for a browser. Document text stays text in both."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Sequence
from unicodedata import category

import numpy as np

from .explanation import Explanation

FAINTEST = 0.1  # of a text's largest change: what changes less is not marked
_LEAST = 0.02  # a text's largest change counts as this at least, so that noise is not marked strongly
_STRENGTHS = 3
_LISTED = 5  # parts with the largest drops
_UNSAFE = ("Cc", "Cs", "Zl", "Zp")  # control characters, halves of pairs, line and paragraph separators
_TURNING = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # the direction of what follows
# Backgrounds of 256 colours with black text, blue for and orange against: told apart by the colour-blind, too
_FOR, _AGAINST = (195, 117, 39), (223, 215, 208)

_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1b1b1b; --soft: #595959; --line: #ccc;
  --for1: #e3f1fa; --for2: #b5dbf2; --for3: #7cc0e8; --against1: #fdeedd; --against2: #fad3a4; --against3: #f5b266; }
@media (prefers-color-scheme: dark) { :root { --ground: #16181a; --ink: #ececec; --soft: #b0b0b0; --line: #4a4d50;
  --for1: #173042; --for2: #1d4d6e; --for3: #1f6b9c; --against1: #3d2a14; --against2: #664316; --against3: #8f5a12; } }
body { max-width: 50rem; margin: 0 auto; padding: 1rem; font: 1rem/1.6 system-ui, sans-serif; color: var(--ink);
  background: var(--ground); overflow-wrap: anywhere; }
article { border-top: 1px solid var(--line); padding: 1rem 0; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 0; } .text { white-space: pre-wrap; }
.soft { color: var(--soft); } table { border-collapse: collapse; }
caption { text-align: start; } td { padding: 0 .8rem .2rem 0; vertical-align: top; }
td:first-child { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
mark { color: inherit; border-radius: .2rem; }
.for1 { background: var(--for1); } .for2 { background: var(--for2); } .for3 { background: var(--for3); }
.against1 { background: var(--against1); } .against2 { background: var(--against2); }
.against3 { background: var(--against3); }
@media print { mark { print-color-adjust: exact; } article { break-inside: avoid; } }
"""


def printable(text: str) -> str:
    """Return a text that can neither steer a terminal nor turn what stands after it: such characters become "�"."""
    return "".join(
        "�" if each in _TURNING or (category(each) in _UNSAFE and each not in "\n\t") else each
        for each in text.replace("\r\n", "\n")
    )


def marked_text(explanation: Explanation) -> str:
    """Return the text with ANSI colours for a terminal: blue speaks for the label, orange against it.

    The stronger the colour, the more its probability falls, or rises, without the part.
    """
    pieces = []
    for part, strength in zip(explanation.parts(), strengths(explanation.drops_of()), strict=True):
        if strength == 0:
            pieces.append(printable(part))
            continue
        colour = (_FOR if strength > 0 else _AGAINST)[abs(strength) - 1]
        kept = part.rstrip()
        pieces.append(f"\x1b[38;5;16;48;5;{colour}m{printable(kept)}\x1b[0m{printable(part[len(kept) :])}")
    return "".join(pieces)


def strengths(drops: np.ndarray) -> list[int]:
    """Return how strongly each part is marked: 1 to 3 where it speaks for the label, -1 to -3 against it, else 0.

    Args:
        drops: `(parts,)`; NaN is not marked.
    """
    changes = np.nan_to_num(drops)
    shares = np.abs(changes) / np.abs(changes).max(initial=_LEAST)
    levels = np.where(shares < FAINTEST, 0, np.ceil(shares * _STRENGTHS - 1e-6))
    return [int(level) for level in levels * np.sign(changes)]


def heading(explanation: Explanation, name: object) -> str:
    """Return one line that says which document it is, what was predicted, and how sure that is."""
    predicted = explanation.predicted
    answer = predicted if isinstance(predicted, str) else ", ".join(predicted) or "no label"
    about = f"{explanation.probability:.3f}"
    if predicted not in (explanation.label, [explanation.label]):
        about = f"{explanation.label} {about}"
    return printable(f"{name}: {answer} ({about})").replace("\n", " ")


def page(explanations: Iterable[tuple[object, Explanation]], *, title: str, notes: Sequence[str] = ()) -> str:
    """Return a page of its own, in HTML: no script, nothing from elsewhere, and all text escaped.

    Args:
        explanations: A name and an explanation for each document.
        title: Its heading.
        notes: Lines under it.
    """
    digest = hashlib.sha256(_STYLE.encode()).digest()
    policy = f"default-src 'none'; style-src 'sha256-{base64.b64encode(digest).decode()}'"
    head = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_escaped(title)}</title>\n<style>{_STYLE}</style></head>\n<body><main><h1>{_escaped(title)}</h1>\n"
    )
    legend = (
        '<p class="soft"><mark class="for3">Blue</mark>: without this part, the label is less probable. '
        '<mark class="against3">Orange</mark>: without it, the label is more probable.</p>\n'
    )
    lines = "".join(f'<p class="soft">{_escaped(note)}</p>\n' for note in notes)
    return head + lines + legend + "".join(_article(*each) for each in explanations) + "</main></body></html>\n"


def _article(name: object, explanation: Explanation) -> str:
    drops = explanation.drops_of()
    marked = []
    for part, strength, drop in zip(explanation.parts(), strengths(drops), drops, strict=True):
        if strength == 0:
            marked.append(_escaped(part))
        else:
            kind = f"{'for' if strength > 0 else 'against'}{abs(strength)}"
            kept = part.rstrip()
            after = _escaped(part[len(kept) :])
            marked.append(f'<mark class="{kind}" title="{_signed(drop)}">{_escaped(kept)}</mark>{after}')
    order = sorted(np.flatnonzero(np.nan_to_num(drops)), key=lambda part: -abs(drops[part]))[:_LISTED]
    rows = "".join(
        f'<tr><td>{_signed(drops[part])}</td><td dir="auto">{_escaped(explanation.parts()[part].strip())}</td></tr>\n'
        for part in order
    )
    return (
        f'<article><h2 dir="auto">{_escaped(heading(explanation, name))}</h2>\n<p class="text" dir="auto">'
        f'{"".join(marked)}</p>\n<table><caption class="soft">Without it, the probability of '
        f"{_escaped(explanation.label)} changes by</caption>\n{rows}</table></article>\n"
    )


def _signed(drop: float) -> str:
    return f"{-drop:+.3f}".replace("-", "\u2212")


def _escaped(text: str) -> str:
    return html.escape(printable(text))
