import json

import numpy as np
import pytest
from datasets import Dataset, load_dataset
from pyarrow import parquet

from hf_causal_clf import LabelSpace, TextClassifier
from hf_causal_clf.prediction import finish_prediction, predict_shards, shard_path, start_prediction

LABELS = LabelSpace(["long", "short"])


class ByLength:
    """Scores by the length of the text, and counts what it is asked."""

    batch_size = 4

    def __init__(self):
        self.texts = []
        self.largest = 0
        self.killed_after = None

    def probabilities(self, texts):
        if self.killed_after is not None and len(self.texts) + len(texts) > self.killed_after:
            raise KeyboardInterrupt
        self.texts += texts
        self.largest = max(self.largest, len(texts))
        share = np.array([min(len(text), 10) / 10 for text in texts], dtype=np.float32)
        return np.stack([share, 1 - share], axis=1)


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


class Given:
    """Gives the probabilities that the texts name."""

    batch_size = 4

    def probabilities(self, texts):
        return np.array([[float(number) for number in text.split()] for text in texts], dtype=np.float32)


MULTI = LabelSpace(["a", "b"], multi_label=True)


@pytest.mark.parametrize(
    ("labels", "texts", "expected"),
    [
        (MULTI, ["0.1 0.2", "0 0", "0.9 0.2", "0.8 0.9"], [[], [], ["a"], ["a", "b"]]),
        (MULTI, ["0.9 0.2", "0.8 0.9", "0.1 0.2", "0 0"], [["a"], ["a", "b"], [], []]),
        (MULTI, ["0.1 0.2"] * 4, [[]] * 4),
        (LabelSpace(["a", "b"]), ["0.1 0.9"] * 4, ["b"] * 4),
    ],
)
@pytest.mark.parametrize("ids", [[1, 2, 3, 4], ["1", "2", "3", "x"]])
def test_all_shards_have_the_same_columns(tmp_path, labels, texts, expected, ids):
    rows = list(zip(ids, texts, strict=True))
    predict_shards(lambda: TextClassifier(Given(), labels), rows, tmp_path, shard_size=2)
    first, second = (parquet.read_schema(shard_path(tmp_path, index)) for index in range(2))
    assert first.equals(second)
    data = load_dataset("parquet", data_files=str(tmp_path / "shard-*.parquet"), split="train")
    assert list(data["predicted"]) == expected
    assert list(data["id"]) == ids


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 2, 3, "4"], r"Row 3, counted from 0, has the id '4'\. Ids have to be all texts or all whole numbers"),
        (["1", "2", "3", None], r"Row 3, counted from 0, has the id None"),
        ([None] * 4, r"Row 0, counted from 0, has the id None"),
        ([1.0, 2.0, 3.0, 4.0], r"Row 0, counted from 0, has the id 1\.0"),
        ([True, False, 1, 2], r"Row 0, counted from 0, has the id True"),
        ([1, 2, 3, 2**63], r"Row 3, counted from 0, has the id 9223372036854775808, over 64 bits"),
    ],
)
def test_ids_of_several_types_are_refused(tmp_path, ids, message):
    rows = [(identifier, "0.1 0.9") for identifier in ids]
    with pytest.raises(ValueError, match=message):
        predict_shards(lambda: TextClassifier(Given(), MULTI), rows, tmp_path, shard_size=2)


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
