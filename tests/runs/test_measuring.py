import numpy as np
import pytest

from hf_causal_clf import LabelSpace
from hf_causal_clf.evaluation.significance import f1_interval
from hf_causal_clf.runs.measuring import generation_metrics, generation_rows
from hf_causal_clf.task.verbalizer import ParsedAnswer

LABELS = LabelSpace(["a", "b", "c"])
MULTI = LabelSpace(["a", "b", "c"], multi_label=True)


def test_generation_metrics_count_a_malformed_answer_as_wrong():
    answers = [ParsedAnswer(("a",)), ParsedAnswer((), "empty answer"), ParsedAnswer(("c",))]
    metrics = generation_metrics(answers, np.array([0, 1, 0]), LABELS, np.array([0, 1, 1]))
    assert metrics["malformed_rate"] == pytest.approx(1 / 3)
    assert metrics["generation_accuracy"] == pytest.approx(1 / 3)
    assert metrics["generation_documents"] == 3
    assert metrics["generation_scoring_f1_micro"] == pytest.approx(2 / 3)
    for average in ("macro", "micro"):
        interval = f1_interval(np.array([0, 1, 0]), np.array([0, -1, 2]), average=average)
        assert metrics[f"generation_f1_{average}"] == pytest.approx(interval.value)
        assert metrics[f"generation_f1_{average}_ci_low"] == interval.low
        assert metrics[f"generation_f1_{average}_ci_high"] == interval.high
    answers = [ParsedAnswer(()), ParsedAnswer((), "empty answer"), ParsedAnswer(("a", "c"))]
    gold = np.array([[0, 0, 0], [0, 0, 0], [1, 0, 1]])
    metrics = generation_metrics(answers, gold, MULTI, gold)
    assert metrics["generation_scoring_f1_macro"] == 1
    assert metrics["generation_accuracy"] == pytest.approx(2 / 3)


def test_documents_that_are_generated_for():
    gold = np.repeat([0, 1, 2], [600, 300, 100])
    rows = generation_rows(gold, "200")
    assert np.bincount(gold[rows]).tolist() == [120, 60, 20]
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(rows, generation_rows(gold, "200"))  # the same for every run
    for everything in ("all", "1000", "5000"):
        np.testing.assert_array_equal(generation_rows(gold, everything), np.arange(1000))
    assert len(generation_rows(gold, "none")) == 0
    several = np.eye(3, dtype=int)[gold]
    assert several[generation_rows(several, "200")].sum(axis=0).tolist() == [120, 60, 20]
