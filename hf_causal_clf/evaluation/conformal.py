"""Conformal sets: several labels where one is not sure, so that the right one is among them as often as asked for.

Split conformal prediction for single-label tasks: a document's score is how badly its gold label fits, and a set has
every label whose score is not above a quantile of the scores of documents that nothing was fitted on. Knows arrays and,
for a number that belongs to a text, texts.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LEAST = 50  # documents that sets are made from
LEAST_OF_LABEL = 20  # the same of each label, for coverage of each
MOST = 1000  # documents whose scores are kept: 0.9 is then 0.88 to 0.92 in 95 % of draws
METHODS = ("lac", "aps")
_DIGITS = 7  # of a score


def check_coverage(coverage: float) -> None:
    """Check that it is a share between 0 and 1.

    Raises:
        ValueError: If it is not.
    """
    if isinstance(coverage, bool) or not isinstance(coverage, int | float) or not 0 < coverage < 1:
        raise ValueError(f"coverage must be a share between 0 and 1, such as 0.9, got {coverage!r}.")


def lac_scores(probabilities: np.ndarray) -> np.ndarray:
    """Return the score of each label, float64 `(n, labels)`: one minus its probability.

    Least ambiguous sets: the smallest on average, but empty where no label is likely enough (Sadinle et al., 2019,
    arXiv 1609.00451).
    """
    return 1.0 - probabilities.astype(np.float64)


def aps_scores(probabilities: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Return the score of each label, float64 `(n, labels)`: the probability of those before it, and a part of its.

    Adaptive sets: larger where the classifier is less sure, so that coverage is closer to the same for easy and hard
    documents (Romano et al., 2020, arXiv 2006.02544).

    Args:
        probabilities: `(n, labels)`.
        uniform: A number for each document, uniform in [0, 1): the part.
    """
    exact = probabilities.astype(np.float64)
    order = np.argsort(-exact, axis=1, kind="stable")
    ranked = np.take_along_axis(exact, order, axis=1)
    scores = np.empty_like(exact)
    np.put_along_axis(scores, order, ranked.cumsum(axis=1) - ranked * (1.0 - uniform[:, None]), axis=1)
    return scores


def uniform_of(texts: Sequence[str]) -> np.ndarray:
    """Return a number for each text, uniform in [0, 1), float64 `(n,)`: always the same for the same text."""
    digests = [hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:8] for text in texts]
    return np.array([int.from_bytes(digest) >> 11 for digest in digests], dtype=np.float64) / 2**53


def scores_of(method: str, probabilities: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """Return the score of each label by one of `METHODS`, float64 `(n, labels)`, rounded as they are saved.

    Raises:
        ValueError: If `method` is not one.
    """
    if method == "lac":
        return lac_scores(probabilities).round(_DIGITS)
    if method == "aps":
        return aps_scores(probabilities, uniform_of(texts)).round(_DIGITS)
    raise ValueError(f"method must be one of {list(METHODS)}, got {method!r}.")


@dataclass(frozen=True)
class Conformal:
    """Scores of documents that nothing was fitted on.

    Attributes:
        scores: For each of `METHODS`, the scores of the documents with each label: a list for each label.
    """

    scores: dict[str, list[list[float]]]

    @property
    def documents(self) -> int:
        """Number of the documents."""
        return sum(map(len, self.scores["lac"]))

    def sets(
        self,
        probabilities: np.ndarray,
        texts: Sequence[str],
        coverage: float,
        *,
        method: str = "lac",
        class_conditional: bool = False,
    ) -> np.ndarray:
        """Return which labels are in the set of each document, bool `(n, labels)`; errors are those of `limits`."""
        limits = self.limits(coverage, method=method, class_conditional=class_conditional)
        return scores_of(method, probabilities, texts) <= limits

    def limits(self, coverage: float, *, method: str = "lac", class_conditional: bool = False) -> np.ndarray:
        """Return the highest score that a label of a set has, float64 `(labels,)`.

        Args:
            coverage: Share of documents whose label is in the set: on average over draws of the scored documents it is
                at least this, and for n of them beta distributed, with k = ⌈(n + 1) coverage⌉ as Beta(k, n + 1 − k).
            method: One of `METHODS`.
            class_conditional: Whether that holds for the documents of each label, and not for all together.

        Raises:
            ValueError: If an argument is not allowed, or there are too few documents, with their least number.
        """
        check_coverage(coverage)
        if method not in METHODS:
            raise ValueError(f"method must be one of {list(METHODS)}, got {method!r}.")
        groups = self.scores[method]
        if not class_conditional:
            groups = [[score for group in groups for score in group]]
        needed = max(LEAST_OF_LABEL if class_conditional else LEAST, math.ceil(coverage / (1.0 - coverage) - 1e-9))
        _check_sizes([len(group) for group in groups], needed, coverage, class_conditional)
        ranks = [math.ceil((len(group) + 1) * coverage - 1e-9) for group in groups]
        found = [sorted(group)[rank - 1] for group, rank in zip(groups, ranks, strict=True)]
        return np.array(found if class_conditional else found * len(self.scores[method]))

    def check(self, labels: int) -> None:
        """Check that it is of a run with so many labels.

        Raises:
            ValueError: If it is not.
        """
        sizes = [[len(group) for group in self.scores[method]] for method in METHODS]
        if len(sizes[0]) != labels or sizes[0] != sizes[1]:
            raise ValueError(f"conformal must have scores of {list(METHODS)} for each of {labels} labels.")
        flat = [score for groups in self.scores.values() for group in groups for score in group]
        if not all(type(score) in (int, float) and 0 <= score <= 1.001 for score in flat):
            raise ValueError("conformal must have scores from 0 to 1.")

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of `classification.json`."""
        return self.scores

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Conformal:
        """Rebuild it from `to_dict`'s output."""
        return cls({method: data[method] for method in METHODS})


def _check_sizes(sizes: list[int], needed: int, coverage: float, class_conditional: bool) -> None:
    if min(sizes) >= needed:
        return
    if class_conditional:
        few = f"{sum(size < needed for size in sizes)} of {len(sizes)} labels have only {min(sizes)} scores or few more"
        wanted, way = f"{needed} of each label are", ", leave class_conditional out"
    else:
        few, wanted, way = f"Scores of {sizes[0]} documents are there", f"{needed} are", ""
    raise ValueError(
        f"{few}: too few for sets with coverage {coverage:g}, for which {wanted} needed. Train with more validation "
        f"documents or with --folds{way}, or ask for less coverage."
    )


def conformal_scores(gold: np.ndarray, probabilities: np.ndarray, texts: Sequence[str]) -> Conformal:
    """Return the scores that sets are made from, of at most `MOST` documents.

    Args:
        gold: Label ids `(n,)` of documents that nothing was fitted on.
        probabilities: Their probabilities `(n, labels)`, as sets will be made from.
        texts: Their texts, for `uniform_of`.
    """
    rows = np.sort(np.random.default_rng(0).permutation(len(gold))[:MOST])
    own, labels = gold[rows], range(probabilities.shape[1])
    scores = {method: scores_of(method, probabilities[rows], [texts[row] for row in rows]) for method in METHODS}
    return Conformal(
        {
            method: [np.sort(of_all[own == label, label]).tolist() for label in labels]
            for method, of_all in scores.items()
        }
    )
