"""Label spaces: the fixed, ordered set of classes of a task.

Knows names and ids. Knows nothing of models, tokenizers or answer texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

Label = str | int
"""One label, by name or by id."""


@dataclass(frozen=True)
class LabelSpace:
    """The ordered label names of a classification task.

    Args:
        names: Label names; the position of a name is its id.
        multi_label: Whether a document can have any number of labels (also none) instead of exactly one.

    Raises:
        ValueError: If there are fewer than two names, or a name is blank or given twice.
    """

    names: tuple[str, ...]
    multi_label: bool = False

    def __init__(self, names: Sequence[str], multi_label: bool = False) -> None:
        if isinstance(names, str):
            raise ValueError(f"`names` must be a list of label names, got the single string {names!r}.")
        object.__setattr__(self, "names", tuple(names))
        object.__setattr__(self, "multi_label", bool(multi_label))
        for name in self.names:
            if not isinstance(name, str) or not name.strip():
                raise ValueError(f"Label names must be non-empty strings, got {name!r} in {list(self.names)}.")
        repeated = sorted({name for name in self.names if self.names.count(name) > 1})
        if repeated:
            raise ValueError(f"Label names must be unique, but these are given more than once: {repeated}.")
        if len(self.names) < 2:
            raise ValueError(f"A classification task needs at least two labels, got {list(self.names)}.")

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}

    @property
    def label2id(self) -> dict[str, int]:
        """Map from label name to id."""
        return dict(self._ids)

    @property
    def id2label(self) -> dict[int, str]:
        """Map from label id to name."""
        return dict(enumerate(self.names))

    @property
    def problem_type(self) -> str:
        """The `problem_type` of transformers' configurations."""
        return "multi_label_classification" if self.multi_label else "single_label_classification"

    def index(self, label: Label) -> int:
        """Return the id of one label given by name or id.

        Raises:
            ValueError: If the label is not in this label space.
        """
        if isinstance(label, str) and label in self._ids:
            return self._ids[label]
        if isinstance(label, (int, np.integer)) and not isinstance(label, bool) and 0 <= label < len(self):
            return int(label)
        raise ValueError(f"Unknown label {label!r}. Known labels: {_shorten(self.names)}.")

    def encode(self, value: Label | Iterable[Label]) -> int | list[int]:
        """Turn the gold label(s) of one document into what a loss expects.

        Args:
            value: A label name or id; in a multi-label space, an iterable of them (it may be empty).

        Returns:
            The label id; in a multi-label space a 0/1 list as long as the label space.

        Raises:
            ValueError: If a label is unknown, or the shape does not fit the task.
        """
        if not self.multi_label:
            if isinstance(value, (list, tuple, set, frozenset)):
                raise ValueError(f"A single-label task takes one label per document, got {value!r}.")
            return self.index(value)  # type: ignore[arg-type]
        if isinstance(value, (str, int, np.integer)) or value is None:
            raise ValueError(f"A multi-label task takes a list of labels per document, got {value!r}.")
        ids = {self.index(label) for label in value}
        return [int(index in ids) for index in range(len(self))]

    def encode_batch(self, values: Iterable[Label | Iterable[Label]]) -> np.ndarray:
        """Encode many documents: int64 of shape `(n,)`, or `(n, labels)` in a multi-label space."""
        encoded = (self.encode(value) for value in values)
        if not self.multi_label:
            return np.fromiter(encoded, dtype=np.int64)
        rows = [np.asarray(row, dtype=np.int64) for row in encoded]
        return np.stack(rows) if rows else np.empty((0, len(self)), dtype=np.int64)

    def decode(self, encoded: Any) -> str | list[str]:
        """Inverse of `encode`: a label id to its name, or a 0/1 vector to a list of names in label-space order.

        Raises:
            ValueError: If the id or the vector's length does not fit this label space.
        """
        if not self.multi_label:
            return self.names[self.index(encoded.item() if isinstance(encoded, np.generic) else encoded)]
        if len(encoded) != len(self):
            raise ValueError(f"Expected a 0/1 vector of length {len(self)}, got length {len(encoded)}.")
        return [name for name, present in zip(self.names, encoded, strict=True) if present]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serialisable description, the inverse of `from_dict`."""
        return {"names": list(self.names), "multi_label": self.multi_label}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> LabelSpace:
        """Rebuild a label space from `to_dict`'s output."""
        return cls(data["names"], multi_label=data["multi_label"])


def _shorten(names: Sequence[str], limit: int = 20) -> str:
    listed = ", ".join(repr(name) for name in names[:limit])
    return listed if len(names) <= limit else f"{listed}, … ({len(names)} in all)"
