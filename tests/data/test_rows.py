"""Many documents in the memory of a few: what is read, cut, told apart and tokenised is never in memory as a whole."""

import json
import re
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import make_rows, write_jsonl
from datasets import Dataset

from hf_causal_clf.backbone.identity import fingerprint
from hf_causal_clf.data.arguments import SPLITS, DataArguments
from hf_causal_clf.data.rows import BATCH, parts_of, read_columns, taken, values_of, write_table
from hf_causal_clf.data.sampling import stratified_split, text_keys
from hf_causal_clf.data.splits import load_data
from hf_causal_clf.training.output_folder import documents_content

VALUES = {
    "texts": ["a", "", "straße\n", None, "x" * 70_000],
    "numbers": [1, -(2**63), None, 2**63 - 1],
    "long numbers": [1, 2**70],
    "truth": [True, False, 1],
    "floats": [1.0, 1, 2.5],
    "lists": [["a", "b"], [], None, ["c"]],
    "mixed lists": [["a", 1], ["b"]],
    "nothing": [None, None],
    "mixed": ["1", 1, None, 1.0, ["1"], {"a": 1}],
}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_values_come_back_as_they_are(values):
    values = [values[row % len(values)] for row in range(BATCH + 7)]
    rows = [{"value": value, "other": 1} for value in values]
    columns, names, count = read_columns(rows, ["value", "missing"])
    assert (columns.keys(), names, count) == ({"value"}, ["value", "other"], len(values))
    assert list(map(repr, columns["value"])) == list(map(repr, values))  # 1 and True and 1.0 are told apart


def test_long_rows_are_kept_a_few_at_a_time():
    columns, _, _ = read_columns(({"text": f"{row}" * 5_000_000} for row in range(8)), ["text"])
    assert len(columns["text"].to_arrow().chunks) > 1
    assert [text[0] for text in columns["text"]] == list("01234567")


@pytest.mark.parametrize("chosen", [[], [0], [3, 999, 1000, 1001, 2499], range(1, 2500, 2), range(2500)])
def test_rows_that_are_taken_are_those_of_select(chosen):
    rows = Dataset.from_dict({"id": range(2500), "text": [f"text {row}" for row in range(2500)]})
    found = taken(rows, np.array(chosen, dtype=np.int64))
    assert found.features == rows.features
    assert found[:] == rows.select(chosen)[:]
    assert list(values_of(found, "text")) == found["text"][:]
    assert [len(part["id"]) <= BATCH for part in parts_of(found, "id", "text")].count(False) == 0


@pytest.mark.parametrize("multi_label", [False, True])
def test_content_is_the_hash_of_all_rows_together(files, multi_label_files, multi_label):
    data = load_data(DataArguments(**(multi_label_files if multi_label else files), multi_label=multi_label))
    for splits in (SPLITS, ("test",)):
        rows = {split: [data.splits[split][name][:] for name in ("id", "text", "label")] for split in splits}
        assert documents_content(data, splits) == fingerprint([data.label_space.to_dict(), rows])


def test_content_with_folds_and_many_batches(tmp_path):
    path = write_jsonl(tmp_path / "train.jsonl", make_rows(3 * BATCH))
    data = load_data(DataArguments(train_file=path), folds=3)
    rows = {split: [data.splits[split][name][:] for name in ("id", "text", "label")] for split in SPLITS}
    assert documents_content(data) == fingerprint([data.label_space.to_dict(), rows, data.folds.tolist()])
    test = {"test": rows["test"]}
    assert documents_content(data, ("test",)) == fingerprint([data.label_space.to_dict(), test])


def test_keys_of_texts_draw_as_the_texts_do():
    rng = np.random.default_rng(0)
    texts = [f"text {number}" for number in rng.integers(0, 300, 500)]
    gold = rng.integers(0, 4, 500)
    for seed in range(5):
        expected = stratified_split(gold, texts, 100, seed)
        np.testing.assert_array_equal(stratified_split(gold, text_keys(texts), 100, seed), expected)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_does_not_grow_with_the_documents(tmp_path):
    def peak(count):
        """Most memory of this process in MiB, mapped files apart, while documents are loaded."""
        with (tmp_path / "train.jsonl").open("w") as file:
            file.writelines(
                json.dumps({"text": f"{row:05} " * 400, "label": f"label {row % 3}"}) + "\n" for row in range(count)
            )
        found, done = [], threading.Event()

        def watch():
            while not done.wait(0.002):
                found.append(int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024)

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            documents_content(load_data(DataArguments(train_file=str(tmp_path / "train.jsonl"))))
        finally:
            done.set()
            watching.join()
        return max(found)

    few, many = peak(4 * BATCH), peak(44 * BATCH)
    assert many - few < 45  # MiB; the texts are 92 MiB more


def test_no_file_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    rows = write_table([pa.record_batch([pa.array(["a", "b"])], ["text"])])
    assert not list(tmp_path.iterdir())
    assert rows["text"].to_pylist() == ["a", "b"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk is /dev/full")
@pytest.mark.parametrize("rows", [1, 100_000])
def test_a_full_disk_says_what_to_do(rows, monkeypatch):
    monkeypatch.setattr("tempfile.TemporaryFile", lambda: Path("/dev/full").open("wb"))  # noqa: SIM115
    with pytest.raises(OSError, match=r"is full[.] Free some space, or set TMPDIR"):
        write_table([pa.record_batch([pa.array(["a"] * rows)], ["text"])])
