"""Verbalizers: the map between labels and the answer texts that a language model writes.

Knows text only; how an answer is tokenised is the business of `prompts`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .labels import Label, LabelSpace


@dataclass(frozen=True)
class ParsedAnswer:
    """A generated answer, read back.

    Attributes:
        labels: Label names in label-space order; empty where the answer is malformed (or says that no label fits).
        error: Why the answer is malformed, or `None`.
    """

    labels: tuple[str, ...]
    error: str | None = None


class Verbalizer:
    """Maps labels to answer texts and parses generated answers back, strictly.

    A multi-label answer is the texts of its labels in label-space order, joined by `delimiter`; a document without
    any label is answered with `empty_answer`.

    Args:
        labels: The label space.
        answers: Answer text by label name; a label that is left out is answered with its own name.
        delimiter: Text between two labels of a multi-label answer.
        empty_answer: Answer for a document with no label (multi-label only).

    Raises:
        ValueError: If `answers` names an unknown label, an answer is blank, two answers are equal once case, spacing
            and Unicode form are normalised, or a multi-label answer contains the delimiter.
    """

    def __init__(
        self,
        labels: LabelSpace,
        answers: Mapping[str, str] | None = None,
        *,
        delimiter: str = ", ",
        empty_answer: str = "none",
    ) -> None:
        answers = dict(answers or {})
        unknown = sorted(set(answers) - set(labels.names))
        if unknown:
            raise ValueError(f"Answers are given for unknown labels {unknown}. Known labels: {list(labels.names)}.")
        self.labels = labels
        self.delimiter = delimiter
        self.empty_answer = empty_answer.strip()
        self.answers: tuple[str, ...] = tuple(str(answers.get(name, name)).strip() for name in labels.names)
        self._check()

    def _check(self) -> None:
        texts = dict(zip(self.labels.names, self.answers, strict=True))
        if self.labels.multi_label:
            if not self.delimiter.strip():
                raise ValueError(f"The label delimiter must contain a visible character, got {self.delimiter!r}.")
            texts["(no label)"] = self.empty_answer
        seen: dict[str, str] = {}
        for label, text in texts.items():
            key = normalize_answer(text)
            if not key:
                raise ValueError(f"The answer of label {label!r} is empty. Give it a text in `answers`.")
            if key in seen:
                raise ValueError(
                    f"The answers of labels {seen[key]!r} and {label!r} collide: both read {key!r} once case and "
                    "spacing are ignored. Give one of them another text in `answers`"
                    + (" or change `empty_answer`." if label == "(no label)" else ".")
                )
            seen[key] = label
            if self.labels.multi_label and self.delimiter.strip() in text:
                raise ValueError(
                    f"The answer {text!r} of label {label!r} contains the label delimiter {self.delimiter!r}. "
                    "Choose another delimiter or another answer text."
                )

    def verbalize(self, value: Label | Iterable[Label]) -> str:
        """Return the answer text for the gold label(s) of one document (see `LabelSpace.encode` for `value`)."""
        encoded = self.labels.encode(value)
        if isinstance(encoded, int):
            return self.answers[encoded]
        chosen = [answer for answer, present in zip(self.answers, encoded, strict=True) if present]
        return self.delimiter.join(chosen) or self.empty_answer

    def parse(self, text: str) -> ParsedAnswer:
        """Read a generated answer back.

        Well-formed is exactly what `verbalize` writes, up to surrounding white space. Anything else is malformed and
        carries the reason.
        """
        text = text.strip()
        if not text:
            return ParsedAnswer((), "empty answer")
        if self.labels.multi_label:
            return self._parse_multi_label(text)
        if text in self.answers:
            return ParsedAnswer((self.labels.names[self.answers.index(text)],))
        return ParsedAnswer((), self._explain(text))

    def _parse_multi_label(self, text: str) -> ParsedAnswer:
        if text == self.empty_answer:
            return ParsedAnswer(())
        parts = text.split(self.delimiter)
        unknown = [part for part in parts if part not in self.answers]
        if unknown:
            pieces = [piece.strip() for piece in re.split(r"[,;/|&\n]+|\band\b", text)]
            if len(pieces) > 1 and all(piece in self.answers for piece in pieces):
                return ParsedAnswer((), f"wrong delimiter: expected {self.delimiter!r} between labels")
            return ParsedAnswer((), self._explain(unknown[0].strip()))
        ids = [self.answers.index(part) for part in parts]
        if len(set(ids)) < len(ids):
            repeated = next(part for part in parts if parts.count(part) > 1)
            return ParsedAnswer((), f"repeated label {repeated!r}")
        if ids != sorted(ids):
            return ParsedAnswer((), "labels out of order")
        return ParsedAnswer(tuple(self.labels.names[index] for index in ids))

    def _explain(self, text: str) -> str:
        for answer in self.answers:
            if normalize_answer(text) == normalize_answer(answer):
                return f"differs from {answer!r} in case or spacing"
        for answer in sorted(self.answers, key=len, reverse=True):
            if text.startswith(answer):
                return f"extra text after {answer!r}"
        return f"{text[:60]!r} is not an answer"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serialisable description, the inverse of `from_dict`."""
        return {
            "answers": dict(zip(self.labels.names, self.answers, strict=True)),
            "delimiter": self.delimiter,
            "empty_answer": self.empty_answer,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any], labels: LabelSpace) -> Verbalizer:
        """Rebuild a verbalizer from `to_dict`'s output and its label space."""
        return cls(labels, data["answers"], delimiter=data["delimiter"], empty_answer=data["empty_answer"])


def normalize_answer(text: str) -> str:
    """Fold case, Unicode form and white space, the differences that a reader would not see as another answer."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
