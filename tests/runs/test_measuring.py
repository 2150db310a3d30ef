import numpy as np
import pytest

from hf_causal_clf import LabelSpace
from hf_causal_clf.runs.measuring import generation_metrics
from hf_causal_clf.task.verbalizer import ParsedAnswer

LABELS = LabelSpace(["a", "b", "c"])
MULTI = LabelSpace(["a", "b", "c"], multi_label=True)


def test_generation_metrics_count_a_malformed_answer_as_wrong():
    answers = [ParsedAnswer(("a",)), ParsedAnswer((), "empty answer"), ParsedAnswer(("c",))]
    metrics = generation_metrics(answers, np.array([0, 1, 0]), LABELS)
    assert metrics["malformed_rate"] == pytest.approx(1 / 3)
    assert metrics["generation_accuracy"] == pytest.approx(1 / 3)
    answers = [ParsedAnswer(()), ParsedAnswer((), "empty answer"), ParsedAnswer(("a", "c"))]
    metrics = generation_metrics(answers, np.array([[0, 0, 0], [0, 0, 0], [1, 0, 1]]), MULTI)
    assert metrics["generation_accuracy"] == pytest.approx(2 / 3)
