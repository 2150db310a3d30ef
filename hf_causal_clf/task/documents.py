"""Documents without a prompt: from a document to token ids, the same way in training and at inference.

What a head reads, where `prompts` has what a language model answers. Knows tokenizers, but neither models nor torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .chunks import DocumentCutter
from .tokens import PlainTokenizer, check_truncation, special_frame, truncate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Texts after a document that a head may read: few, as each costs a pass over documents to be tried
SUFFIXES = ("\n\nTopic:", "\n\nCategory:", "\n\nIn one word, this text is about:")


class DocumentEncoder:
    """Token ids of a document as a text of its own, with the special tokens that the tokenizer puts around it.

    Args:
        tokenizer: The backbone's tokenizer.
        max_length: Maximum number of tokens, special tokens included; `None` for no limit.
        truncation: Where a document that is too long loses text: at its `"tail"`, its `"head"`, at `"both"` ends, or in
            its middle (`"head_tail"`).
        suffix: Text after each document, which is never cut. A head that reads the last token reads its end then.
        long_documents: Whether `chunks` cuts a document that is too long (`"truncate"`), or reads it in overlapping
            `"chunks"`, each with special tokens and suffix as a document of its own.

    Attributes:
        document_budget: Number of tokens of a document that fit; `None` for all.

    Raises:
        ValueError: If `max_length` leaves no room for the document.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int | None,
        truncation: str = "tail",
        *,
        suffix: str | None = None,
        long_documents: str = "truncate",
    ) -> None:
        check_truncation(max_length, truncation, long_documents)
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.truncation = truncation
        self.suffix = suffix
        self.long_documents = long_documents
        self._cut = DocumentCutter(tokenizer, truncation, long_documents)
        self._plain = PlainTokenizer(tokenizer)
        self._before, after = special_frame(tokenizer)
        self._after = [*(self._plain.encode(suffix, continues=True) if suffix else []), *after]
        special = len(self._before) + len(self._after)
        if max_length is not None and max_length <= special:
            around = "special tokens and document_suffix" if suffix else "special tokens"
            raise ValueError(f"max_length={max_length} leaves no room for the document: {around} alone take {special}.")
        self.document_budget = None if max_length is None else max_length - special

    def encode(self, document: str) -> list[int]:
        """Return the token ids of one document, cut where it is too long, never in chunks.

        Raises:
            ValueError: If there are none.
        """
        return self.fit(self.whole_ids(document))

    def chunks(self, document: str) -> list[list[int]]:
        """Return the token ids of each chunk of a document: what `encode` does where it fits or is to be cut.

        Raises:
            ValueError: If there are none.
        """
        return self.fit_chunks(self.whole_ids(document))

    def whole_ids(self, document: str) -> list[int]:
        """Return the token ids of one document, none cut off and no special tokens around them.

        Raises:
            ValueError: If a head would have none to read.
        """
        ids = self._plain.encode(document)
        if not ids and not self._before and not self._after:
            raise ValueError(
                f"The document {document[:60]!r} has no tokens with this tokenizer, so there is nothing to classify. "
                "Remove it, or use a model whose tokenizer knows its characters."
            )
        return ids

    def fit(self, ids: list[int]) -> list[int]:
        """Return what `encode` does, from the ids of the whole document."""
        return [*self._before, *truncate(ids, self.document_budget, self.truncation), *self._after]

    def fit_chunks(self, ids: list[int]) -> list[list[int]]:
        """Return what `chunks` does, from the ids of the whole document."""
        return [[*self._before, *part, *self._after] for part in self._cut(ids, self.document_budget)]
