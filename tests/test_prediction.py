import json

import numpy as np
import pytest
from datasets import Dataset, load_dataset

from hf_causal_clf import LabelSpace, TextClassifier
from hf_causal_clf.calibration import to_logits
from hf_causal_clf.prediction import finish_prediction, predict_shards, shard_path, start_prediction

LABELS = LabelSpace(["long", "short"])


class ByLength:
    """Scores by the length of the text, and counts what it is asked."""

    batch_size = 4

    def __init__(self):
        self.texts = []
        self.largest = 0
        self.killed_after = None

    def logits(self, texts):
        if self.killed_after is not None and len(self.texts) + len(texts) > self.killed_after:
            raise KeyboardInterrupt
        self.texts += texts
        self.largest = max(self.largest, len(texts))
        share = np.array([min(len(text), 10) / 10 for text in texts], dtype=np.float32)
        return to_logits(np.stack([share, 1 - share], axis=1), multi_label=False)


def documents(count):
    return ((f"id-{row}", "x" * (1 + row % 10)) for row in range(count))


def predict(output, scorer, count, **options):
    return predict_shards(lambda: TextClassifier(scorer, LABELS), documents(count), output, shard_size=10, **options)


def read(output):
    data = load_dataset("parquet", data_files=str(output / "shard-*.parquet"), split="train")
    return {row["id"]: row for row in data}, len(data)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def test_every_row_is_predicted_once_with_its_own_id(tmp_path):
    scorer = ByLength()
    assert predict(tmp_path, scorer, 37) == 37
    rows, count = read(tmp_path)
    assert count == len(rows) == 37
    for row in range(37):
        found = rows[f"id-{row}"]
        assert found["probabilities"][0] == pytest.approx((1 + row % 10) / 10)
        assert found["predicted"] == LABELS.names[int(np.argmax(found["probabilities"]))]
    assert scorer.largest <= 10  # never more than a shard in memory


@pytest.mark.parametrize("killed_after", [0, 10, 25])
def test_goes_on_after_a_kill_without_repeating_a_finished_shard(tmp_path, killed_after):
    scorer = ByLength()
    scorer.killed_after = killed_after
    with pytest.raises(KeyboardInterrupt):
        predict(tmp_path, scorer, 37)
    done = len(scorer.texts)
    again = ByLength()
    assert predict(tmp_path, again, 37) == 37
    assert len(again.texts) == 37 - done
    rows, count = read(tmp_path)
    assert count == len(rows) == 37


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_processes_share_the_rows(tmp_path, processes):
    scorers = [ByLength() for _ in range(processes)]
    for process, scorer in enumerate(scorers):
        assert predict(tmp_path, scorer, 37, process=process, processes=processes) == 37
    assert sum(len(scorer.texts) for scorer in scorers) == 37
    rows, count = read(tmp_path)
    assert count == len(rows) == 37


def test_another_number_of_processes_may_go_on(tmp_path):
    predict(tmp_path, ByLength(), 37, process=1, processes=3)
    scorer = ByLength()
    predict(tmp_path, scorer, 37)
    assert len(scorer.texts) == 27
    assert read(tmp_path)[1] == 37


def test_the_classifier_is_not_loaded_for_nothing(tmp_path):
    predict(tmp_path, ByLength(), 20)

    def load():
        raise AssertionError("loaded")

    assert predict_shards(load, documents(20), tmp_path, shard_size=10) == 20


def test_a_document_without_text_is_named_and_finished_shards_stay(tmp_path):
    rows = [*documents(15), ("bad", " "), *documents(3)]
    with pytest.raises(ValueError, match=r"Row 15 \(id 'bad'\), counted from 0, has no text"):
        predict_shards(lambda: TextClassifier(ByLength(), LABELS), rows, tmp_path, shard_size=10)
    assert shard_path(tmp_path, 0).is_file()
    assert [path.name for path in tmp_path.iterdir()] == [shard_path(tmp_path, 0).name]


def test_other_settings_are_refused_and_a_finished_folder_is_noted(tmp_path):
    start_prediction(tmp_path, {"labels": ["a", "b"], "shard_size": 10})
    start_prediction(tmp_path, {"labels": ["a", "b"], "shard_size": 10})
    with pytest.raises(ValueError, match=r"other settings: \{'shard_size': 10\}, now \{'shard_size': 20\}"):
        start_prediction(tmp_path, {"labels": ["a", "b"], "shard_size": 20})
    Dataset.from_dict({"id": [1]}).to_parquet(shard_path(tmp_path, 0))
    with pytest.raises(FileNotFoundError, match=r"shards \[1\] are missing"):
        finish_prediction(tmp_path, 11, 10)
    finish_prediction(tmp_path, 10, 10)
    assert json.loads((tmp_path / "prediction.json").read_text())["finished"] is True
