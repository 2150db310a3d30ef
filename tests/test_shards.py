import json

import numpy as np
import pandas as pd
import pytest
from datasets import load_dataset
from pyarrow import parquet

from hf_causal_clf import LabelSpace, TextClassifier
from hf_causal_clf.evaluation.calibration import to_logits
from hf_causal_clf.shards import (
    check_content,
    finish_prediction,
    predict_shards,
    progress,
    shard_path,
    start_prediction,
)

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


def number(shards):
    return sum(rows.number for rows in shards)


def read(output):
    data = load_dataset("parquet", data_files=str(output / "shard-*.parquet"), split="train")
    return {row["id"]: row for row in data}, len(data)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def test_every_row_is_predicted_once_with_its_own_id(tmp_path):
    scorer = ByLength()
    assert number(predict(tmp_path, scorer, 37)) == 37
    rows, count = read(tmp_path)
    assert count == len(rows) == 37
    for row in range(37):
        found = rows[f"id-{row}"]
        assert found["probabilities"] == pytest.approx({"long": (1 + row % 10) / 10, "short": 1 - (1 + row % 10) / 10})
        assert found["predicted"] == max(found["probabilities"], key=found["probabilities"].get)
    assert scorer.largest <= 10  # never more than a shard in memory


@pytest.mark.parametrize("killed_after", [0, 10, 25])
def test_goes_on_after_a_kill_without_repeating_a_finished_shard(tmp_path, killed_after):
    scorer = ByLength()
    scorer.killed_after = killed_after
    with pytest.raises(KeyboardInterrupt):
        predict(tmp_path, scorer, 37)
    done = len(scorer.texts)
    again = ByLength()
    assert number(predict(tmp_path, again, 37)) == 37
    assert len(again.texts) == 37 - done
    rows, count = read(tmp_path)
    assert count == len(rows) == 37


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_processes_share_the_rows(tmp_path, processes):
    scorers = [ByLength() for _ in range(processes)]
    for process, scorer in enumerate(scorers):
        assert number(predict(tmp_path, scorer, 37, process=process, processes=processes)) == 37
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

    assert number(predict_shards(load, documents(20), tmp_path, shard_size=10)) == 20


def test_a_document_without_text_is_named_and_finished_shards_stay(tmp_path):
    rows = [*documents(15), ("bad", " "), *documents(3)]
    with pytest.raises(ValueError, match=r"Row 15 \(id 'bad'\), counted from 0, has no text"):
        predict_shards(lambda: TextClassifier(ByLength(), LABELS), rows, tmp_path, shard_size=10)
    assert shard_path(tmp_path, 0).is_file()
    assert [path.name for path in tmp_path.iterdir()] == [shard_path(tmp_path, 0).name]


class Given:
    """Gives the probabilities that the texts name."""

    batch_size = 4

    def __init__(self, labels):
        self.labels = labels

    def logits(self, texts):
        probabilities = np.array([text.split() for text in texts], dtype=np.float32).reshape(
            len(texts), len(self.labels)
        )
        return to_logits(probabilities, multi_label=self.labels.multi_label)


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
    predict_shards(lambda: TextClassifier(Given(labels), labels), rows, tmp_path, shard_size=2)
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
        predict_shards(lambda: TextClassifier(Given(MULTI), MULTI), rows, tmp_path, shard_size=2)


def started(tmp_path, **changes):
    settings = {"labels": ["a", "b"], "shard_size": 10}
    content = {"documents": {"rows.csv": "sha256:1"}, "classifier": {"weights": "sha256:2"}}
    start_prediction(tmp_path, {**settings, **changes.get("settings", {})}, {**content, **changes.get("content", {})})


def test_other_settings_are_refused_and_a_finished_folder_is_noted(tmp_path):
    output = tmp_path / "out"
    started(output)
    started(output)
    with pytest.raises(ValueError, match=r"other settings: \{'shard_size': 10\}, now \{'shard_size': 20\}"):
        started(output, settings={"shard_size": 20})
    shards = predict(output, ByLength(), 17)
    shard_path(output, 1).rename(tmp_path / "kept")
    with pytest.raises(FileNotFoundError, match=r"shards \[1\] are missing"):
        finish_prediction(output, shards, LABELS)
    assert json.loads((output / "_prediction.json").read_text())["finished"] is False
    (tmp_path / "kept").rename(shard_path(output, 1))
    finish_prediction(output, shards, LABELS)
    note = json.loads((output / "_prediction.json").read_text())
    assert (note["finished"], note["rows"], note["unanswered"]) == (True, 17, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"documents": {"rows.csv": "sha256:x"}}, r"started with other documents: rows\.csv has changed\. "),
        (
            {"documents": {"others.csv": "sha256:1"}},
            r"with other documents: others\.csv is new; rows\.csv is missing\. ",
        ),
        ({"classifier": {"weights": "sha256:x"}}, r"another classifier: weights has changed\. "),
    ],
)
def test_other_content_is_refused_by_name(tmp_path, content, message):
    started(tmp_path / "out")
    with pytest.raises(ValueError, match=message):
        started(tmp_path / "out", content=content)
    with pytest.raises(ValueError, match=message):
        check_content(tmp_path / "out", content)


@pytest.mark.parametrize("names", [["prediction.json"], ["prediction.json", "shard-000000.parquet"]])
def test_a_folder_of_an_earlier_version_is_refused_and_kept(tmp_path, names):
    for name in names:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=r"of an earlier version.*cannot be gone on with\. Choose another output_dir"):
        started(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def finish_with(tmp_path, change):
    started(tmp_path / "out")
    shards = predict(tmp_path / "out", ByLength(), 37)
    change(tmp_path / "out")
    finish_prediction(tmp_path / "out", shards, LABELS)


def rewritten(path, change):
    parquet.write_table(change(parquet.read_table(path)), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.slice(1), "has other rows than the documents at its place: 9 instead of 10"),
        (lambda table: table.take([0, 0, *range(2, 10)]), "10 instead of 10, or other ids"),
        (lambda table: table.take([1, 0, *range(2, 10)]), "10 instead of 10, or other ids"),
        (lambda table: table.drop_columns(["id"]), "cannot be read"),
    ],
)
def test_every_row_has_to_be_there_once(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        finish_with(tmp_path, lambda output: rewritten(shard_path(output, 2), change))
    with pytest.raises(ValueError, match=message):  # when it goes on, before another shard is predicted
        predict(tmp_path / "out", ByLength(), 37)


def test_shards_that_belong_to_no_document_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no document belongs to: \['shard-000004\.parquet'\]\. Remove them"):
        finish_with(tmp_path, lambda output: shard_path(output, 4).write_bytes(shard_path(output, 3).read_bytes()))


def test_a_damaged_shard_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"shard-000001\.parquet cannot be read .*Remove it, and start the same"):
        finish_with(tmp_path, lambda output: shard_path(output, 1).write_bytes(b"PAR1"))


@pytest.mark.parametrize(
    ("there", "total", "said"),
    [
        ([], 37, None),
        ([0, 1], 37, "2 of 4 shards are there: going on at row 20"),
        ([1, 3], 37, "2 of 4 shards are there: going on at row 0"),
        ([0, 2], None, "2 shards are there: going on at row 10"),
        ([0, 1, 2, 3], 37, "4 of 4 shards are there: nothing is left to predict"),
    ],
)
def test_it_says_where_it_goes_on(tmp_path, there, total, said):
    for index in there:
        shard_path(tmp_path, index).touch()
    assert progress(tmp_path, total, 10) == said


def test_the_folder_is_a_table_for_pandas_and_arrow(tmp_path):
    started(tmp_path / "out")
    predict(tmp_path / "out", ByLength(), 37)
    for found in (pd.read_parquet(tmp_path / "out"), parquet.read_table(tmp_path / "out").to_pandas()):
        assert list(found["id"]) == [f"id-{row}" for row in range(37)]
        named = pd.DataFrame(found["probabilities"].tolist())
        assert list(named.columns) == ["long", "short"]
        assert list(named.idxmax(axis=1)) == list(found["predicted"])
        assert list(named["long"]) == pytest.approx([(1 + row % 10) / 10 for row in range(37)])


def summary(tmp_path, labels, texts, **options):
    start_prediction(tmp_path / "out", {}, {})
    rows = list(enumerate(texts))
    classifier = TextClassifier(Given(labels), labels)
    shards = predict_shards(lambda: classifier, rows, tmp_path / "out", shard_size=2, **options)
    return finish_prediction(tmp_path / "out", shards, labels)


def test_labels_are_counted(tmp_path):
    found = summary(tmp_path, LabelSpace(["a", "b"]), ["0.9 0.1", "0.3 0.7", "0.8 0.2"])
    assert str(found) == "a 2, b 1"


def test_labels_of_several_are_counted(tmp_path):
    found = summary(tmp_path, MULTI, ["0.9 0.1", "0.8 0.7", "0.1 0.2", "0 0", "1 0"])
    assert str(found) == "a 3, b 1, without any label 2"


def test_many_labels_are_counted_in_short(tmp_path):
    labels = LabelSpace([f"label {index}" for index in range(12)])
    rows = np.eye(12)[[0, 0, 0, *range(1, 12), 5]]
    found = summary(tmp_path, labels, [" ".join(map(str, row)) for row in rows])
    assert str(found).startswith("label 0 3, label 5 2, label 1 1, ")
    assert str(found).endswith(", 2 other labels 2")


@pytest.mark.parametrize("labels", [MULTI, LabelSpace(["a", "b"])])
def test_documents_without_text_keep_their_row(tmp_path, labels):
    texts = ["0.9 0.1", None, "", "\t\n", "0.1 0.2", "0.8 0.2"]  # the second of three shards is all empty
    found = summary(tmp_path, labels, texts, empty="keep")
    assert (found.rows, found.unanswered) == (6, 3)
    data = parquet.read_table(tmp_path / "out").to_pylist()
    nothing = [] if labels.multi_label else "b"
    first = ["a"] if labels.multi_label else "a"
    assert [row["predicted"] for row in data] == [first, None, None, None, nothing, first]
    probabilities = [row["probabilities"] for row in data]
    assert probabilities[1:4] == [None] * 3
    assert probabilities[5] == pytest.approx({"a": 0.8, "b": 0.2})
    schemas = [parquet.read_schema(shard_path(tmp_path / "out", index)) for index in range(3)]
    assert schemas[0].equals(schemas[1])
    assert schemas[0].equals(schemas[2])
    assert str(found).endswith("without text, their answer null, 3")


def test_a_text_of_another_type_is_an_error_also_where_empty_ones_are_not(tmp_path):
    with pytest.raises(ValueError, match=r"Row 1 \(id 1\), counted from 0, has 5 of type int instead of a text"):
        summary(tmp_path, MULTI, ["0.9 0.1", 5], empty="keep")


@pytest.mark.parametrize("name", ["shard-000000.parquet", "_errors-000000.jsonl"])
def test_files_that_no_prediction_wrote_are_named_and_stay(name, tmp_path):
    half = tmp_path / ".shard-000000.parquet.abc"
    for path in (tmp_path / name, half):
        path.write_text("somebody's own")
    with pytest.raises(ValueError, match=rf"has {name} but no _prediction\.json"):
        start_prediction(tmp_path, {}, {})
    (tmp_path / name).unlink()
    start_prediction(tmp_path, {}, {})
    assert half.read_text() == "somebody's own"
    start_prediction(tmp_path, {}, {})  # goes on: now it is half a shard of a start that was killed
    assert not half.exists()
