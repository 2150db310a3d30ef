"""The plan of labels: what more of them bring, and which documents to label next.

`plan.json` has `documents` (labelled ones), `test_documents`, `f1_average`, `model`, `reading` (where the model is
read) and `strength` (C of the heads); `measured`, with each size of the learning curve, and `expected`, with each
number of documents that was asked for: `documents`, `f1`, `low`, `high` (95 % interval); `law`: `limit`, `scale` and
`exponent` of the F1 `limit - scale * documents ** -exponent`; and `chosen`: `null`, or `by` what, how many of how many
(`number`, `of`) were chosen, and `labels`: how many of them are predicted to have each label. The documents themselves
are in the files that `exporting` describes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..cli.telling import tell
from ..data.splits import ClassificationData
from ..evaluation.calibration import Calibration, fit_calibration
from ..evaluation.metrics import label_counts
from ..evaluation.significance import Interval
from ..runs.disk import write_json, write_text
from .choosing import choose
from .exporting import ARGILLA_FILE, LABEL_STUDIO_FILE, PLAIN_FILE, write_documents
from .files import PLAN_FILE, PLAN_PAGE
from .forecast import forecast, learning_curve
from .heads import fitted, out_of_fold
from .page import render_plan


@dataclass(frozen=True)
class Known:
    """Labelled documents in folds with their frozen features, and the head that is best with them.

    Attributes:
        data: The documents.
        features: Those of texts, float32 `(n, hidden)`.
        train: Features of the labelled documents.
        strength: C that is best out of fold.
        calibration: Fitted out of fold.
    """

    data: ClassificationData
    features: Callable[[Sequence[str]], np.ndarray]
    train: np.ndarray
    strength: float
    calibration: Calibration

    @classmethod
    def of(cls, data: ClassificationData, features: Callable[[Sequence[str]], np.ndarray]) -> Known:
        """Read labelled documents, which are in folds, and choose C and calibrate out of fold."""
        assert data.folds is not None
        train, gold = features(data.texts("train")), data.gold("train")
        logits, strength = out_of_fold(train, gold, data.folds, len(data.label_space))
        return cls(data, features, train, strength, fit_calibration(gold, logits, documents="labelled"))


def forecast_labels(known: Known, targets: Sequence[int] | None, average: str) -> dict[str, Any]:
    """Return `measured`, `expected` and `law` of `plan.json`.

    Args:
        known: The labelled documents; their test split measures.
        targets: Numbers of documents; by default twice and four times as many as there are.
        average: `"macro"` or `"micro"`.

    Raises:
        ValueError: If there are fewer than 40 labelled documents.
    """
    data, gold = known.data, known.data.gold("train")
    tested = known.features(data.texts("test")), data.gold("test")
    labels, seed = len(data.label_space), 0
    curve = learning_curve(known.train, gold, *tested, labels=labels, strength=known.strength, seed=seed)
    targets = sorted(set(targets or (2 * len(gold), 4 * len(gold))))
    found = forecast(curve, targets, average=average, seed=seed)
    return {
        "measured": _rows(curve.sizes, found.measured),
        "expected": _rows(targets, found.expected),
        "law": vars(found.law),
    }


def choose_documents(known: Known, texts: Sequence[str], number: int, by: str, output: Path, agent: str) -> Any:
    """Choose documents to label next, write them, and return `chosen` of `plan.json`.

    Args:
        known: The labelled documents.
        texts: Documents without labels.
        number: How many are wanted.
        by: One of `choosing.SELECTIONS`.
        output: Folder.
        agent: Who predicts, for labelling tools.
    """
    space = known.data.label_space
    head = fitted(known.train, known.data.gold("train"), len(space), known.strength)
    features = known.features(texts)
    probabilities = known.calibration.apply(head.logits(features), multi_label=space.multi_label)
    options: dict[str, Any] = {"multi_label": space.multi_label, "thresholds": known.calibration.thresholds}
    rows = choose(features, probabilities, number, by, **options)
    decisions = known.calibration.decide(probabilities[rows], multi_label=space.multi_label)
    predicted = [space.decode(each) for each in decisions]
    write_documents(output, [texts[row] for row in rows], predicted, probabilities[rows], space, agent)
    counts = dict(zip(space.names, label_counts(decisions, len(space)).tolist(), strict=True))
    return {"by": by, "number": len(rows), "of": len(texts), "labels": counts}


def write_plan(plan: dict[str, Any], output: Path, *, with_documents: bool = False) -> None:
    """Write `plan.json` and `plan.html`, and print what it says.

    Args:
        plan: Content of `plan.json`.
        output: Folder, which has the documents that were chosen.
        with_documents: Whether the page shows their text.
    """
    write_json(output / PLAN_FILE, plan)
    said, chosen = _said(plan), plan["chosen"]
    write_text(output / PLAN_PAGE, render_plan(output, plan, said, with_documents=with_documents))
    for text in said:
        tell(text)
    if chosen is not None:
        tell(
            f"{chosen['number']:,} of {chosen['of']:,} documents without labels to label next, by {chosen['by']}: "
            f"{output / PLAIN_FILE}; for Argilla {ARGILLA_FILE}, for Label Studio {LABEL_STUDIO_FILE}."
        )
    tell(f"{output / PLAN_PAGE} is a page to look at.")


def _said(plan: dict[str, Any]) -> list[str]:
    """What is forecast, in sentences."""
    average, last = plan["f1_average"], plan["measured"][-1]
    return [
        f"With the {last['documents']:,} labelled documents, a head on frozen features has {_told(last, average)}.",
        *(
            f"{_told(row, average.capitalize())} expected at {row['documents']:,} documents."
            for row in plan["expected"]
        ),
        f"With any number, {plan['law']['limit']:.2f} at most, on frozen features, which training changes.",
    ]


def _rows(sizes: Sequence[int], intervals: Sequence[Interval]) -> list[dict[str, Any]]:
    return [
        {"documents": int(size), "f1": each.value, "low": each.low, "high": each.high}
        for size, each in zip(sizes, intervals, strict=True)
    ]


def _told(row: dict[str, Any], average: str) -> str:
    return f"{average} F1 of {row['f1']:.2f} ({row['low']:.2f} – {row['high']:.2f})"
