"""The pages of an audit and of a plan, from the files that they wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import parquet

from ..evaluation.comparison_plots import forecast_curve
from ..evaluation.figure_numbers import confusion_numbers, label_f1_numbers
from ..evaluation.plot_style import shorten
from ..evaluation.plots import label_f1_bars
from ..pages.figures import Figure, drawn_figure
from ..pages.page import render_page
from ..pages.text import Folded, Names
from ..runs.files import read_json
from ..sharing.cells import Name
from ..task.labels import LabelSpace
from .files import PLAIN_FILE, SUMMARY_FILE, TABLE_FILE
from .forecast import PowerLaw

MOST = 500  # documents in a table
_LENGTH = 60  # of a name where it is one of many
_AUDIT_SECTIONS = {
    "wrong": "Labels that may be wrong",
    "twins": "Near-duplicates",
    "leakage": "Test documents that are in training",
    "unfit": "Documents that no label fits",
    "worse": "Where it does worse",
    "labels": "Labels",
    "next": "What next",
}
_TWINS = ["document", "label", "other document", "its label", "similarity"]
_LEAKED = ["test document", "its label", "training document", "label", "similarity"]
_UNFIT = ["document", "label", "highest probability"]
_PLAN_SECTIONS = {"forecast": "How many more labels", "chosen": "What to label next"}

Texts = Mapping[str, Mapping[Any, str]]
"""Text of each document by its id, for `train` and `test`."""


def render_audit(output: Path, said: Sequence[str], texts: Texts | None = None) -> str:
    """Render the page of an audit.

    Args:
        output: Folder that has `audit.json` and `audit.parquet`.
        said: What it has found, in sentences.
        texts: The documents; by default their text is left out.

    Returns:
        The whole HTML document.
    """
    summary = read_json(output / SUMMARY_FILE)
    space = LabelSpace(summary["labels"], multi_label=summary["multi_label"])
    table = parquet.read_table(output / TABLE_FILE).to_pydict()
    gold, predicted = (space.encode_batch(table[name]) for name in ("label", "suggested"))
    documents, text = (
        _Documents(texts, dict(zip(table["id"], table["label"], strict=True))),
        ["text"] * (texts is not None),
    )
    disputed = [row for row in range(len(gold)) if table["error"][row] or not np.array_equal(gold[row], predicted[row])]
    names, leakage = shorten(space.names, _LENGTH), summary["leakage"]
    return render_page(
        "audit.html",
        summary=summary,
        said=said,
        judge=Path(summary["judge"]["model"]).name,
        most=MOST,
        disputed=len(disputed),
        wrong=[_wrong_heading(space, text), *(documents.wrong(table, row, space) for row in disputed[:MOST])],
        twins=[_TWINS, *map(documents.pair, summary["near_duplicates"]["examples"])],
        leaked=[_LEAKED, *map(documents.leaked, leakage["examples"])] if leakage else None,
        unfit=[[*_UNFIT, *text], *map(documents.unfit, summary["no_label_fits"]["examples"])],
        confusions=_confusions(summary),
        taken=None if space.multi_label else _taken(gold, predicted, names),
        weak=_weak(summary),
        labels=_labels(summary),
        figure=drawn_figure(
            label_f1_bars(gold, predicted, space.names),
            "label-f1",
            "F1 of each label",
            "What is predicted without having seen the label, against the labels as they are.",
            label_f1_numbers(gold, predicted, space.names),
        ),
        with_documents=texts is not None,
        sections={key: value for key, value in _AUDIT_SECTIONS.items() if key != "leakage" or leakage is not None},
    )


class _Documents:
    """Cells and rows about documents, with their text where it is shown."""

    def __init__(self, texts: Texts | None, labels: Mapping[Any, Any]) -> None:
        self.texts = texts
        self.labels = labels

    def text(self, id_: Any) -> list[Any]:
        """The cell of a document's text, or none."""
        return [] if self.texts is None else [Name(self.texts["train"][id_])]

    def named(self, id_: Any, *after: Any, split: str = "train") -> Any:
        """A document's id, which its text is behind."""
        shown = (_short(id_), *after)
        return shown if self.texts is None else Folded(shown, self.texts[split][id_])

    def wrong(self, table: Mapping[str, list[Any]], row: int, space: LabelSpace) -> list[Any]:
        """A document whose label may be wrong, with what is predicted and its nearest others."""
        probabilities = np.array(table["probabilities"][row])
        if space.multi_label:
            off = int(np.abs(probabilities - space.encode(table["label"][row])).argmax())
            sure = [_named(space.names[off]), float(probabilities[off])]
        else:
            sure = [float(probabilities[space.index(table["suggested"][row])])]
        near = zip(table["nearest"][row], table["similarity"][row], strict=True)
        others = [self.named(id_, " (", _named(self.labels[id_]), f", {likeness:.2f})") for id_, likeness in near]
        return [
            *(_short(table["id"][row]), _named(table["label"][row]), _named(table["suggested"][row])),
            *(*self.text(table["id"][row]), *sure, table["score"][row], table["error"][row]),
            tuple(part for other in others for part in (other, " "))[:-1],
        ]

    def pair(self, example: Mapping[str, Any]) -> list[Any]:
        """Two near-duplicates with different labels."""
        both = zip(example["ids"], example["labels"], strict=True)
        return [*(cell for id_, label in both for cell in (self.named(id_), _named(label))), example["similarity"]]

    def leaked(self, example: Mapping[str, Any]) -> list[Any]:
        """A test document and the one in training that is most similar."""
        tested, known = self.named(example["test_id"], split="test"), self.named(example["id"])
        return [tested, _named(example["test_label"]), known, _named(example["label"]), example["similarity"]]

    def unfit(self, example: Mapping[str, Any]) -> list[Any]:
        """A document that no label fits."""
        id_ = example["id"]
        return [_short(id_), _named(example["label"]), example["probability"], *self.text(id_)]


def _wrong_heading(space: LabelSpace, text: Sequence[str]) -> list[str]:
    sure = ["furthest off", "its probability"] if space.multi_label else ["its probability"]
    after = ["how sure it is wrong", "counts as wrong", "nearest documents"]
    return ["document", "label", "suggested", *text, *sure, *after]


def _short(text: Any) -> Name:
    return Name(shorten([str(text)], _LENGTH)[0])


def _named(label: str | Sequence[str]) -> Names:
    return Names(shorten([label] if isinstance(label, str) else label, _LENGTH))


def _confusions(summary: Mapping[str, Any]) -> list[list[Any]]:
    return [
        ["label", "predicted", "documents", "the other way", "p"],
        *(
            [_named(each["label"]), _named(each["predicted"]), each["documents"], each["reverse"], each["p_value"]]
            for each in summary["one_way_confusions"]
        ),
    ]


def _taken(gold: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> list[list[Any]]:
    """How many documents of a label are predicted to have another one, the most first."""
    rows = [
        [_named(label), _named(other), *rest] for label, other, *rest in confusion_numbers(gold, predicted, names)[1:]
    ]
    return [["label", "predicted", "documents", "share of the label's"], *rows]


def _weak(summary: Mapping[str, Any]) -> list[list[Any]]:
    rows = [
        [Name(each["kind"]), _short(each["value"]), each["documents"], each["f1"], each["rest_f1"], each["p_value"]]
        for each in summary["slices"]["weak"]
    ]
    return [["part", "value", "documents", "F1", "F1 elsewhere", "p"], *rows]


def _labels(summary: Mapping[str, Any]) -> list[list[Any]]:
    counts = summary["label_errors"]["by_label"]
    rows = [
        [
            _named(name),
            each["documents"],
            each["errors"],
            each["errors"] / each["documents"] if each["documents"] else None,
        ]
        for name, each in counts.items()
    ]
    return [["label", "documents", "count as wrong", "share"], *rows]


def render_plan(output: Path, plan: Mapping[str, Any], said: Sequence[str], *, with_documents: bool = False) -> str:
    """Render the page of a plan.

    Args:
        output: Folder that has the documents to label, if some were chosen.
        plan: Content of `plan.json`.
        said: What it says, in sentences.
        with_documents: Whether to show their text.

    Returns:
        The whole HTML document.
    """
    rows = [] if plan["chosen"] is None else _to_label(output / PLAIN_FILE, with_documents=with_documents)
    counts = [] if plan["chosen"] is None else list(plan["chosen"]["labels"].items())
    return render_page(
        "plan.html",
        plan=plan,
        said=said,
        model=Path(plan["model"]).name,
        now=plan["measured"][-1],
        figure=_forecast_figure(plan),
        to_label=rows,
        most=MOST,
        counts=[["label", "documents"], *([_named(name), count] for name, count in counts)],
        with_documents=with_documents,
        sections=_PLAN_SECTIONS if plan["chosen"] is not None else {},
    )


def _forecast_figure(plan: Mapping[str, Any]) -> Figure | None:
    columns = ("documents", "f1", "low", "high")
    measured, expected = ([[row[name] for name in columns] for row in plan[key]] for key in ("measured", "expected"))
    numbers = [["", "labelled documents", "F1", "low", "high"]]
    numbers += [[what, *row] for what, rows in (("measured", measured), ("expected", expected)) for row in rows]
    drawing = forecast_curve(measured, expected, PowerLaw(**plan["law"]).at, metric=f"{plan['f1_average']} F1")
    words = (
        "F1 on the test documents against the number of labelled documents, on a logarithmic axis: measured with parts "
        "of those that there are, and expected with more, with 95 % intervals."
    )
    return drawn_figure(drawing, "forecast", "What more labels would bring", words, numbers)


def _to_label(path: Path, *, with_documents: bool) -> list[list[Any]]:
    """Documents to label next, in their order, with the two most probable labels of each."""
    with path.open(encoding="utf-8") as file:
        documents = list(map(json.loads, file))
    several = any(isinstance(each["predicted"], list) for each in documents)
    heading = [
        "place",
        "predicted",
        *(["most probable"] if several else []),
        "its probability",
        "next",
        "its probability",
    ]
    rows: list[list[Any]] = [[*heading, *(["text"] if with_documents else [])]]
    for place, each in enumerate(documents, start=1):
        best = sorted(each["probabilities"].items(), key=lambda item: -item[1])[:2]
        cells = [cell for name, probability in best for cell in (_named(name), probability)]
        cells += [None] * (4 - len(cells))
        cells = [_named(each["predicted"]), *cells] if several else cells  # the most probable label is predicted
        rows.append([place, *cells, *([Name(each["text"])] if with_documents else [])])
    return rows
