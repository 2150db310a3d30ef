"""Finished runs become one, where that is better than the best of them."""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from .classifier import TextClassifier
from .combination import calibrated_scores
from .data.splits import ClassificationData
from .evaluation.calibration import Calibration
from .evaluation.combination import combine, fit_weights, judge, member_scores
from .evaluation.significance import align
from .finishing import Measured, finish_run
from .runs.disk import naming_full_disk, write_json
from .runs.files import MEMBERS_FOLDER, METRICS_FILE, read_json
from .runs.measuring import majority_metrics, measure
from .runs.members import common_base, common_facts, copy_run
from .runs.prior import priors_of
from .runs.results import read_out_of_fold
from .runs.run import Run, Truncation
from .runs.selecting import fit_run_abstention
from .training.facts import document_facts
from .training.memory import peak_memory_bytes
from .training.output_folder import unfinished_folder


@dataclass(frozen=True)
class Candidate:
    """A finished run that may become a member.

    Attributes:
        title: Its name in a report.
        name: Its folder's name among the members: letters a to z, digits, `-` and `_`.
        folder: Where it is. It was trained on the same documents, and stays as it is.
    """

    title: str
    name: str
    folder: Path


@dataclass(frozen=True)
class Job:
    """What is to be combined.

    Attributes:
        folder: Folder of the combination.
        decision: Path of the JSON file that says whether it is kept, written last.
        mark: What tells this job from another, for that file.
        candidates: The runs, two or more.
        data: Documents with gold labels.
        average: F1 that decides, `"macro"` or `"micro"`.
        batch_size: Documents per forward pass.
        target_error: Highest error among the answers of a combination that need not always answer.
    """

    folder: Path
    decision: Path
    mark: str
    candidates: Sequence[Candidate]
    data: ClassificationData
    average: str
    batch_size: int
    target_error: float | None = None


def combine_runs(job: Job) -> None:
    """Fit the weights of a combination, and save it as a finished run if it is better than each candidate.

    Whether it is better is decided by cross-fitting on the validation documents, or out of fold (`judge`): nothing that
    is decided here sees the test documents. The decision is written as JSON: `kept`, `weights` by title, the number of
    `documents` and what `judge` found.

    Raises:
        ValueError: If a run has other labels than the documents.
    """
    gold = job.data.gold("validation")
    scores = [_held_out_scores(each, job) for each in job.candidates]
    verdict = judge(scores, gold, average=job.average)
    weights = fit_weights(scores, gold)
    kept = verdict.better and int(np.count_nonzero(weights)) > 1
    chosen = [row for row in np.argsort(-weights, kind="stable") if weights[row] > 0]
    if kept:
        members = {job.candidates[row]: float(weights[row]) for row in chosen}
        with naming_full_disk(job.folder):
            _save(job, members, combine([scores[row] for row in chosen], weights[chosen]))
    write_json(
        job.decision,
        {
            "mark": job.mark,
            "kept": kept,
            "candidates": [each.title for each in job.candidates],
            "weights": {job.candidates[row].title: float(weights[row]) for row in chosen},
            "documents": len(gold),
            "split": "validation" if job.data.folds is None else "labelled",
            "f1_average": job.average,
            **asdict(verdict),
        },
    )


def _held_out_scores(candidate: Candidate, job: Job) -> np.ndarray:
    """What a candidate says of the validation documents, or with folds of all labelled ones out of fold."""
    run, space = Run.read(candidate.folder), job.data.label_space
    if run.label_space != space:
        raise ValueError(f"Run {candidate.title!r} has other labels than the documents: {list(run.label_space.names)}.")
    if job.data.folds is not None:
        found = read_out_of_fold(candidate.folder, space)
        rows = align(list(job.data.splits["validation"]["id"]), found.ids)
        temperature = 1.0 if run.calibration.temperature is None else run.calibration.temperature
        return member_scores(found.logits[rows], multi_label=space.multi_label, temperature=temperature)
    classifier = TextClassifier.from_pretrained(candidate.folder, batch_size=job.batch_size)
    texts = job.data.texts("validation")
    scores = calibrated_scores(classifier.scorer, run.calibration, texts, space.multi_label)
    del classifier  # one model at a time
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return scores


def _save(job: Job, members: dict[Candidate, float], held_out: np.ndarray) -> None:
    folder = unfinished_folder(job.folder)
    shutil.rmtree(folder.parent, ignore_errors=True)
    runs = [Run.read(candidate.folder) for candidate in members]
    for candidate in members:
        copy_run(candidate.folder, folder / MEMBERS_FOLDER / candidate.name)
    Run(
        approach="combination",
        label_space=job.data.label_space,
        truncation=Truncation(None),
        calibration=Calibration(),
        base_model=common_base(runs),
        version=version("hf_causal_clf"),
        members={candidate.name: weight for candidate, weight in members.items()},
        training={**document_facts(job.data), **common_facts(runs), **priors_of(runs)},
    ).write(folder)
    finish_run(folder, job.data, _measure(folder, job, members, held_out))


def _measure(folder: Path, job: Job, members: dict[Candidate, float], held_out: np.ndarray) -> Measured:
    """Measure a saved combination through the door that its users take."""
    classifier = TextClassifier.from_pretrained(folder, calibrated=False, batch_size=job.batch_size)
    start = time.perf_counter()
    logits = {"validation": held_out.astype(np.float32), "test": classifier.scorer.logits(job.data.texts("test"))}
    speed = len(logits["test"]) / (time.perf_counter() - start)
    calibration, metrics = measure(job.data, logits)
    metrics["majority"] = majority_metrics(job.data)
    costs = [read_json(candidate.folder / METRICS_FILE)["training"] for candidate in members]
    metrics["training"] = {
        "trainable_parameters": sum(cost["trainable_parameters"] for cost in costs),
        "predict_samples_per_second": speed,
        "peak_memory_bytes": peak_memory_bytes(),
    }
    abstention = None
    if job.target_error is not None:
        abstention, metrics["abstention"] = fit_run_abstention(job.data, logits, calibration, job.target_error)
    return Measured(logits, calibration, metrics, abstention)
