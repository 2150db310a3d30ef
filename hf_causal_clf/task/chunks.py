"""Long documents in overlapping chunks: where they are cut, and how what is found of the chunks becomes a document's.

Knows token ids and arrays; neither models nor what stands around a document.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from .tokens import token_ids, truncate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_Row = TypeVar("_Row")

OVERLAP = 8  # a chunk begins with the last eighth of what the one before it may hold
_LOOKED_BACK = 8  # tokens, in which a sentence's last characters are, be they bytes
_CLOSING = "\"'”’»›」』)\\]*_"
# A sentence's end with the white space after it, a CJK one with or without, or the end of a line
_SENTENCE_END = re.compile(rf"([.!?…][{_CLOSING}]*\s+|[。！？｡][{_CLOSING}]*\s*|\n\s*)$")


def chunk_spans(length: int, budget: int, ends: Callable[[int], bool]) -> list[tuple[int, int]]:
    """Cut a document into overlapping chunks.

    Each holds at most `budget` tokens, and ends where a sentence does, if one does in the last quarter of what it may
    hold; else at a token. The next begins an eighth of `budget` before that. The last one is as long as may be, so
    that a document a token too long for one chunk is read much as it would be in one.

    Args:
        length: Number of tokens of the document.
        budget: Most tokens of a chunk, at least 1.
        ends: Whether a sentence ends before the token at a place.

    Returns:
        The first token of each chunk, and the place after its last one.
    """
    spans, start = [], 0
    while length - start > budget:
        limit = start + budget
        end = next((place for place in range(limit, limit - budget // 4, -1) if ends(place)), limit)
        spans.append((start, end))
        start = end - budget // OVERLAP
    return [*spans, (max(0, length - budget), length)]


class DocumentCutter:
    """Shortens the token ids of documents that are too long, or cuts them into chunks.

    Args:
        tokenizer: Its tokens' texts say where sentences end.
        truncation: Where a document that is too long loses text.
        long_documents: `"truncate"` or `"chunks"`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, truncation: str, long_documents: str) -> None:
        self._tokenizer = tokenizer
        self._truncation = truncation
        self._in_chunks = long_documents == "chunks"
        self._anchor = token_ids(tokenizer, "a")  # some tokenizers leave out the space before the first token

    def __call__(self, ids: list[int], budget: int | None) -> list[list[int]]:
        """Return the ids of each chunk, at most `budget` a chunk (`None`: all); of a document that is cut, the one."""
        if not self._in_chunks or not budget or len(ids) <= budget:
            return [truncate(ids, budget, self._truncation)]
        return [ids[start:end] for start, end in chunk_spans(len(ids), budget, lambda place: self._ends(ids, place))]

    def _ends(self, ids: list[int], place: int) -> bool:
        """Whether a sentence ends before the token at a place; quotation marks and the like may close it."""
        window = [*self._anchor, *ids[max(0, place - _LOOKED_BACK) : place]]
        before = self._decode(window)
        after = self._decode([*window, ids[place]])[len(before) :]
        return bool(_SENTENCE_END.search(before + (" " if after[:1].isspace() else "")))

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def rows_of(chunks: Sequence[Sequence[_Row]]) -> tuple[list[_Row], np.ndarray]:
    """Return the chunks of all documents as rows, and the number of rows of each document, int64 `(documents,)`."""
    rows = [chunk for document in chunks for chunk in document]
    return rows, np.array([len(document) for document in chunks], dtype=np.int64)


def mean_over_chunks(found: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the mean of each document's rows, float32 `(documents, …)`; of a document with one row, that row.

    Args:
        found: A row for each chunk, `(rows, …)`, in the order of the documents.
        counts: Number of rows of each document, as `rows_of` returns it.
    """
    if len(found) == len(counts):
        return found
    totals = np.add.reduceat(found.astype(np.float64), counts.cumsum() - counts)
    return (totals / counts.reshape(-1, *[1] * (found.ndim - 1))).astype(np.float32)


def largest_of_chunks(found: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the largest of each document's rows, as `mean_over_chunks` their mean."""
    return found if len(found) == len(counts) else np.maximum.reduceat(found, counts.cumsum() - counts)
