"""`out_of_fold.parquet`: what a run with folds says of its labelled documents, and what is not taken for it."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from pyarrow import parquet

from hf_causal_clf import LabelSpace
from hf_causal_clf.data.splits import ClassificationData
from hf_causal_clf.evaluation.calibration import fit_calibration, to_probabilities
from hf_causal_clf.evaluation.metrics import classification_metrics
from hf_causal_clf.runs.measuring import majority_logits, measure
from hf_causal_clf.runs.results import read_out_of_fold, write_results
from hf_causal_clf.runs.summary import print_metrics
from hf_causal_clf.training.output_folder import check_output_folder

NAMES = ["a", "b", "c"]


def labelled(multi_label, count=120, ids=None):
    draw = np.random.default_rng(0)
    if multi_label:
        labels = [[name for name in NAMES if draw.random() < 0.4] for _ in range(count)]
    else:
        labels = [NAMES[index % 3] for index in range(count)]
    rows = {"id": ids or list(range(count)), "text": [f"text {index}" for index in range(count)], "label": labels}
    documents, folds = Dataset.from_dict(rows), np.arange(count) * 7 % 4
    splits = {"train": documents, "validation": documents, "test": documents.select(range(20))}
    return ClassificationData(LabelSpace(NAMES, multi_label=multi_label), splits, {}, None, folds)


def write(folder, data, monkeypatch):
    monkeypatch.setattr("hf_causal_clf.runs.results._draw", lambda *args: None)
    draw = np.random.default_rng(1)
    logits = {
        split: draw.normal(size=(len(data.splits[split]), 3)).astype(np.float32) for split in ("validation", "test")
    }
    calibration, metrics = measure(data, logits)
    write_results(folder, data, logits, calibration, metrics)
    return logits, calibration, metrics


@pytest.mark.parametrize("multi_label", [False, True])
def test_it_is_read_as_it_was_written(multi_label, tmp_path, monkeypatch):
    data = labelled(multi_label)
    logits, calibration, metrics = write(tmp_path, data, monkeypatch)
    found = read_out_of_fold(tmp_path, data.label_space)
    assert found.ids == list(range(120))
    np.testing.assert_array_equal(found.gold, data.gold("train"))
    np.testing.assert_array_equal(found.fold, data.folds)
    np.testing.assert_array_equal(found.logits, logits["validation"])
    np.testing.assert_array_equal(found.probabilities, calibration.apply(found.logits, multi_label=multi_label))
    np.testing.assert_array_equal(found.predicted, calibration.decide(found.probabilities, multi_label=multi_label))
    assert fit_calibration(found.gold, found.logits) == calibration
    assert metrics["calibration"] == {"documents": 120, **calibration.to_dict(), "folds": 4}
    expected = classification_metrics(found.gold, found.probabilities, found.predicted)
    assert {name: metrics["validation"][name] for name in expected} == pytest.approx(expected)
    assert "text" not in parquet.read_schema(tmp_path / "out_of_fold.parquet").names
    texts = data.texts("train")
    assert found.changed([2, 0], [texts[2], texts[0]]) == 0
    assert found.changed([2, 0, 1], [texts[2], f"{texts[0]} ", texts[1]]) == 1


def test_texts_as_ids_and_labels_that_cannot_be(tmp_path, monkeypatch):
    data = labelled(False, ids=[f"x{index}" for index in range(120)])
    logits, calibration, metrics = write(tmp_path, data, monkeypatch)
    logits["validation"][::5, 2] = -np.inf  # of a label that a training did not know
    write_results(tmp_path, data, logits, calibration, metrics)
    found = read_out_of_fold(tmp_path, data.label_space)
    assert found.ids[3] == "x3"
    assert (found.probabilities[::5, 2] == 0).all()


def test_without_folds_there_is_none(tmp_path, monkeypatch):
    data = labelled(False)
    write(tmp_path, data, monkeypatch)
    write(tmp_path, replace(data, folds=None), monkeypatch)
    assert "folds" not in json.loads((tmp_path / "metrics.json").read_text())["calibration"]
    with pytest.raises(FileNotFoundError, match=r"no out_of_fold.parquet.*--folds"):
        read_out_of_fold(tmp_path, data.label_space)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda table: table.drop_columns(["logits"]), "cannot be read"),
        (lambda table: with_column(table, "id", [1] * 120), "same id"),
        (lambda table: with_column(table, "logits", [[0.0, 1.0]] * 120), "does not have 3 logits a document"),
        (
            lambda table: with_column(table, "logits", [[0.0, 1.0, 2.0], [1.0]] * 60),
            "does not have 3 logits a document",
        ),
        (lambda table: with_column(table, "logits", [[0.0, 1.0, float("nan")]] * 120), "none"),
        (lambda table: with_column(table, "probabilities", [[0.0, 1.0, float("inf")]] * 120), "none"),
        (lambda table: with_column(table, "fold", [-1] * 120), "none"),
        (lambda table: with_column(table, "gold", ["film"] * 120), "film"),
    ],
)
def test_damaged_files_are_named(changed, message, tmp_path, monkeypatch):
    data = labelled(False)
    write(tmp_path, data, monkeypatch)
    path = tmp_path / "out_of_fold.parquet"
    parquet.write_table(changed(parquet.read_table(path)), path)
    with pytest.raises(ValueError, match=message):
        read_out_of_fold(tmp_path, data.label_space)


def with_column(table, name, values):
    return table.set_column(table.column_names.index(name), name, pa.array(values))


def test_a_file_of_that_name_that_no_run_wrote_is_kept(tmp_path):
    (tmp_path / "out_of_fold.parquet").touch()
    with pytest.raises(ValueError, match=r"files that a run would replace.*out_of_fold.parquet"):
        check_output_folder(tmp_path, None)


def test_few_labelled_documents_are_said_to_be_so(caplog):
    data = labelled(False, count=40)
    logits = {split: np.zeros((len(data.splits[split]), 3), dtype=np.float32) for split in ("validation", "test")}
    _, metrics = measure(data, logits)
    assert "40 labelled documents are too few to calibrate on" in caplog.text
    lines = []
    print_metrics({**metrics, "majority": metrics["test"]}, multi_label=False, write=lines.append)
    assert lines[1].startswith("out of fold")
    assert "40 labelled documents are too few" in "\n".join(lines)


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_majority_of_the_other_folds(multi_label):
    data = labelled(multi_label)
    found = to_probabilities(majority_logits(data)["validation"], multi_label=multi_label)
    gold = data.gold("train")
    for row in (0, 1, 5, 119):
        outside = gold[data.folds != data.folds[row]]
        shares = outside.mean(axis=0) if multi_label else np.bincount(outside, minlength=3) / len(outside)
        np.testing.assert_allclose(found[row], shares, atol=1e-6)
