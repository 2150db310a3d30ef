"""The part of `TextClassifier` that says why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, overload

import numpy as np

from ..task.labels import Label, LabelSpace
from ..task.scorer import Scorer, VariantScorer
from ..task.texts import Empty, read_texts
from .explanation import Explanation
from .leaving_out import leave_out
from .units import UNITS, Unit


class ExplainedPrediction:
    """The part of `TextClassifier` that says why."""

    scorer: Scorer
    label_space: LabelSpace
    decide: Callable[..., Any]
    predict: Callable[..., Any]
    predict_proba: Callable[..., np.ndarray]
    _calibrated: Callable[[np.ndarray], np.ndarray]

    @overload
    def explain(  # type: ignore[overload-overlap]
        self, texts: str, *, unit: Unit = "sentence", label: Label | None = None, empty: Empty = "error"
    ) -> Explanation: ...
    @overload
    def explain(
        self, texts: Iterable[str], *, unit: Unit = "sentence", label: Label | None = None, empty: Empty = "error"
    ) -> list[Any]: ...

    def explain(
        self, texts: str | Iterable[str], *, unit: Unit = "sentence", label: Label | None = None, empty: Empty = "error"
    ) -> Any:
        """Say how much the probability of a label falls where a part of a text is left out.

        Exact: each number is a difference of two rows of `predict_proba`, of the text and of the text without that
        part, in float32 within 1e-4. The white space after a part leaves with it, and with the last one that before it.
        With a head or label scoring, the tokens before the part are run once for all parts, which halves the cost. A
        document that is too long is cut after the part has left, so that text that was cut off may come in; a part that
        was cut off itself has a drop of 0. Where two parts say the same, none of the two may have a drop.

        Leaving parts out is the method of Zeiler and Fergus (2014, arXiv 1311.2901, section 4.2) and Li et al. (2016,
        arXiv 1612.08220).

        Args:
            texts: As for `predict_proba`.
            unit: The smallest parts: a `"sentence"` (of a text of one sentence, its words), or a `"word"`. In words,
                halves of each sentence are left out first, then halves of what matters; so parts that do not
                matter stay larger than a word.
            label: The label to explain, by name or id; by default the most probable one of each text.
            empty: As for `predict_proba`; an empty text that is kept gives `None`.

        Returns:
            An `Explanation` for each text; for a single text, its own.

        Raises:
            ValueError: As for `predict_proba`; and if the unit or the label is not known.
        """
        if unit not in UNITS:
            raise ValueError(f"unit must be one of {list(UNITS)}, got {unit!r}.")
        wanted = None if label is None else self.label_space.index(label)
        given = read_texts(texts, empty=empty)
        documents = leave_out(given.texts, self.predict_variants, unit=unit, label=wanted)
        whole = np.array([parts.whole for parts in documents]).reshape(len(documents), len(self.label_space))
        # A cascade decides by the stage that answered, which probabilities do not tell
        shared = isinstance(self.scorer, VariantScorer)
        predicted = self.decide(whole) if shared else self.predict(given.texts)
        explanations: list[Any] = [None] * given.count
        for place, parts, row, answer in zip(given.positions, documents, whole, predicted, strict=True):
            explained = self.label_space.names[int(row.argmax()) if wanted is None else wanted]
            spans, drops = parts.found()
            explanations[place] = Explanation(parts.text, self.label_space.names, explained, answer, row, spans, drops)
        return explanations[0] if given.single else explanations

    def predict_variants(self, documents: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Return what `predict_proba` does of texts that are variants of one another, in about half of the time.

        Args:
            documents: The variants of each document, at least one and none empty. What a variant begins with like the
                document's first one is run once, where the approach and the model's attention allow it.

        Returns:
            Float32 `(variants, labels)` for each document.

        Raises:
            ValueError: If the model gives no numbers for one.
        """
        if not documents:
            return []
        ends = np.cumsum([len(variants) for variants in documents])[:-1]
        texts = [text for variants in documents for text in variants]
        if not isinstance(self.scorer, VariantScorer):
            return np.split(self.predict_proba(texts), ends)
        probabilities = self._calibrated(np.concatenate(self.scorer.logits_of_variants(documents)))
        read_texts(texts).check_numbers(probabilities)
        return np.split(probabilities, ends)
