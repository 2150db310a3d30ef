"""Explanations to look at in a terminal: coloured text, which stays text. What `page` shows is marked alike."""

from __future__ import annotations

from unicodedata import category

import numpy as np

from .explanation import Explanation

FAINTEST = 0.1  # of a text's largest change: what changes less is not marked
_LEAST = 0.02  # a text's largest change counts as this at least, so that noise is not marked strongly
_STRENGTHS = 3
_UNSAFE = ("Cc", "Cs", "Zl", "Zp")  # control characters, halves of pairs, line and paragraph separators
_TURNING = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # the direction of what follows
# Backgrounds of 256 colours with black text, blue for and orange against: told apart by the colour-blind, too
_FOR, _AGAINST = (195, 117, 39), (223, 215, 208)


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
