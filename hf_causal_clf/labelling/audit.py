"""The audit of labelled documents: what is found, in a table of the documents and a summary.

`audit.parquet` has a row for each labelled document, the one whose label is most likely wrong first, and no text:

- `id`: as in the training file; its row number there where no id column is given.
- `label`: its label, by name; a list of names where there may be several.
- `suggested`: what is predicted without having seen its label, in the same form.
- `score`: how sure that is that the label is wrong, float64, 0 to 1 (`errors.label_doubts`).
- `error`: whether it counts as a label error (cleanlab), boolean.
- `probabilities`: calibrated, a list of float32 in the order of `labels` in `audit.json`.
- `nearest`, `similarity`: ids of the two most similar other documents, and their similarities (float32), 0 to 1.

`audit.json` has what is said of them together; lists have the first 100, and their lengths are counted beside:

- `documents`, `labels`, `multi_label`, `judge` (who says it: `kind`, `model`, `folds` …), `metrics` (`f1_macro`,
  `f1_micro`, `accuracy` of the predictions against the labels as they are).
- `label_errors`: `documents`, `share`, and `by_label`: for each label its `documents` and `errors` among them.
- `near_duplicates`: from which `similarity` on, number of `pairs`, number of those with `different_labels`, and
  `examples` of these: `ids`, `labels`, `similarity`.
- `leakage`: `test_documents` and how many `leaked` of them have a near-duplicate in training; `examples` with `id`,
  `test_id`, `label`, `test_label`, `similarity`. `null` without test documents.
- `no_label_fits`: number of `documents` to which no label is given a probability of 0.5; `examples` with `id`, `label`,
  `probability` (the highest), the least fitting first.
- `one_way_confusions`: `label`, `predicted`, `documents`, `reverse`, `p_value` (Holm) of the significant ones.
- `slices`: number that were `tested`, and the `weak` ones: `kind` (`label`, `length` or a column), `value`,
  `documents`, `f1`, `rest_f1`, `p_value` (Holm).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from ..cli.telling import listed, tell
from ..evaluation.metrics import decision_metrics, label_counts
from ..evaluation.slices import one_way_confusions, slice_scores
from ..runs.disk import write_json, write_text, written_aside
from ..runs.tables import answer_column, probability_column
from .errors import label_doubts, label_errors
from .files import AUDIT_PAGE, SUMMARY_FILE, TABLE_FILE
from .judging import Judged
from .neighbours import Pair, near_duplicates, nearest, text_vectors
from .page import render_audit

LEVEL = 0.05  # of the tests, after Holm's correction
_EXAMPLES = 100
_NEAREST = 2
_FITS = 0.5  # probability from which on a label fits


def write_audit(
    judged: Judged, output: Path, *, similarity: float, parts: Mapping[tuple[str, str], np.ndarray]
) -> dict[str, Any]:
    """Write `audit.parquet` and `audit.json` of documents that were judged, and return the content of the latter.

    Args:
        judged: The documents, and what is said of them.
        output: Folder.
        similarity: From which similarity on two documents are near-duplicates.
        parts: Parts of the documents to compare, bool `(n,)`, by column and value.
    """
    data, space = judged.data, judged.data.label_space
    gold, ids = data.gold("train"), data.splits["train"]["id"][:]
    names = [space.decode(each) for each in gold]
    doubts, errors = label_doubts(gold, judged.probabilities), label_errors(gold, judged.probabilities)
    vectors = text_vectors([*data.texts("train"), *data.texts("test")])
    train, test = vectors[: len(ids)], vectors[len(ids) :]
    rows, similarities = nearest(train, _NEAREST)
    order = np.argsort(-doubts, kind="stable")
    table = {
        "id": [ids[row] for row in order],
        "label": answer_column([names[row] for row in order], space),
        "suggested": answer_column([space.decode(judged.predicted[row]) for row in order], space),
        "score": doubts[order],
        "error": errors[order],
        "probabilities": probability_column(judged.probabilities[order]),
        "nearest": [[ids[other] for other in rows[row]] for row in order],
        "similarity": probability_column(similarities[order]),
    }
    metrics = decision_metrics(gold, judged.predicted)
    summary = {
        "documents": len(ids),
        "labels": list(space.names),
        "multi_label": space.multi_label,
        "judge": judged.judge,
        "metrics": {name: metrics[name] for name in ("f1_macro", "f1_micro", "accuracy")},
        "label_errors": _errors_by_label(gold, errors, space.names),
        "near_duplicates": _near_duplicates(train, ids, names, similarity),
        "leakage": _leakage(judged, train, test, similarity) if test.shape[0] else None,
        "no_label_fits": _no_label_fits(judged, gold, ids, names),
        "one_way_confusions": _confusions(judged, gold),
        "slices": _slices(judged, gold, parts),
    }
    output.mkdir(parents=True, exist_ok=True)
    with written_aside(output / TABLE_FILE) as aside:
        parquet.write_table(pa.table(table), aside)
    write_json(output / SUMMARY_FILE, summary)
    return summary


def _errors_by_label(gold: np.ndarray, errors: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
    counts, wrong = label_counts(gold, len(names)).tolist(), label_counts(gold[errors], len(names)).tolist()
    by_label = {name: {"documents": counts[id_], "errors": wrong[id_]} for id_, name in enumerate(names)}
    return {"documents": int(errors.sum()), "share": float(errors.mean()), "by_label": by_label}


def _near_duplicates(vectors: Any, ids: list[Any], names: list[Any], similarity: float) -> dict[str, Any]:
    pairs = near_duplicates(vectors, similarity=similarity)
    differ = [pair for pair in pairs if names[pair.first] != names[pair.second]]
    examples = [
        {
            "ids": [ids[pair.first], ids[pair.second]],
            "labels": [names[pair.first], names[pair.second]],
            "similarity": pair.similarity,
        }
        for pair in differ[:_EXAMPLES]
    ]
    return {"similarity": similarity, "pairs": len(pairs), "different_labels": len(differ), "examples": examples}


def _leakage(judged: Judged, train: Any, test: Any, similarity: float) -> dict[str, Any]:
    """Test documents that have a near-duplicate among the labelled ones, each with its most similar one."""
    data = judged.data
    found: dict[int, Pair] = {}
    for pair in near_duplicates(train, test, similarity=similarity):
        found.setdefault(pair.second, pair)
    train_rows, test_rows = data.splits["train"], data.splits["test"]
    examples = [
        {
            "id": train_rows[pair.first]["id"],
            "test_id": test_rows[pair.second]["id"],
            "label": train_rows[pair.first]["label"],
            "test_label": test_rows[pair.second]["label"],
            "similarity": pair.similarity,
        }
        for pair in list(found.values())[:_EXAMPLES]
    ]
    return {"test_documents": len(test_rows), "leaked": len(found), "examples": examples}


def _no_label_fits(judged: Judged, gold: np.ndarray, ids: list[Any], names: list[Any]) -> dict[str, Any]:
    """Documents that have a label, and of which no label is likely; those with the lowest logits fit least."""
    highest = judged.probabilities.max(axis=1)
    rows = np.flatnonzero((highest < _FITS) & (gold.any(axis=1) if gold.ndim == 2 else True))
    rows = rows[np.argsort(judged.logits[rows].max(axis=1), kind="stable")]
    examples = [{"id": ids[row], "label": names[row], "probability": float(highest[row])} for row in rows[:_EXAMPLES]]
    return {"documents": len(rows), "examples": examples}


def _confusions(judged: Judged, gold: np.ndarray) -> list[dict[str, Any]]:
    names = judged.data.label_space.names
    return [
        {
            "label": names[pair.label],
            "predicted": names[pair.predicted],
            "documents": pair.documents,
            "reverse": pair.reverse,
            "p_value": pair.p_value,
        }
        for pair in one_way_confusions(gold, judged.predicted, len(names))
        if pair.p_value < LEVEL
    ]


def _slices(judged: Judged, gold: np.ndarray, parts: Mapping[tuple[str, str], np.ndarray]) -> dict[str, Any]:
    names = judged.data.label_space.names
    found = slice_scores(gold, judged.predicted, parts, len(names))
    weak = []
    for name, scores in found.items():
        if scores.p_value < LEVEL:
            kind, value = ("label", names[name]) if isinstance(name, int) else name
            weak.append({"kind": kind, "value": value, **vars(scores)})
    return {"tested": len(found), "weak": weak}


def write_page(judged: Judged, summary: Mapping[str, Any], output: Path, *, with_documents: bool) -> None:
    """Write `audit.html`.

    Args:
        judged: The documents.
        summary: Content of `audit.json`, which is there with `audit.parquet`.
        output: Folder.
        with_documents: Whether to show the text of the documents that are listed.
    """
    texts = None
    if with_documents:
        data = judged.data
        texts = {
            split: dict(zip(data.splits[split]["id"][:], data.texts(split), strict=True)) for split in ("train", "test")
        }
    write_text(output / AUDIT_PAGE, render_audit(output, _said(summary), texts))


def _said(summary: Mapping[str, Any]) -> list[str]:
    """What an audit has found, in sentences without names of labels."""
    errors, twins, leakage = (summary[name] for name in ("label_errors", "near_duplicates", "leakage"))
    pairs = "pair" if twins["pairs"] == 1 else "pairs"
    said = [
        f"Judged by {summary['judge']['kind']}: macro F1 {summary['metrics']['f1_macro']:.3f} against the labels as "
        f"they are. {errors['documents']:,} of {summary['documents']:,} documents ({errors['share']:.1%}) have a "
        "label that is probably wrong.",
        f"Near-duplicates (similarity {twins['similarity']:g} or more): {twins['pairs']:,} {pairs}, of which "
        f"{twins['different_labels']:,} have different labels.",
    ]
    if leakage is not None:
        said.append(f"{leakage['leaked']:,} of {leakage['test_documents']:,} test documents have one in training.")
    return [*said, f"Documents that no label fits: {summary['no_label_fits']['documents']:,}."]


def tell_audit(summary: Mapping[str, Any], output: Path) -> None:
    """Print what an audit has found, in a line each."""
    for text in _said(summary):
        tell(text)
    taken = [
        f"{each['label']} for {each['predicted']} ({each['documents']}, the other way {each['reverse']})"
        for each in summary["one_way_confusions"]
    ]
    if taken:
        tell(f"Labels taken for others in one direction: {listed(taken, 5)}.")
    weak = [
        f"{each['kind']} {each['value']!r} (F1 {each['f1']:.2f}, elsewhere {each['rest_f1']:.2f})"
        for each in summary["slices"]["weak"]
    ]
    if weak:
        tell(f"Significantly worse than the rest: {listed(weak, 5)}.")
    tell(
        f"All documents, the surest first, are in {output / TABLE_FILE}, the summary in {output / SUMMARY_FILE}, and "
        f"{output / AUDIT_PAGE} is a page to look at."
    )
