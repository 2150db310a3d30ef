import evaluate
import numpy as np
import pytest

from hf_causal_clf.evaluation.evaluate_metrics import (
    F1,
    Accuracy,
    BrierScore,
    ExpectedCalibrationError,
    NegativeLogLikelihood,
    Precision,
    Recall,
)
from hf_causal_clf.evaluation.metrics import classification_metrics, expected_calibration_error

ALL = (F1, Precision, Recall, Accuracy, NegativeLogLikelihood, BrierScore, ExpectedCalibrationError)


@pytest.fixture(params=[False, True], ids=["single", "multi"])
def sample(request):
    draw = np.random.default_rng(0)
    if request.param:
        return draw.integers(0, 2, size=(40, 3)), draw.uniform(size=(40, 3))
    return draw.integers(0, 3, size=40), draw.dirichlet(np.ones(3), size=40)


def test_combined_metrics_are_ours(sample):
    gold, probabilities = sample
    combined = evaluate.combine([metric() for metric in ALL])
    found = combined.compute(predictions=probabilities.tolist(), references=gold.tolist())
    assert found == pytest.approx(classification_metrics(gold, probabilities))


def test_batches_add_up(sample):
    gold, probabilities = sample
    metric = ExpectedCalibrationError()
    for start in range(0, 40, 10):
        metric.add_batch(predictions=probabilities[start : start + 10], references=gold[start : start + 10])
    found = metric.compute(bins=5, strategy="mass", classwise=True)["ece"]
    assert found == pytest.approx(
        expected_calibration_error(gold, probabilities, bins=5, strategy="mass", classwise=True)
    )


def test_decisions_instead_of_probabilities():
    assert Accuracy().compute(predictions=[0, 1, 2], references=[0, 1, 1]) == {"accuracy": pytest.approx(2 / 3)}
    found = F1().compute(predictions=[[1, 0], [1, 1]], references=[[1, 0], [0, 1]])
    assert found["f1_micro"] == pytest.approx(0.8)


def test_in_an_evaluator(checkpoint, tmp_path):
    from datasets import Dataset
    from transformers import AutoTokenizer, pipeline

    from hf_causal_clf import CausalLMForLastTokenClassification, LabelSpace

    labels = LabelSpace(["a", "b"])
    model = CausalLMForLastTokenClassification.from_pretrained(checkpoint, label_space=labels)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(tmp_path)
    classify = pipeline("text-classification", model=str(tmp_path))
    data = Dataset.from_dict({"text": ["the cat", "football match", "a mat", "shares"], "label": [0, 1, 0, 1]})
    found = evaluate.evaluator("text-classification").compute(
        model_or_pipeline=str(tmp_path),
        data=data,
        metric=evaluate.combine([F1(), Accuracy()]),
        label_mapping=labels.label2id,
    )
    predicted = [labels.label2id[row["label"]] for row in classify(list(data["text"]))]
    assert found["accuracy"] == np.mean(np.array(predicted) == [0, 1, 0, 1])
    assert 0 <= found["f1_macro"] <= 1
