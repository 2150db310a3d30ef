r"""How well the plan forecasts and chooses: `python recipes/benchmarks/label_plan.py --data FOLDER`.

Forecast: of the F1 with 1,000 documents from 320 of them, beside the F1 of a head that is trained on the 1,000; both on
500 test documents. Choice: rounds of 40 documents from 40 on, chosen in four ways from all documents of a data set, and
how many are needed for the F1 that random ones have with 320. Means over seeds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.label_data import Documents, arguments, load
from hf_causal_clf.comparison.curves import documents_until
from hf_causal_clf.data.folds import assign_folds
from hf_causal_clf.evaluation.calibration import to_probabilities
from hf_causal_clf.evaluation.metrics import decide, decision_metrics
from hf_causal_clf.labelling.choosing import SELECTIONS, choose
from hf_causal_clf.labelling.forecast import forecast, learning_curve
from hf_causal_clf.labelling.heads import fitted, out_of_fold

KNOWN, TARGET, TESTED, BATCH, STRENGTH = 320, 1000, 500, 40, 0.1
CHOSEN_FROM = ("clinc", "bbc", "patents")


def main() -> None:
    given = arguments(__doc__)
    for name in given.only:
        documents = load(name, given)
        if len(documents.gold) >= TARGET:
            rows = [forecast_at_target(documents, seed) for seed in range(given.seeds)]
            for expected, low, high, reached in rows:
                print(f"{name}: {expected:.3f} ({low:.3f} – {high:.3f}) expected, {reached:.3f} reached", flush=True)
            errors = [abs(expected - reached) for expected, _, _, reached in rows]
            held = sum(low <= reached <= high for _, low, high, reached in rows)
            print(f"{name}: mean absolute error {np.mean(errors):.3f}; the interval held {held} times of {len(rows)}")
        if name in CHOSEN_FROM:
            simulate(documents, given.seeds)


def score(documents: Documents, head, tested: int) -> float:
    """Macro F1 on the first test documents, of several labels micro F1."""
    gold = documents.test_gold[:tested]
    probabilities = to_probabilities(head.logits(documents.test_features[:tested]), multi_label=gold.ndim == 2)
    metrics = decision_metrics(gold, decide(probabilities, multi_label=gold.ndim == 2))
    return metrics["f1_micro" if gold.ndim == 2 else "f1_macro"]


def forecast_at_target(documents: Documents, seed: int) -> tuple[float, float, float, float]:
    """Return the expected F1 with its interval, and the F1 that was reached."""
    drawn = np.random.default_rng(seed).permutation(len(documents.gold))[:TARGET]
    known, labels = drawn[:KNOWN], len(documents.space)
    features, gold = documents.features[known], documents.gold[known]
    _, strength = out_of_fold(features, gold, assign_folds(gold, range(KNOWN), 5, seed), labels)
    tested = (documents.test_features[:TESTED], documents.test_gold[:TESTED])
    curve = learning_curve(features, gold, *tested, labels=labels, strength=strength, seed=seed)
    average = "micro" if gold.ndim == 2 else "macro"
    found = forecast(curve, [TARGET], average=average, seed=seed).expected[0]
    head = fitted(documents.features[drawn], documents.gold[drawn], labels, strength)
    return found.value, found.low, found.high, score(documents, head, TESTED)


def simulate(documents: Documents, seeds: int) -> None:
    """Print the mean F1 after each round, and the documents needed for what random ones reach with 320."""
    sizes = list(range(BATCH, 2 * KNOWN + 1, BATCH))
    curves = {by: np.array([rounds(documents, by, seed, sizes) for seed in range(seeds)]) for by in SELECTIONS}
    wanted = curves["random"][:, sizes.index(KNOWN)].mean()
    for by, scores in curves.items():
        shown = ", ".join(f"{size}: {value:.3f}" for size, value in zip(sizes, scores.mean(axis=0), strict=True))
        needed = documents_until(wanted, sizes, scores.mean(axis=0).tolist())
        single = [documents_until(wanted, sizes, row.tolist()) or np.inf for row in scores]
        print(f"{documents.name}, {by}: {shown}")
        print(
            f"{documents.name}, {by}: {wanted:.3f} with {needed} documents; by seed {np.round(single).tolist()}",
            flush=True,
        )


def rounds(documents: Documents, by: str, seed: int, sizes: list[int]) -> list[float]:
    """Return the F1 after each round."""
    labels, multi_label = len(documents.space), documents.gold.ndim == 2
    labelled = np.random.default_rng(seed).permutation(len(documents.gold))[: sizes[0]]
    scores = []
    for size in sizes:
        head = fitted(documents.features[labelled], documents.gold[labelled], labels, STRENGTH)
        scores.append(score(documents, head, len(documents.test_gold)))
        rest = np.setdiff1d(np.arange(len(documents.gold)), labelled)
        probabilities = to_probabilities(head.logits(documents.features[rest]), multi_label=multi_label)
        new = choose(documents.features[rest], probabilities, BATCH, by, multi_label=multi_label, seed=seed + size)
        labelled = np.concatenate([labelled, rest[new]])
    return scores


if __name__ == "__main__":
    main()
