"""The page of a finished run: what it is, how good, how sure, what it costs, and what it gets wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from ..evaluation.plot_style import shorten
from ..evaluation.selective import decision_confidence
from ..evaluation.significance import is_correct
from ..runs.disk import add_file, write_text
from ..runs.files import CARD_FILE, FIGURES_FOLDER, PAGE_FILE
from ..runs.finished import FinishedRun
from ..runs.schema import APPROACHES, KINDS
from ..runs.summary import abstention_in_words, cascade_in_words, nothing_learned, rate_in_words, what_was_fitted
from ..sharing.card import card_of
from ..sharing.card_facts import folds, label_table, member_table, metric_table, scarce_labels, setting_rows, trust
from ..sharing.cells import Name
from .figures import read_figure
from .page import render_page
from .text import Names

logger = logging.get_logger(__name__)

MOST_ERRORS = 500
_LABEL_LENGTH = 60  # where a label is one of many
_FIGURES = {
    "confusion_matrix": ("Which label is taken for which", "Test documents by true and predicted label."),
    "label_f1": ("F1 of each label", "F1 on the test documents, and how many of them have the label."),
    "reliability_diagram": (
        "How often it is right, against how sure it says it is",
        "Bars on the diagonal would be probabilities that hold; below them, how many documents each bar is of.",
    ),
    "thresholds": ("What a threshold would change", "Precision, recall and F1 on test against a threshold for all."),
    "risk_coverage": ("What it gets wrong of what it answers", "Error on test against the share that is answered."),
    "set_sizes": ("How many labels a set has", "Sets that have the right label in 90 % of documents, on test."),
    "training_curves": ("During training", "Loss and validation F1."),
}
_SECTIONS = {
    "results": "Results",
    "errors": "What it gets wrong",
    "labels": "Labels",
    "probabilities": "Probabilities",
    "training": "Training",
    "use": "How to use it",
}


def write_card_and_page(folder: str | PathLike[str], texts: Sequence[str] | None = None) -> None:
    """Write `README.md`, for the Hub, and `report.html`, for those who have the folder.

    The run is whole without them: one that cannot be rendered is warned about, and a training is not lost.

    Args:
        folder: Of a run that is finished but for these.
        texts: The test documents, for the page to show those that it gets wrong; `None` keeps their text out.
    """
    run = FinishedRun.read(Path(folder))
    rendered: dict[str, Callable[[], str]] = {
        CARD_FILE: lambda: str(card_of(run)),
        PAGE_FILE: lambda: render_run(run, texts),
    }
    for name, render in rendered.items():
        try:
            text = render()
        except Exception as error:
            logger.warning(
                f"The run is whole, but has no {name}: {type(error).__name__}: {error}. Write it with its output_dir "
                f'in the place of RUN: python -c "from {__name__} import write_card_and_page; '
                "write_card_and_page('RUN')\""
            )
        else:
            write_text(run.folder / name, text)
            add_file(run.folder, name)


def write_page(folder: Path, texts: Sequence[str] | None = None) -> None:
    """Write `report.html` of a finished run anew; arguments as for `write_card_and_page`."""
    write_text(folder / PAGE_FILE, render_run(FinishedRun.read(folder), texts))
    add_file(folder, PAGE_FILE)


def render_run(run: FinishedRun, texts: Sequence[str] | None = None) -> str:
    """Render the page of a finished run.

    Args:
        run: The run.
        texts: Its test documents, in the order of its predictions; by default their text is left out.

    Returns:
        The whole HTML document.
    """
    figures = {name: read_figure(run.folder, f"{FIGURES_FOLDER}/{name}", *words) for name, words in _FIGURES.items()}
    errors, wrong = error_table(run, texts)
    metrics, space = run.results.metrics, run.label_space
    return render_page(
        "run.html",
        name=Name(run.folder.resolve().name),
        kind=KINDS[run.description.approach],
        base=_base(run),
        multi_label=space.multi_label,
        labels=len(space),
        documents=len(run.results.gold),
        wrong=wrong,
        test=metrics["test"],
        majority=metrics.get("majority"),
        intervals=run.intervals,
        confidence=_confidence(run),
        fitted=what_was_fitted(metrics["calibration"]),
        trust=trust(run),
        folds=folds(run),
        speed=metrics["training"].get("predict_samples_per_second"),
        cost=_cost(run),
        warnings=_warnings(run),
        said=_said(run),
        results=metric_table(run),
        label_table=label_table(run, total=False),
        members=member_table(run),
        errors=errors,
        with_documents=texts is not None,
        trained=run.description.approach in APPROACHES,
        most_errors=MOST_ERRORS,
        settings=setting_rows(run),
        versions=run.facts.get("versions", {}),
        version=run.description.version,
        figures=figures,
        sections=_SECTIONS,
    )


def error_table(run: FinishedRun, texts: Sequence[str] | None = None) -> tuple[list[list[Any]], int]:
    """Return the test documents that a run gets wrong, those first that it is most sure of, and their number.

    Args:
        run: The run.
        texts: The test documents, for a last column.

    Returns:
        Rows below a heading, of at most `MOST_ERRORS` documents; and how many documents are wrong.
    """
    found, names = run.results, shorten(run.label_space.names, _LABEL_LENGTH)
    rows = np.flatnonzero(~is_correct(found.gold, found.predicted))
    shown = _single_label_errors if found.gold.ndim == 1 else _multi_label_errors
    heading, cells, surprise = shown(rows, found.gold, found.predicted, found.probabilities, names)
    table = [["document", *heading, *([] if texts is None else ["text"])]]
    for place in np.argsort(-surprise, kind="stable")[:MOST_ERRORS].tolist():
        row = int(rows[place])
        [document] = shorten([str(found.ids[row])], _LABEL_LENGTH)
        table.append([Name(document), *cells[place], *([] if texts is None else [Name(texts[row])])])
    return table, len(rows)


def _single_label_errors(
    rows: np.ndarray, gold: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray, names: Sequence[str]
) -> tuple[list[str], list[list[Any]], np.ndarray]:
    answer, right = probabilities[rows, predicted[rows]], probabilities[rows, gold[rows]]
    cells = [
        [Names([names[gold[row]]]), Names([names[predicted[row]]]), float(sure), float(missed)]
        for row, sure, missed in zip(rows.tolist(), answer, right, strict=True)
    ]
    return ["gold", "predicted", "probability of predicted", "probability of gold"], cells, answer


def _multi_label_errors(
    rows: np.ndarray, gold: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray, names: Sequence[str]
) -> tuple[list[str], list[list[Any]], np.ndarray]:
    off = np.where(gold != predicted, np.abs(probabilities - gold), 0.0)[rows]
    worst = off.argmax(axis=1) if len(rows) else np.zeros(0, dtype=np.int64)
    cells = [
        [
            *(Names(names[label] for label in np.flatnonzero(each[row]).tolist()) for each in (gold, predicted)),
            Names([names[label]]),
            float(probabilities[row, label]),
        ]
        for row, label in zip(rows.tolist(), worst.tolist(), strict=True)
    ]
    return ["gold", "predicted", "furthest off", "its probability"], cells, off.max(axis=1, initial=0.0)


def _base(run: FinishedRun) -> str | None:
    """The base model's name; of a folder, the last part of its path."""
    base = run.description.base_model
    return base.hub_id or (None if base.name_or_path is None else Path(base.name_or_path).name)


def _confidence(run: FinishedRun) -> float:
    """How probable it says its decisions on test are, on average."""
    return float(decision_confidence(run.results.probabilities, run.results.predicted).mean())


def _cost(run: FinishedRun) -> str:
    """What prediction and training take, in words; nothing where that is not known."""
    done, said = run.results.metrics["training"], []
    device = {"cuda": " on a GPU", "cpu": " on a CPU"}.get(run.facts.get("hardware", {}).get("device"), "")
    if speed := done.get("predict_samples_per_second"):
        said.append(
            f"it reads {rate_in_words(speed)} documents a second{device}, so that 1,000 take {_duration(1000 / speed)}"
        )
    if speed := done.get("train_samples_per_second"):
        steps = f" in {done['steps']:,} steps" if "steps" in done else ""
        said.append(f"it was trained{steps} at {rate_in_words(speed)} documents a second")
    if seconds := done.get("seconds"):
        said.append(f"to train and test it took {_duration(seconds)}")
    if memory := done.get("peak_memory_bytes"):
        said.append(f"at most {memory / 2**30:.2f} GiB of memory")
    return "; ".join(said)


def _duration(seconds: float) -> str:
    if seconds >= 7200:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 60:.1f} minutes" if seconds >= 120 else f"{seconds:.2g} seconds"


def _warnings(run: FinishedRun) -> list[str]:
    """What a reader should know before believing the numbers."""
    found, metrics, multi_label = [], run.results.metrics, run.label_space.multi_label
    if verdict := nothing_learned(metrics, multi_label=multi_label):
        found.append(verdict)
    for pair, count in (run.facts.get("overlap") or {}).items():
        if count and pair.endswith("/test"):
            found.append(f"{count:,} test documents are also among the {pair.split('/')[0]} documents.")
    scarce = scarce_labels(run)
    for names, what in ((scarce["untrained"], "no training document"), (scarce["untested"], "few test documents")):
        if names:
            shown = "; ".join(shorten(names[:5], _LABEL_LENGTH))
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            found.append(f"There are labels with {what}, of which the F1 says little: {shown}{more}.")
    return found


def _said(run: FinishedRun) -> list[str]:
    """What the terminal says of abstention and of a cascade."""
    metrics, found = run.results.metrics, []
    if "cascade" in metrics:
        found.append(cascade_in_words(metrics["cascade"], metrics["training"]["predict_samples_per_second"]))
    if "abstention" in metrics:
        kind = "labelled" if folds(run) else "validation"
        found.append(abstention_in_words(metrics["abstention"], f"{metrics['calibration']['documents']:,} {kind}"))
    return [text[0].upper() + text[1:] for text in found]
