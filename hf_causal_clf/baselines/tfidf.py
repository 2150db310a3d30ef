"""TF-IDF and logistic regression as a run: logits of documents, saved as a vocabulary (JSON) and arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..runs.disk import write_json
from ..runs.files import VOCABULARY_FILE, find_file, read_json
from ..task.scorer import check_list
from .linear import LinearHead

_SETTINGS = ("ngram_range", "sublinear_tf")  # that a fitted vectoriser still needs


class TfidfScorer:
    """Reads the logits from the words and word sequences of documents.

    Args:
        vectorizer: A fitted `TfidfVectorizer`.
        head: What gives its features logits.
        batch_size: Changes nothing: all documents are one batch.
    """

    approach = "tfidf"

    def __init__(self, vectorizer: Any, head: LinearHead, *, batch_size: int = 16) -> None:
        self.vectorizer = vectorizer
        self.head = head
        self.batch_size = batch_size

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Return the logit of each label, float32 `(n, labels)`.

        Raises:
            ValueError: If a single text is given instead of a list.
        """
        check_list(texts)
        if not len(texts):
            return np.zeros((0, len(self.head.bias)), dtype=np.float32)
        return self.head.logits(self.vectorizer.transform(texts))

    def save(self, folder: Path) -> None:
        """Write the vocabulary as JSON, and all numbers as safetensors."""
        terms = [str(term) for term in self.vectorizer.get_feature_names_out()]
        settings = {name: getattr(self.vectorizer, name) for name in _SETTINGS}
        write_json(folder / VOCABULARY_FILE, {**settings, "terms": terms})
        self.head.save(folder, idf=self.vectorizer.idf_)

    @classmethod
    def load(cls, source: str, labels: int, *, batch_size: int = 16, **hub_kwargs: Any) -> TfidfScorer:
        """Load what `save` wrote, from a folder or Hub repository.

        Raises:
            ValueError: If a file is missing or damaged, or files do not fit each other.
        """
        from sklearn.feature_extraction.text import TfidfVectorizer

        head, others = LinearHead.load(source, labels, **hub_kwargs)
        path = find_file(source, VOCABULARY_FILE, **hub_kwargs)
        if path is None:
            raise ValueError(f"{source!r} has no {VOCABULARY_FILE}. Train or download it again.")
        saved = read_json(path)
        try:
            settings = {name: saved[name] for name in _SETTINGS}
            settings["ngram_range"] = tuple(settings["ngram_range"])
            vectorizer = TfidfVectorizer(vocabulary=saved["terms"], **settings)
            vectorizer.idf_ = others["idf"]
            if len(saved["terms"]) != head.weight.shape[1]:
                raise ValueError(f"{len(saved['terms'])} terms for {head.weight.shape[1]} weights")
        except (KeyError, TypeError, ValueError) as error:
            reason = str(error).rstrip(".")
            raise ValueError(f"{path} does not fit its run ({reason}). Train or download it again.") from error
        return cls(vectorizer, head, batch_size=batch_size)
