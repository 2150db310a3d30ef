r"""How well the audit finds labels that were flipped: `python recipes/benchmarks/label_audit.py --data FOLDER`.

1,000 documents of each data set, of which 5 or 10 % get another label: any other (uniform), or the one that theirs is
most often taken for (confused). Mean and standard deviation over seeds of: the precision among as many documents as
were flipped, those with the surest doubts first; the same of the audit's two judges, each alone; precision and recall
of those that count as errors; and the test F1 (macro; micro of several labels) of a frozen head trained on all
documents as they are, without those that count as errors, without as many at random, and with the right labels.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.label_data import Documents, arguments, load
from hf_causal_clf.baselines.fitting import fit_head
from hf_causal_clf.data.folds import assign_folds
from hf_causal_clf.evaluation.calibration import fit_calibration, to_probabilities
from hf_causal_clf.evaluation.metrics import decide, decision_metrics, negative_log_likelihood
from hf_causal_clf.labelling.errors import label_doubts, label_errors
from hf_causal_clf.labelling.heads import fitted, out_of_fold
from hf_causal_clf.labelling.judging import both

DOCUMENTS, FOLDS = 1000, 5
TFIDF_STRENGTHS = (1.0, 10.0, 100.0)
COLUMNS = (
    *("precision at the number flipped", "heads on frozen features alone", "heads on TF-IDF alone"),
    *("errors: number", "errors: precision", "errors: recall"),
    *("F1 as they are", "F1 without errors", "F1 without as many at random", "F1 with right labels"),
)


def main() -> None:
    given = arguments(__doc__)
    for name in given.only:
        documents = load(name, given)
        for kind in ("uniform", "confused"):
            for share in (0.05, 0.1):
                rows = np.array([measured(documents, kind, share, seed) for seed in range(given.seeds)])
                cells = [
                    f"{column} {mean:.3f} ± {spread:.3f}"
                    for column, mean, spread in zip(COLUMNS, rows.mean(axis=0), rows.std(axis=0), strict=True)
                ]
                print(f"{name}, {kind}, {share:.0%} of {DOCUMENTS}: {'; '.join(cells)}", flush=True)


def measured(documents: Documents, kind: str, share: float, seed: int) -> list[float]:
    """Return the numbers of `COLUMNS` for one draw."""
    draw = np.random.default_rng(seed)
    rows = draw.permutation(len(documents.gold))[:DOCUMENTS]
    features, right, labels = documents.features[rows], documents.gold[rows], len(documents.space)
    folds = assign_folds(right, list(range(len(rows))), FOLDS, seed)
    count = round(share * len(rows))
    flipped = draw.permutation(len(rows))[:count]
    given = right.copy()
    weights = np.ones((len(rows), labels))
    if kind == "confused":
        logits, _ = out_of_fold(features, right, folds, labels, [0.01])
        weights = most_confused(right, to_probabilities(logits, multi_label=right.ndim == 2))
    for row in flipped:
        given[row] = another(right[row], weights[row], draw)
    folds = assign_folds(given, list(range(len(rows))), FOLDS, seed)  # as with labels of which nothing is known
    states, strength = out_of_fold(features, given, folds, labels)
    words = tfidf_logits([documents.texts[row] for row in rows], given, folds, labels)
    each = [
        fit_calibration(given, logits).apply(logits, multi_label=right.ndim == 2)
        for logits in (both(states, words, multi_label=right.ndim == 2), states, words)
    ]
    errors = label_errors(given, each[0])
    random = draw.permutation(len(rows))[: len(rows) - errors.sum()]

    def f1(kept: np.ndarray, gold: np.ndarray) -> float:
        head = fitted(features[kept], gold[kept], labels, strength)
        found = to_probabilities(head.logits(documents.test_features), multi_label=right.ndim == 2)
        decided = decide(found, multi_label=right.ndim == 2)
        return decision_metrics(documents.test_gold, decided)["f1_micro" if right.ndim == 2 else "f1_macro"]

    every = np.arange(len(rows))
    return [
        *(np.isin(np.argsort(-label_doubts(given, p), kind="stable")[:count], flipped).mean() for p in each),
        errors.sum(),
        np.isin(np.flatnonzero(errors), flipped).mean(),
        errors[flipped].mean(),
        f1(every, given),
        f1(np.flatnonzero(~errors), given),
        f1(random, given),
        f1(every, right),
    ]


def another(label: np.ndarray, weights: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Replace a label, one of several, by another one, drawn by weights."""
    has = np.atleast_1d(label) if label.ndim else np.eye(len(weights), dtype=int)[label]
    chances = np.where(has, 0, weights)
    new = draw.choice(len(weights), p=chances / chances.sum())
    if not label.ndim:
        return np.array(new)
    changed = label.copy()
    if label.any():
        changed[draw.choice(np.flatnonzero(label))] = 0
    changed[new] = 1
    return changed


def most_confused(gold: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """1 for the label that a document's is most often taken for; of several labels, the likeliest of the others."""
    labels = probabilities.shape[1]
    if gold.ndim == 2:
        return np.eye(labels)[np.where(gold, -1, probabilities).argmax(axis=1)]
    taken = np.array([probabilities[gold == label].mean(axis=0) for label in range(labels)])
    np.fill_diagonal(taken, 0)
    return np.eye(labels)[taken.argmax(axis=1)[gold]]


def tfidf_logits(texts: list[str], gold: np.ndarray, folds: np.ndarray, labels: int) -> np.ndarray:
    """Out-of-fold logits of a logistic regression on words and pairs of words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts_of, found = np.array(texts, dtype=object), []
    for strength in TFIDF_STRENGTHS:
        logits = np.empty((len(texts), labels), dtype=np.float32)
        for fold in range(FOLDS):
            held = folds == fold
            vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
            head = fit_head(strength, vectorizer.fit_transform(texts_of[~held]), gold[~held], labels)
            logits[held] = head.logits(vectorizer.transform(texts_of[held]))
        nll = negative_log_likelihood(gold, to_probabilities(logits, multi_label=gold.ndim == 2))
        found.append((nll, logits))
    return min(found, key=lambda each: each[0])[1]


if __name__ == "__main__":
    main()
