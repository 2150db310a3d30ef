"""A text in sentences or words, in any script: where each begins and ends. Knows strings only."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Literal

Unit = Literal["sentence", "word"]
UNITS: tuple[Unit, ...] = ("sentence", "word")

# After these a dot ends no sentence, whatever follows; after others it ends none where a small letter does
_ABBREVIATIONS = """
    mr mrs ms dr prof st jr sr vs inc ltd fig vol gen sen rep gov lt col sgt capt jan feb mar apr aug sep sept oct nov
    dec approx nr bzw ca evtl ggf inkl vgl sog abs art str tel hr bd jh mio mrd abb okt dez mme sra dra ud uds av ул им
"""
_LOWER = "".join(chr(code) for code in range(0x600) if chr(code).islower())
_OPENING, _CLOSING = "\"'“‘„‚«‹(\\[¿¡*_", "\"'”’“»›)\\]*_"
_MARKS = "!?…‽\u037e։؟۔।॥။។៕።፧།"
_CJK_MARKS, _CJK_CLOSING = "。！？｡", "」』）】》〉”’\"'"
_SPACE = r"[^\S\n]"
_CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"


def _sentence_end(small: str) -> re.Pattern[str]:
    """What ends a sentence, its white space included; a letter of `small` begins none."""
    names = sorted({form for word in _ABBREVIATIONS.split() for form in (word, word.capitalize(), word.upper())})
    no_dot = "".join(rf"(?<!\b{name})" for name in names)
    return re.compile(
        rf"""
        # a mark and white space; no dot after an abbreviation, an initial, or a number of one or two digits
        (?<![.{_MARKS}])
        (?: {no_dot} (?<!\b[^\W\d]) (?<!(?<![\d.])\d) (?<!(?<![\d.])\d\d) \. (?! (?<=\b[Nn]o\.) \s+ \d )
            | (?<=\.)\. | [{_MARKS}] )++
            [{_CLOSING}]*+ (?: {_SPACE}[»›] )? (?: {_SPACE}*+\n++ | {_SPACE}++ ) (?! \s*+ [{_OPENING}]* [{small}] )
        | (?<![{_CJK_MARKS}]) [{_CJK_MARKS}]++ [{_CJK_CLOSING}]*+ \s*+
        | (?<!{_SPACE}) (?: {_SPACE}*+\n ){{2,}}+  # an empty line
        # a line's end, but not within a sentence that goes on
        | (?<!{_SPACE}) {_SPACE}*+\n (?! [{small}] )
        | (?<! [\w\s,-] ) {_SPACE}*+\n
        | (?<= [\u0e01-\u0edf] ) [ ]+ (?= [\u0e01-\u0edf] )  # Thai and Lao have no mark
        """,
        re.VERBOSE,
    )


_SENTENCE_END = _sentence_end(_LOWER)
_SENTENCE_END_ALL_SMALL = _sentence_end("\x00")
# Of CJK scripts, a character; of Thai, Lao, Khmer and Burmese, what stands between two spaces
_WORD_END = re.compile(rf"(?<=[^\s{_CJK}])(?=[{_CJK}])|[{_CJK}][^\w\s]*\s*|\s+")


def cut(text: str, unit: Unit) -> list[tuple[int, int]]:
    """Cut a text into sentences or words.

    Args:
        text: Any text.
        unit: `"sentence"`: up to a mark that ends one, an empty line, or a line's end where the sentence does not go on
            (lists, code). `"word"`: up to white space, or a character of a script that has none (Chinese, Japanese).

    Returns:
        Start and end of each in characters, in order; together they are the whole text, and none is white space alone.
        Of a text that is white space alone: one.

    Raises:
        ValueError: If the unit is not known.
    """
    if unit not in UNITS:
        raise ValueError(f"unit must be one of {list(UNITS)}, got {unit!r}.")
    sentence = _SENTENCE_END_ALL_SMALL if text.islower() else _SENTENCE_END
    places, last = [0], len(text.rstrip())
    for match in (sentence if unit == "sentence" else _WORD_END).finditer(text):
        if match.end() < last and text[places[-1] : match.end()].strip():
            places.append(match.end())
    return list(pairwise([*places, len(text)]))


def without(text: str, spans: list[tuple[int, int]]) -> str:
    """Return a text without some of its parts; where its end is left out, the white space before that is too.

    Args:
        text: Any text.
        spans: Start and end of each part, in order, none overlapping another.
    """
    starts, ends = [0, *(end for _, end in spans)], [*(start for start, _ in spans), len(text)]
    kept = "".join(text[start:end] for start, end in zip(starts, ends, strict=True))
    return kept.rstrip() if spans and spans[-1][1] == len(text) else kept
