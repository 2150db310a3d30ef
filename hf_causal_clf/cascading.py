"""Two finished runs become a cascade: the second answers only what the first is not sure of."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from .cascade import STAGES, Cascade, calibrated_logits, check_spaces, stage_margins
from .classifier import TextClassifier
from .data.splits import ClassificationData
from .evaluation.calibration import MIN_DOCUMENTS, Calibration
from .evaluation.cascade import Fitted, Judged, Rule, deferred_rows, fit_cascade
from .evaluation.metrics import classification_metrics, decision_metrics
from .evaluation.significance import align, f1_interval
from .finishing import Measured, finish_run
from .runs.disk import naming_full_disk
from .runs.files import MEMBERS_FOLDER, METRICS_FILE, OUT_OF_FOLD_FILE, PUBLISHED, read_json
from .runs.measuring import Metrics, majority_metrics
from .runs.members import common_base, common_facts, copy_run
from .runs.prior import priors_of
from .runs.results import read_out_of_fold
from .runs.run import Run, Truncation
from .runs.selecting import fit_run_abstention
from .runs.summary import rate_in_words
from .training.facts import document_facts
from .training.memory import peak_memory_bytes
from .training.output_folder import documents_content, read_manifest, unfinished_folder

logger = logging.get_logger(__name__)

_TIMED = 200  # documents, where their logits are known


@dataclass(frozen=True)
class Job:
    """What becomes a cascade.

    Attributes:
        folder: Its folder.
        stages: Folders of two finished runs, the cheap one first. They stay as they are.
        data: Documents with gold labels. Those of the validation split, or out of fold, give the threshold.
        rule: What the threshold is chosen by.
        average: F1 that decides, `"macro"` or `"micro"`.
        batch_size: Documents per forward pass.
        target_error: Highest error among the answers of a cascade that need not always answer.
    """

    folder: Path
    stages: Sequence[Path]
    data: ClassificationData
    rule: Rule
    average: str
    batch_size: int
    target_error: float | None = None


def find_stages(sources: Sequence[str]) -> list[Path]:
    """Return the folders of runs that may become a cascade; those of the Hub are downloaded.

    Args:
        sources: Folders or Hub repositories.

    Raises:
        FileNotFoundError: If one is no run.
        ValueError: If they are not two different ones with the same labels, or one is a cascade.
    """
    if len(sources) != 2:
        raise ValueError(f"stages takes two runs, the cheap one first, as in --stages student teacher; got {sources}.")
    runs = [Run.read(source) for source in sources]
    folders = [Path(source) if os.path.isdir(source) else _download(source) for source in sources]
    if folders[0].samefile(folders[1]):
        raise ValueError(f"stages has the same run twice, {sources[0]!r}. Give a cheap run and a better one.")
    for source, run in zip(sources, runs, strict=True):
        if run.approach == "cascade":
            raise ValueError(f"stages: {source!r} is a cascade itself. Give two runs that are none.")
    check_spaces([run.label_space for run in runs])
    return folders


def _download(repository: str) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repository, allow_patterns=list(PUBLISHED)))


def check_documents(stages: Sequence[Path], data: ClassificationData) -> None:
    """Check that documents can give the threshold of a cascade, before a model is loaded.

    Warns where a stage was trained on others, among which these may be.

    Raises:
        ValueError: If there are too few, or they have other labels; or with folds, if a stage had none.
    """
    names, documents = data.label_space.names, len(data.splits["validation"])
    run = Run.read(stages[0])
    if run.label_space != data.label_space:
        raise ValueError(
            f"The stages have other labels than the documents: {list(run.label_space.names)}, {list(names)}."
        )
    if documents < MIN_DOCUMENTS:
        kind = "labelled" if data.fold_count else "validation"
        raise ValueError(
            f"{documents} {kind} documents are too few to fit the threshold of a cascade: {MIN_DOCUMENTS} are needed, "
            "and some hundreds tell more. Give more of them."
        )
    content = documents_content(data) if len(data.splits["train"]) else None
    for stage in stages:
        settings = read_manifest(stage)["settings"]
        if data.folds is not None and not (stage / OUT_OF_FOLD_FILE).is_file():
            raise ValueError(
                f"{str(stage)!r} was trained without folds: leave folds out, and give validation documents."
            )
        if settings and content and settings.get("data") != content:
            logger.warning(
                f"{stage} was trained on other documents, or with other folds. If these validation documents were "
                "among its training documents, its probabilities of them are too sure, and the threshold is wrong."
            )


def make_cascade(job: Job) -> Metrics:
    """Fit the threshold of a cascade, measure it on the test documents and save it as a finished run.

    Nothing is fitted on test. `check_documents` has been called.

    Returns:
        Content of `metrics.json`; its part `cascade` says what was fitted and what it costs.
    """
    folder = unfinished_folder(job.folder)
    shutil.rmtree(folder.parent, ignore_errors=True)
    places = [folder / MEMBERS_FOLDER / name for name in STAGES]
    with naming_full_disk(job.folder):
        for source, place in zip(job.stages, places, strict=True):
            copy_run(source, place)
    stages = [TextClassifier.from_pretrained(place, batch_size=job.batch_size) for place in places]
    held_out, seconds = zip(*(_held_out(*each, job.data) for each in zip(stages, job.stages, strict=True)), strict=True)
    if seconds[0] >= seconds[1]:
        first, second = (rate_in_words(1 / each) for each in seconds)
        logger.warning(
            f"The first stage is not faster than the second ({first} and {second} documents "
            "a second): a cascade of them saves nothing. Give the cheap one first."
        )
    decisions = [_decide(stage, logits) for stage, logits in zip(stages, held_out, strict=True)]
    documents = Judged(job.data.gold("validation"), stage_margins(stages[0], held_out[0]), *decisions)
    fitted = fit_cascade(documents, seconds, job.rule, average=job.average)
    runs = [Run.read(place) for place in places]
    Run(
        approach="cascade",
        label_space=job.data.label_space,
        truncation=Truncation(None),
        calibration=Calibration(),
        base_model=common_base(runs),
        version=version("hf_causal_clf"),
        members=dict.fromkeys(STAGES, 1.0),
        cascade_threshold=fitted.threshold,
        training=_facts(job.data, runs),
    ).write(folder)
    measured = _measure(job, stages, held_out, decisions, fitted, seconds)
    finish_run(folder, job.data, measured)
    return measured.metrics


def _held_out(stage: TextClassifier, source: Path, data: ClassificationData) -> tuple[np.ndarray, float]:
    """Calibrated logits of the validation documents, or out of fold, and the seconds that a document takes."""
    texts = data.texts("validation")
    if data.folds is None:
        return _timed(stage, texts)
    found = read_out_of_fold(source, data.label_space)
    rows = align(list(data.splits["validation"]["id"]), found.ids)
    temperature = 1.0 if stage.calibration.temperature is None else stage.calibration.temperature
    return found.logits[rows].astype(np.float64) / np.asarray(temperature), _timed(stage, texts[:_TIMED])[1]


def _timed(stage: TextClassifier, texts: list[str]) -> tuple[np.ndarray, float]:
    """Calibrated logits, and the seconds that a document takes once the model is warm."""
    calibrated_logits(stage, texts[: stage.scorer.batch_size])
    start = time.perf_counter()
    logits = calibrated_logits(stage, texts)
    return logits, (time.perf_counter() - start) / len(texts)


def _decide(stage: TextClassifier, logits: np.ndarray) -> np.ndarray:
    multi_label = stage.label_space.multi_label
    return stage.calibration.decide(Calibration().apply(logits, multi_label=multi_label), multi_label=multi_label)


def _measure(
    job: Job,
    stages: Sequence[TextClassifier],
    held_out: Sequence[np.ndarray],
    decided: Sequence[np.ndarray],
    fitted: Fitted,
    seconds: Sequence[float],
) -> Measured:
    """Measure a cascade beside its stages, one after the other in this process."""
    data, cascade = job.data, Cascade(stages, fitted.threshold)
    passed_on = deferred_rows(stage_margins(stages[0], held_out[0]), fitted.threshold)
    alone = [_timed(stage, data.texts("test")) for stage in stages]
    start = time.perf_counter()
    answers = cascade.answer(data.texts("test"))
    speed = len(answers.logits) / (time.perf_counter() - start)
    logits = {"validation": _mixed(passed_on, *held_out), "test": answers.logits}
    multi_label, gold = data.label_space.multi_label, data.gold("test")
    probabilities = {split: Calibration().apply(each, multi_label=multi_label) for split, each in logits.items()}
    decisions = {"validation": _mixed(passed_on, *decided)}
    decisions["test"] = cascade.decide(probabilities["test"], answers.stages)
    metrics: Metrics = {
        split: classification_metrics(data.gold(split), probabilities[split], decisions[split]) for split in logits
    }
    metrics["calibration"] = {"documents": len(passed_on), **Calibration().to_dict(), "by_stages": True}
    if data.fold_count:
        metrics["calibration"]["folds"] = data.fold_count
    if len(data.splits["train"]):
        metrics["majority"] = majority_metrics(data)
    costs = [_cost(source) for source in job.stages]
    metrics["training"] = {
        "trainable_parameters": sum(cost.get("trainable_parameters", 0) for cost in costs),
        "predict_samples_per_second": speed,
        "peak_memory_bytes": peak_memory_bytes(),
    }
    tested = [_decide(stage, found) for stage, (found, _) in zip(stages, alone, strict=True)]
    loss = f1_interval(gold, tested[1], decisions["test"], average=job.average)
    f1 = [decision_metrics(gold, each)[f"f1_{job.average}"] for each in tested]
    metrics["cascade"] = {
        "f1_average": job.average,
        **{name: value for name, value in asdict(job.rule).items() if value is not None},
        "fitted": {**asdict(fitted), "documents_per_second": [1 / each for each in seconds]},
        "test": {
            "deferred": float((answers.stages == 2).mean()),
            "f1": metrics["test"][f"f1_{job.average}"],
            "first_f1": f1[0],
            "second_f1": f1[1],
            "loss": asdict(loss),
            "documents_per_second": [1 / each for _, each in alone],
        },
    }
    abstention = None
    if job.target_error is not None:
        fit = fit_run_abstention(data, logits, Calibration(), job.target_error, decisions)
        abstention, metrics["abstention"] = fit
    return Measured(logits, Calibration(), metrics, abstention, decisions=decisions)


def _mixed(passed_on: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.where(passed_on if first.ndim == 1 else passed_on[:, None], second, first)


def _facts(data: ClassificationData, runs: Sequence[Run]) -> dict[str, Any]:
    """What is known of the documents; of those of training, what the second stage knows where they are not given."""
    facts = {**document_facts(data), **common_facts(runs), **priors_of(runs)}
    if not len(data.splits["train"]):
        del facts["overlap"]
        for name in ("documents", "label_counts"):
            trained = runs[1].training.get(name, {}).get("train")
            facts[name] = {**facts[name], "train": trained}
            if trained is None:
                del facts[name]
    return facts


def _cost(source: Path) -> dict[str, Any]:
    path = source / METRICS_FILE
    return read_json(path).get("training", {}) if path.is_file() else {}
