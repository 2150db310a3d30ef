"""Golden values of the metrics, computed with the standard library alone: python tests/golden/make_metrics.py

Plain loops over documents and labels, sharing no code with the package, NumPy or scikit-learn. Each case names the labels
that macro averages count: those of its gold labels. Micro and weighted averages are over all labels.
"""

import json
import math
import random
from pathlib import Path


def make_case(name: str, documents: int, labels: int, multi_label: bool, seed: int, classes_used: int | None = None):
    draw = random.Random(seed)
    used = classes_used or labels
    gold, probabilities = [], []
    for _ in range(documents):
        if multi_label:
            row = [round(draw.random(), 3) for _ in range(labels)]
            gold.append([int(draw.random() < p and label < used) for label, p in enumerate(row)])
        else:
            weights = [draw.random() ** 3 for _ in range(labels)]
            row = [round(w / sum(weights), 3) for w in weights]
            row[-1] = round(1 - sum(row[:-1]), 3)
            gold.append(draw.randrange(used))
        probabilities.append(row)
    counted = [k for k in range(labels) if any(row[k] if multi_label else row == k for row in gold)]
    case = {"name": name, "macro_labels": counted, "gold": gold, "probabilities": probabilities}
    return {**case, "expected": expected(gold, probabilities, counted)}


def expected(gold, probabilities, counted):
    multi_label = isinstance(gold[0], list)
    labels = range(len(probabilities[0]))
    if multi_label:
        decided = [[int(p >= 0.5) for p in row] for row in probabilities]
        truth, guess = gold, decided
    else:
        decided = [row.index(max(row)) for row in probabilities]
        truth = [[int(g == k) for k in labels] for g in gold]
        guess = [[int(d == k) for k in labels] for d in decided]
    values = {"accuracy": sum(g == d for g, d in zip(gold, decided)) / len(gold)}
    counts = {}
    for k in labels:
        tp = sum(t[k] and g[k] for t, g in zip(truth, guess))
        fp = sum(g[k] and not t[k] for t, g in zip(truth, guess))
        fn = sum(t[k] and not g[k] for t, g in zip(truth, guess))
        counts[k] = (tp, fp, fn)
    values |= averages(counts, counted)
    values["f1_per_label"] = [scores(*counts[k])[2] for k in labels]
    values["nll"] = nll(gold, probabilities, multi_label)
    squares = [[(p - t) ** 2 for p, t in zip(row, flags)] for row, flags in zip(probabilities, truth)]
    per_document = [sum(row) / (len(row) if multi_label else 1) for row in squares]
    values["brier"] = sum(per_document) / len(per_document)
    if multi_label:
        pairs = [(p, t) for row, flags in zip(probabilities, truth) for p, t in zip(row, flags)]
    else:
        pairs = [(max(row), int(g == d)) for row, g, d in zip(probabilities, gold, decided)]
    for strategy in ("width", "mass"):
        values[f"ece_{strategy}"] = ece(pairs, strategy)
        each = [ece([(row[k], flags[k]) for row, flags in zip(probabilities, truth)], strategy) for k in labels]
        values[f"ece_{strategy}_classwise"] = sum(each) / len(each)
    return values


def scores(tp, fp, fn):
    precision = tp / (tp + fp) if tp + fp else 0.0
    recall = tp / (tp + fn) if tp + fn else 0.0
    return precision, recall, 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0


def averages(counts, counted):
    values = {}
    totals = [sum(counts[k][i] for k in counts) for i in range(3)]
    support = {k: counts[k][0] + counts[k][2] for k in counts}
    for index, name in enumerate(("precision", "recall", "f1")):
        each = {k: scores(*counts[k])[index] for k in counts}
        values[f"{name}_micro"] = scores(*totals)[index]
        values[f"{name}_macro"] = sum(each[k] for k in counted) / len(counted)
        values[f"{name}_weighted"] = sum(each[k] * support[k] for k in counts) / sum(support.values())
    return values


def nll(gold, probabilities, multi_label):
    if not multi_label:
        return sum(-math.log(max(row[g], 1e-12)) for row, g in zip(probabilities, gold)) / len(gold)
    terms = [
        -math.log(max(p if g else 1 - p, 1e-12)) for row, flags in zip(probabilities, gold) for p, g in zip(row, flags)
    ]
    return sum(terms) / len(terms)


def ece(pairs, strategy, bins=15):
    groups = [[] for _ in range(bins)]
    ranked = sorted(range(len(pairs)), key=lambda i: pairs[i][0])
    for rank, i in enumerate(ranked):
        if strategy == "mass":
            place = rank * bins // len(pairs)
        else:
            place = next((b for b in range(bins) if pairs[i][0] <= (b + 1) / bins), bins - 1)
        groups[place].append(pairs[i])
    return sum(abs(sum(p for p, _ in g) - sum(t for _, t in g)) for g in groups) / len(pairs)


if __name__ == "__main__":
    cases = [
        make_case("single", 60, 4, False, 1),
        make_case("single, a class never gold", 40, 5, False, 2, classes_used=3),
        make_case("two classes", 25, 2, False, 3),
        make_case("multi-label", 50, 3, True, 4),
        make_case("multi-label, many labels", 30, 12, True, 5),
        make_case("multi-label, a label never gold", 40, 4, True, 6, classes_used=3),
    ]
    Path(__file__).with_name("metrics.json").write_text(json.dumps(cases, indent=1) + "\n")
