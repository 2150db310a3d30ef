"""The numbers beside a figure are those that it draws."""

import numpy as np
import pytest
from test_plots import line, multi_label, single_label

from hf_causal_clf.evaluation import plots
from hf_causal_clf.evaluation.figure_numbers import (
    confusion_numbers,
    label_f1_numbers,
    reliability_numbers,
    risk_coverage_numbers,
    set_size_numbers,
    threshold_numbers,
    training_numbers,
)
from hf_causal_clf.evaluation.metrics import expected_calibration_error, f1_per_label


@pytest.mark.parametrize("make", [single_label, multi_label])
def test_the_bins_of_a_reliability_diagram_give_its_error(make):
    gold, probabilities = make()
    heading, *rows = reliability_numbers(gold, probabilities)
    assert heading[2:] == (
        ["documents", "mean confidence", "accuracy"] if gold.ndim == 1 else ["pairs", "mean confidence", "frequency"]
    )
    counts, mean, accuracy = np.array([row[2:] for row in rows]).T
    assert counts.sum() == (len(gold) if gold.ndim == 1 else gold.size)
    assert all(low <= middle <= high for low, high, _, middle, _ in rows)
    ece = (counts * np.abs(mean - accuracy)).sum() / counts.sum()
    assert ece == pytest.approx(expected_calibration_error(gold, probabilities, bins=15), abs=1e-6)
    both = reliability_numbers(gold, probabilities, probabilities**2 / (probabilities**2).sum(axis=1, keepdims=True))
    assert {row[0] for row in both[1:]} == {"before calibration", "after calibration"}
    assert [row[1:] for row in both if row[0] == "after calibration"] == rows


def test_confusions_are_mistakes_by_their_number():
    gold, predicted = np.array([0, 0, 0, 1, 1, 2, 2]), np.array([1, 1, 0, 0, 1, -1, 2])
    assert confusion_numbers(gold, predicted, ["a", "b", "c"])[1:] == [
        ["a", "b", 2, pytest.approx(2 / 3)],
        ["b", "a", 1, 0.5],
        ["c", "malformed", 1, 0.5],
    ]
    assert confusion_numbers(gold, gold, ["a", "b", "c"])[1:] == []


@pytest.mark.parametrize("make", [single_label, multi_label])
def test_labels_and_thresholds(make):
    gold, probabilities = make()
    labels = [f"label {place}" for place in range(probabilities.shape[1])]
    decided = probabilities.argmax(axis=1) if gold.ndim == 1 else (probabilities >= 0.5).astype(int)
    assert [row[2] for row in label_f1_numbers(gold, decided, labels)[1:]] == f1_per_label(
        gold, decided, len(labels)
    ).tolist()
    heading, *rows = threshold_numbers(gold, probabilities)
    figure = plots.threshold_curves(gold, probabilities)
    for place, name in enumerate(heading[1:], start=1):
        points = line(figure, name)
        drawn = np.interp([row[0] for row in rows], points[:, 0], points[:, 1])
        found = [np.nan if row[place] is None else row[place] for row in rows]
        np.testing.assert_allclose(found, drawn, atol=1e-9)


def test_risk_at_shares_of_the_answers():
    confidence, wrong = np.array([0.9, 0.8, 0.7, 0.6]), np.array([False, True, False, True])
    assert risk_coverage_numbers(confidence, wrong)[1:] == [
        [0.25, 0.0],
        [0.5, 0.5],
        [0.75, pytest.approx(1 / 3)],
        [1.0, 0.5],
    ]
    random = np.random.default_rng(0)
    assert len(risk_coverage_numbers(random.random(1000), random.random(1000) < 0.2)) == 21


def test_set_sizes_add_up():
    sets = {"a": np.array([[1, 0, 0], [1, 1, 0]], dtype=bool), "b": np.array([[1, 1, 1], [1, 1, 0]], dtype=bool)}
    assert set_size_numbers(sets) == [["labels in a set", "a", "b"], [0, 0, 0], [1, 0.5, 0], [2, 0.5, 0.5], [3, 0, 0.5]]


def test_training_numbers_are_json_even_of_a_training_that_diverged():
    history = [
        {"step": 10, "epoch": 1.0, "loss": float("nan"), "learning_rate": 1e-3},
        {"step": 10, "epoch": 1.0, "eval_loss": 0.5, "eval_f1_macro": 0.8},
        {"step": 10, "epoch": 1.0, "eval_loss": 0.7},
        {"step": 20, "epoch": 2.0, "train_runtime": 3.0},
    ]
    assert training_numbers(history)[1:] == [[10, 1.0, None, 0.5, 0.8, None]]
