"""Finished runs that are made in no time, to teach."""

from dataclasses import replace
from pathlib import Path

from hf_causal_clf.baselines.fitting import tfidf
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.splits import load_data
from hf_causal_clf.runs.measuring import measure
from hf_causal_clf.runs.results import write_results


def write_teacher(folder: Path, files: dict[str, str], folds: int = 0, **options) -> Path:
    """A run of TF-IDF and logistic regression on documents, without figures and card."""
    data = load_data(DataArguments(**files, **options), folds)
    outcome = tfidf(data)
    calibration, metrics = measure(data, outcome.logits)
    folder.mkdir()
    outcome.save(folder)
    replace(outcome.run, calibration=calibration).write(folder)
    write_results(folder, data, outcome.logits, calibration, metrics)
    return folder
