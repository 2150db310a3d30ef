"""recipes/predict.py as a user runs it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import make_rows, run_as_main, write_jsonl
from datasets import load_dataset
from test_classifier import save_folder
from test_recipes import launch

from hf_causal_clf import TextClassifier

ROOT = Path(__file__).parent.parent


@pytest.fixture
def job(checkpoint, tmp_path):
    save_folder(tmp_path / "run", checkpoint, "embedding")
    rows = [{"key": f"k{index}", **row} for index, row in enumerate(make_rows(23))]
    options = {
        "model_name_or_path": str(tmp_path / "run"),
        "test_file": write_jsonl(tmp_path / "documents.jsonl", rows),
        "output_dir": str(tmp_path / "out"),
        "id_column": "key",
        "shard_size": "5",
        "per_device_eval_batch_size": "4",
    }
    return rows, options


def words(options):
    return [part for name, value in options.items() for part in (f"--{name}", value)]


def predict(monkeypatch, options):
    monkeypatch.setattr(sys, "argv", ["predict.py", *words(options)])
    run_as_main(ROOT / "recipes" / "predict.py")


def check(rows, tmp_path, cache):
    found = load_dataset(
        "parquet", data_files=str(tmp_path / "out" / "shard-*.parquet"), split="train", cache_dir=cache
    )
    assert list(found["id"]) == [row["key"] for row in rows]
    classifier = TextClassifier.from_pretrained(tmp_path / "run")
    texts = [row["text"] for row in rows]
    np.testing.assert_allclose(list(found["probabilities"]), classifier.predict_proba(texts), atol=1e-5)
    assert list(found["predicted"]) == classifier.predict(texts)
    assert json.loads((tmp_path / "out" / "prediction.json").read_text())["rows"] == len(rows)


def test_two_processes_predict_what_the_classifier_does(job, tmp_path):
    rows, options = job
    done = launch("predict", words(options))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("23 documents are classified") == 1
    check(rows, tmp_path, str(tmp_path / "cache"))


def test_goes_on_and_keeps_what_is_finished(job, tmp_path, monkeypatch):
    rows, options = job
    predict(monkeypatch, options)
    shards = sorted((tmp_path / "out").glob("shard-*.parquet"))
    assert len(shards) == 5
    kept = shards[0].stat().st_mtime_ns
    shards[3].unlink()
    predict(monkeypatch, options)
    assert shards[0].stat().st_mtime_ns == kept
    check(rows, tmp_path, str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=r"other settings: \{'shard_size': 5\}, now \{'shard_size': 6\}"):
        predict(monkeypatch, {**options, "shard_size": "6"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_file": "nowhere.jsonl"}, "There is no file 'nowhere.jsonl'"),
        ({"dataset_name": "x"}, "either test_file or dataset_name"),
        ({"shard_size": "0"}, "shard_size must be at least 1"),
        ({"text_column": "body"}, "has no column 'body'; it has"),
    ],
)
def test_mistakes(job, monkeypatch, change, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        predict(monkeypatch, {**job[1], **change})
