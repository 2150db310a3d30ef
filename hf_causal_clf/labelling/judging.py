"""What is said of labelled documents by models that did not see their labels: by a finished run, or by cheap heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..backbone.loading import load_tokenizer
from ..baselines.fitting import tfidf
from ..cli.telling import tell
from ..data.arguments import DataArguments
from ..data.splits import ClassificationData, load_data
from ..embedding.frozen_features import FrozenFeatures
from ..embedding.reading import choose_reading, encoders_of, readings
from ..evaluation.calibration import fit_calibration
from ..evaluation.combination import combine, member_scores
from ..runs.files import CLASSIFICATION_FILE, OUT_OF_FOLD_FILE
from ..runs.results import read_out_of_fold
from ..runs.run import Run
from .arguments import FrozenModelArguments
from .heads import out_of_fold


@dataclass(frozen=True)
class Judged:
    """Labelled documents, each with what models say that did not see its label.

    Attributes:
        data: The documents: those of the split `train` are judged, row by row.
        predicted: Decisions: label ids `(n,)`, or 0/1 `(n, labels)`.
        probabilities: Calibrated probabilities, float32 `(n, labels)`.
        logits: Uncalibrated logits, float32 `(n, labels)`.
        judge: Who says it, as JSON.
    """

    data: ClassificationData
    predicted: np.ndarray
    probabilities: np.ndarray
    logits: np.ndarray
    judge: dict[str, Any]


def judge(data_args: DataArguments, model: FrozenModelArguments, folds: int, cache: Path) -> Judged:
    """Load labelled documents and have them judged, by a finished run with folds if that is the model.

    Args:
        data_args: Where the documents are. A test split is not cut off, but for a share that is given.
        model: A language model, or the folder of a finished run.
        folds: Number of folds of heads on frozen features.
        cache: Folder of the features.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If documents cannot be read, or the run was trained without folds or with other documents.
    """
    folder = Path(model.model_name_or_path)
    if (folder / CLASSIFICATION_FILE).is_file():
        return judged_by_run(folder, data_args)
    return judged_by_heads(load_data(data_args, folds, cut_test=False), model, cache)


def judged_by_run(folder: Path, data_args: DataArguments) -> Judged:
    """Take what a finished run with folds says of its labelled documents out of fold.

    Raises:
        FileNotFoundError: If the run was trained without folds.
        ValueError: If it was trained with other documents or labels.
    """
    if not (folder / OUT_OF_FOLD_FILE).is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} was trained without folds, so every label that it could judge is one that it has "
            "learned. Train it with --folds 5; or give its base model as model_name_or_path, and heads on that judge."
        )
    space = Run.read(folder).label_space
    found = read_out_of_fold(folder, space)
    folds = int(found.fold.max()) + 1
    wanted = replace(data_args, label_list=list(space.names), multi_label=space.multi_label)
    data = load_data(wanted, folds, cut_test=False)
    rows = {str(id_): row for row, id_ in enumerate(data.splits["train"]["id"][:])}
    missing = [id_ for id_ in found.ids if str(id_) not in rows]
    if missing:
        raise ValueError(
            f"{len(missing)} of the {len(found.ids)} documents that {str(folder)!r} was trained with are not among "
            f"these; the first have the ids {missing[:3]}. Give the files and the id_column that it was trained with."
        )
    chosen = np.array([rows[str(id_)] for id_ in found.ids])
    if len(chosen) < len(rows):
        tell(f"{len(rows) - len(chosen):,} documents, with which the run was not trained, are not judged.")
    train = data.splits["train"].select(chosen)
    data = replace(data, splits={**data.splits, "train": train, "validation": train}, folds=found.fold)
    changed = int((data.gold("train") != found.gold).reshape(len(found.gold), -1).any(axis=1).sum())
    if changed:
        raise ValueError(
            f"{changed} documents have another label than {str(folder)!r} was trained with: what it says of them rests "
            "on the earlier labels. Train it again, or give its base model as model_name_or_path."
        )
    if rewritten := found.changed(range(len(chosen)), data.texts("train")):
        raise ValueError(
            f"{rewritten} documents have another text than {str(folder)!r} was trained with. Train it again, or give "
            "its base model as model_name_or_path."
        )
    who = {"kind": "a finished run, out of fold", "model": str(folder), "folds": folds}
    return Judged(data, found.predicted, found.probabilities, found.logits, who)


def judged_by_heads(data: ClassificationData, model: FrozenModelArguments, cache: Path) -> Judged:
    """Judge documents, which are in folds, by logistic regressions: on the states of an untouched model, and on words.

    The mean of their log-probabilities finds more wrong labels than either (`recipes/benchmarks/label_audit.py`).
    """
    assert data.folds is not None
    features, reading = reader(data, model, cache)
    multi_label = data.label_space.multi_label
    gold = data.gold("train")
    of_states, strength = out_of_fold(features(data.texts("train")), gold, data.folds, len(data.label_space))
    logits = both(of_states, tfidf(data).logits["validation"], multi_label=multi_label)
    calibration = fit_calibration(gold, logits, documents="labelled")
    probabilities = calibration.apply(logits, multi_label=multi_label)
    who = {
        "kind": "heads on frozen features and on TF-IDF, out of fold",
        "model": model.model_name_or_path,
        "reading": reading,
        "folds": data.fold_count,
        "strength": strength,
    }
    return Judged(data, calibration.decide(probabilities, multi_label=multi_label), probabilities, logits, who)


def both(of_states: np.ndarray, of_words: np.ndarray, *, multi_label: bool) -> np.ndarray:
    """Return the mean of two judges' log-probabilities (log-odds, where a document may have several labels), float32.

    Args:
        of_states: Logits of heads on frozen features, `(n, labels)`.
        of_words: Logits of heads on TF-IDF features, `(n, labels)`.
        multi_label: Whether a document may have several labels.
    """
    scores = [member_scores(logits, multi_label=multi_label) for logits in (of_states, of_words)]
    return combine(scores, (0.5, 0.5)).astype(np.float32)


def reader(
    data: ClassificationData, model: FrozenModelArguments, cache: Path
) -> tuple[Callable[[Sequence[str]], np.ndarray], str]:
    """Return what gives texts their frozen features, float32 `(n, hidden)`, and where the model is read, in words.

    Where it reads is chosen on training documents, as for a head that is trained (`choose_reading`).
    """
    config = model.model_config()
    tokenizer = load_tokenizer(model.model_name_or_path, revision=model.model_revision)
    candidates = readings("auto", "auto")
    limits: dict[str, Any] = {"max_length": model.max_length, "truncation": model.truncation}
    batch_size = model.per_device_eval_batch_size
    chosen = choose_reading(data, tokenizer, config, candidates, batch_size=batch_size, **limits)
    encoder = encoders_of([chosen], tokenizer, **limits)[chosen]
    frozen = FrozenFeatures(config, batch_size=batch_size, cache=cache)
    return lambda texts: frozen.of(texts, encoder)[0][chosen.pooling], str(chosen)
