"""The files that hold a run's results."""

import numpy as np
import pytest
from datasets import Dataset
from pyarrow import parquet

from hf_causal_clf import LabelSpace
from hf_causal_clf.data.splits import ClassificationData
from hf_causal_clf.evaluation.calibration import to_logits
from hf_causal_clf.runs.measuring import measure
from hf_causal_clf.runs.results import read_results, write_results

LABELS = LabelSpace(["a", "b"], multi_label=True)


@pytest.mark.parametrize("ids", [[3, 4, 5], ["x", "y", "z"]])
def test_predictions_have_the_same_columns_whatever_was_predicted(tmp_path, monkeypatch, ids):
    monkeypatch.setattr("hf_causal_clf.runs.results._draw", lambda *args: None)
    gold = [["a"], ["b"], []]
    rows = Dataset.from_dict({"id": ids, "text": ["x", "y", "z"], "label": gold})
    data = ClassificationData(LABELS, dict.fromkeys(("train", "validation", "test"), rows), {})
    schemas = []
    for name, probability in (("nothing", 0.1), ("everything", 0.9)):
        probabilities = np.full((3, 2), probability, dtype=np.float32)
        logits = dict.fromkeys(("validation", "test"), to_logits(probabilities, multi_label=True))
        calibration, metrics = measure(data, logits)
        write_results(tmp_path / name, data, logits, calibration, metrics)
        schemas.append(parquet.read_schema(tmp_path / name / "predictions.parquet"))
        found = read_results(tmp_path / name, LABELS)
        assert found.ids == ids
        np.testing.assert_array_equal(found.gold, LABELS.encode_batch(gold))
        np.testing.assert_array_equal(found.predicted, np.full((3, 2), probability > 0.5))
        np.testing.assert_allclose(found.probabilities, probabilities, rtol=1e-6)
    assert schemas[0].equals(schemas[1])
