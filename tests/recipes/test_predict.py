"""recipes/predict.py as a user runs it."""

import json
import shutil
import sys
from pathlib import Path

import hub_client
import numpy as np
import pandas as pd
import pytest
from conftest import make_rows, run_as_main, run_in_two_processes, write_jsonl
from datasets import load_dataset
from hub_server import HubServer
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from test_classifier import save_folder
from test_recipes import run_two

from hf_causal_clf import TextClassifier

ROOT = Path(__file__).parents[2]
BASE = "base_model_name_or_path"


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
    named = pd.DataFrame(list(found["probabilities"]))
    assert tuple(named.columns) == classifier.label_space.names
    np.testing.assert_allclose(named, classifier.predict_proba(texts), atol=1e-5)
    assert list(found["predicted"]) == classifier.predict(texts)
    assert json.loads((tmp_path / "out" / "_prediction.json").read_text())["rows"] == len(rows)


def test_two_processes_predict_what_the_classifier_does(job, tmp_path):
    rows, options = job
    done = run_two("predict", words(options))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("23 documents are classified") == 1
    check(rows, tmp_path, str(tmp_path / "cache"))


def test_explanations_are_a_column(job, tmp_path, monkeypatch):
    rows = [
        {"key": "a", "text": "The cat won. Shares fell in the bank!"},
        {"key": "b", "text": " "},
        {"key": "c", "text": "cat"},
    ]
    write_jsonl(Path(job[1]["test_file"]), rows)
    predict(monkeypatch, {**job[1], "explain": "true"})
    found = pd.read_parquet(tmp_path / "out")["explanation"]
    expected = TextClassifier.from_pretrained(tmp_path / "run").explain(rows[0]["text"]).to_dict()["units"]
    assert [(unit["start"], unit["end"]) for unit in found[0]] == [(0, 13), (13, 37)]
    np.testing.assert_allclose([u["drop"] for u in found[0]], [u["drop"] for u in expected], atol=1e-5)
    assert found[1] is None
    assert [(unit["start"], unit["drop"]) for unit in found[2]] == [(0, None)]
    with pytest.raises(ValueError, match=r"other settings: \{'explain': True\}, now \{'explain': None\}"):
        predict(monkeypatch, job[1])


def test_goes_on_and_keeps_what_is_finished(job, tmp_path, monkeypatch, capsys):
    rows, options = job
    predict(monkeypatch, options)
    assert "going on" not in capsys.readouterr().out
    shards = sorted((tmp_path / "out").glob("shard-*.parquet"))
    assert len(shards) == 5
    kept = shards[0].stat().st_mtime_ns
    shards[3].unlink()
    predict(monkeypatch, options)
    assert shards[0].stat().st_mtime_ns == kept
    said = capsys.readouterr().out
    assert "4 of 5 shards are there: going on at row 15\n" in said
    counts = pd.read_parquet(tmp_path / "out")["predicted"].value_counts()
    assert f"23 documents are classified in {tmp_path / 'out'}: {counts.index[0]} {counts.iloc[0]}, " in said
    check(rows, tmp_path, str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=r"other settings: \{'shard_size': 5\}, now \{'shard_size': 6\}"):
        predict(monkeypatch, {**options, "shard_size": "6"})


@pytest.mark.parametrize("folder", [False, True])
def test_cells_of_a_table_are_texts(job, tmp_path, monkeypatch, folder):
    rows = [
        {"key": key, "text": text}
        for key, text in (("01", "1e5"), ("1", "None"), ("1e0", "true"), ("NA", "2021-01-05"))
    ]
    (tmp_path / "tables").mkdir()
    table = tmp_path / "tables" / "test.csv"
    delimiter = "," if folder else ";"
    table.write_text("".join(delimiter.join(cells) + "\n" for cells in (rows[0], *(row.values() for row in rows))))
    source = {"dataset_name": str(table.parent)} if folder else {"test_file": str(table)}
    predict(monkeypatch, {**{name: value for name, value in job[1].items() if name != "test_file"}, **source})
    check(rows, tmp_path, str(tmp_path / "cache"))


def test_several_files_are_one_input_and_are_gone_on_with(job, tmp_path, monkeypatch, capsys):
    rows, options = job
    (tmp_path / "many").mkdir()
    for part, (start, end) in enumerate([(0, 12), (12, 12), (12, 23)]):
        write_jsonl(tmp_path / "many" / f"{part}.jsonl", rows[start:end])
    options |= {"test_file": str(tmp_path / "many" / "*.jsonl")}
    predict(monkeypatch, options)
    check(rows, tmp_path, str(tmp_path / "cache"))
    assert len(list((tmp_path / "out").glob("shard-*"))) == 6  # a shard has rows of one file
    (tmp_path / "out" / "shard-000003.parquet").unlink()
    (tmp_path / "out" / ".shard-000003.parquet.12345").write_text("half")
    predict(monkeypatch, {**options, "test_file": str(tmp_path / "many")})
    assert "5 of 6 shards are there: going on at row 12\n" in capsys.readouterr().out
    assert not list((tmp_path / "out").glob(".shard-*"))
    check(rows, tmp_path, str(tmp_path / "cache"))
    write_jsonl(tmp_path / "many" / "2.jsonl", rows[12:22])
    with pytest.raises(ValueError, match=r"other documents: 2\.jsonl has changed\."):
        predict(monkeypatch, options)


def test_what_a_poisoned_document_ended_goes_on_and_records_it(job, tmp_path, monkeypatch, capsys):
    rows, options = job
    rows[7]["text"] = 7
    write_jsonl(Path(options["test_file"]), rows)
    with pytest.raises(ValueError, match=r"Row 7 \(id 'k7'\), counted from 0, has 7 of type int instead of a text"):
        predict(monkeypatch, options)
    predict(monkeypatch, {**options, "on_error": "record"})
    said = capsys.readouterr().out
    assert "1 of 5 shards are there: going on at row 5\n" in said
    assert ", not predicted, for the reasons in _errors-*.jsonl, 1\n" in said
    named = [json.loads(line) for line in (tmp_path / "out" / "_errors-000001.jsonl").read_text().splitlines()]
    assert named == [{"id": "k7", "row": 7, "error": "7 of type int instead of a text"}]
    found = pd.read_parquet(tmp_path / "out")
    assert list(found["id"]) == [row["key"] for row in rows]
    assert list(np.flatnonzero(found["predicted"].isna())) == [7]


def grown(job, tmp_path):
    write_jsonl(Path(job[1]["test_file"]), [*job[0], {"key": "new", "text": "the cat"}])


def with_a_row_in_front(job, tmp_path):
    write_jsonl(Path(job[1]["test_file"]), [{"key": "new", "text": "the cat"}, *job[0]])


def with_a_text_changed(job, tmp_path):
    write_jsonl(Path(job[1]["test_file"]), [*job[0][:-1], {**job[0][-1], "text": "a cat sat on the football"}])


def trained_again(job, tmp_path):
    weights = load_file(tmp_path / "run" / "adapter_model.safetensors")
    save_file({name: 2 * value for name, value in weights.items()}, tmp_path / "run" / "adapter_model.safetensors")


def calibrated_otherwise(job, tmp_path):
    path = tmp_path / "run" / "classification.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "temperature": 2.0}))


def with_a_base_model_trained_again(job, tmp_path):
    weights = load_file(tmp_path / "base" / "model.safetensors")
    save_file({name: 2 * value for name, value in weights.items()}, tmp_path / "base" / "model.safetensors")


def with_other_weights_of_an_earlier_form(job, tmp_path):
    (tmp_path / "base" / "pytorch_model.bin").write_bytes(b"weights")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_other_weights_of_an_earlier_form, r"another classifier: base model: pytorch_model\.bin is new\."),
        (grown, r"other documents: documents\.jsonl has changed\."),
        (with_a_row_in_front, r"other documents: documents\.jsonl has changed\."),
        (with_a_text_changed, r"other documents: documents\.jsonl has changed\."),
        (trained_again, r"another classifier: adapter_model\.safetensors has changed\."),
        (calibrated_otherwise, r"another classifier: classification\.json has changed\."),
        (with_a_base_model_trained_again, r"another classifier: base model: model\.safetensors has changed\."),
    ],
)
def test_does_not_go_on_with_other_content(job, tmp_path, monkeypatch, change, message):
    shutil.copytree(json.loads((tmp_path / "run" / "adapter_config.json").read_text())[BASE], tmp_path / "base")
    config = tmp_path / "run" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), BASE: str(tmp_path / "base")}))
    predict(monkeypatch, job[1])
    (tmp_path / "out" / "shard-000004.parquet").unlink()
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    change(job, tmp_path)
    with pytest.raises(ValueError, match=message):
        predict(monkeypatch, job[1])
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_goes_on_where_files_were_moved_or_are_called_by_another_path(job, tmp_path, monkeypatch):
    rows, options = job
    predict(monkeypatch, options)
    (tmp_path / "out" / "shard-000001.parquet").unlink()
    (tmp_path / "run").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    predict(monkeypatch, {**options, "model_name_or_path": "./moved/", "test_file": "documents.jsonl"})
    (tmp_path / "moved").rename(tmp_path / "run")
    check(rows, tmp_path, str(tmp_path / "cache"))


def test_a_file_that_grows_while_it_is_read_is_noticed(job, tmp_path, monkeypatch):
    load = TextClassifier.from_pretrained

    def slow(*args, **kwargs):
        grown(job, tmp_path)
        return load(*args, **kwargs)

    monkeypatch.setattr(TextClassifier, "from_pretrained", slow)
    with pytest.raises(ValueError, match=r"other documents: documents\.jsonl has changed"):
        predict(monkeypatch, job[1])
    assert json.loads((tmp_path / "out" / "_prediction.json").read_text())["finished"] is False


def test_two_processes_do_not_go_on_with_other_content(job, tmp_path, monkeypatch):
    predict(monkeypatch, {**job[1], "output_dir": str(tmp_path / "locked")})  # by this process, until it ends
    shutil.copytree(tmp_path / "locked", tmp_path / "out")
    with_a_row_in_front(job, tmp_path)
    done = run_two("predict", words(job[1]))
    assert done.returncode != 0
    assert "other documents: documents.jsonl has changed." in done.stderr


WAITING = """
import time
from datetime import timedelta
import torch.distributed.distributed_c10d as processes
processes._get_default_timeout = lambda backend: timedelta(seconds=1)  # in the place of half an hour
from hf_causal_clf.cli.processes import process_state
state = process_state()
assert state.num_processes == 2
time.sleep(4 * state.process_index)
state.wait_for_everyone()
"""


def test_a_process_waits_for_another_that_has_more_to_do(tmp_path):
    run_in_two_processes(WAITING, tmp_path)


def test_documents_without_text_are_kept_and_counted(job, tmp_path, monkeypatch, capsys):
    rows, options = job
    write_jsonl(
        Path(options["test_file"]), [{**row, "text": [row["text"], None, " "][i % 3]} for i, row in enumerate(rows)]
    )
    predict(monkeypatch, options)
    found = pd.read_parquet(tmp_path / "out")
    assert list(found["id"]) == [row["key"] for row in rows]
    assert list(found["predicted"].isna()) == list(found["probabilities"].isna()) == [i % 3 != 0 for i in range(23)]
    assert ", without text, their answer null, 15\n" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"Row 1 \(id 'k1'\), counted from 0, has no text: None"):
        predict(monkeypatch, {**options, "empty": "error", "output_dir": str(tmp_path / "other")})


def test_a_folder_of_documents_is_identified_by_its_files(job, tmp_path, monkeypatch):
    rows, options = job
    (tmp_path / "data").mkdir()
    write_jsonl(tmp_path / "data" / "test.jsonl", rows)
    del options["test_file"]
    options["dataset_name"] = str(tmp_path / "data")
    predict(monkeypatch, options)
    check(rows, tmp_path, str(tmp_path / "cache"))
    write_jsonl(tmp_path / "data" / "test.jsonl", rows[::-1])
    with pytest.raises(ValueError, match=r"other documents: test\.jsonl has changed\."):
        predict(monkeypatch, options)
    with pytest.raises(ValueError, match="lies in the folder of the data set"):
        predict(monkeypatch, {**options, "output_dir": str(tmp_path / "data" / "out")})


def push_rows(rows, folder):
    """Push documents to the Hub; return the commit."""
    file = write_jsonl(folder / "pushed.jsonl", rows)
    push = {"path_or_fileobj": file, "path_in_repo": "test.jsonl", "repo_type": "dataset"}
    return HfApi().upload_file(repo_id="alice/rows", **push).oid


def test_on_the_hub_it_goes_on_with_the_same_commits_only(job, tmp_path, monkeypatch):
    rows, options = job
    with HubServer() as server, hub_client.using(server, tmp_path / "home", server.token):
        api = HfApi()
        api.create_repo("alice/rows", repo_type="dataset")
        api.create_repo("alice/run")
        data = push_rows(rows, tmp_path)
        config = tmp_path / "run" / "adapter_config.json"
        settings = json.loads(config.read_text())
        api.create_repo("alice/base")
        base = api.upload_folder(repo_id="alice/base", folder_path=settings[BASE]).oid
        config.write_text(json.dumps({**settings, BASE: "alice/base"}))
        run = api.upload_folder(repo_id="alice/run", folder_path=tmp_path / "run", ignore_patterns="README.md").oid
        options |= {"model_name_or_path": "alice/run", "dataset_name": "alice/rows", "shard_size": "5"}
        del options["test_file"]
        predict(monkeypatch, options)
        check(rows, tmp_path, str(tmp_path / "cache"))
        content = json.loads((tmp_path / "out" / "_prediction.json").read_text())["content"]
        assert content["documents"] == {"commit": data}
        assert content["classifier"] == {"commit": run, "base model": base}
        (tmp_path / "out" / "shard-000001.parquet").unlink()
        push_rows(rows[::-1], tmp_path)
        with pytest.raises(ValueError, match=rf"other documents: commit was {data}, now "):
            predict(monkeypatch, options)
        predict(monkeypatch, {**options, "dataset_revision": data})
        check(rows, tmp_path, str(tmp_path / "cache"))
        trained_again(job, tmp_path)
        api.upload_folder(repo_id="alice/run", folder_path=tmp_path / "run", ignore_patterns="README.md")
        with pytest.raises(ValueError, match=rf"another classifier: commit was {run}, now "):
            predict(monkeypatch, {**options, "dataset_revision": data})
        predict(monkeypatch, {**options, "dataset_revision": data, "model_revision": run})


@pytest.mark.parametrize("delimiter", [",", ";"])
@pytest.mark.parametrize(
    ("names", "trained", "expected"),
    [
        (("ticket", "kind"), "ticket", "ticket"),
        (("text", "ticket"), "ticket", "ticket"),
        (("text", "kind"), "ticket", "text"),
        (("Body", "kind"), None, "Body"),
        (("body", "text"), None, "text"),
    ],
)
def test_the_text_is_the_column_of_training_or_one_with_a_known_name(
    job, tmp_path, monkeypatch, names, trained, expected, delimiter
):
    rows, options = job
    note(tmp_path / "run", trained)
    lines = [[row["text"] if name == expected else "x" for name in names] for row in rows]
    table = tmp_path / "tickets.csv"
    keys = ["key", *(row["key"] for row in rows)]
    table.write_text("".join(delimiter.join([key, *cells]) + "\n" for key, cells in zip(keys, [names, *lines])))
    predict(monkeypatch, {**options, "test_file": str(table)})
    check(rows, tmp_path, str(tmp_path / "cache"))
    assert json.loads((tmp_path / "out" / "_prediction.json").read_text())["text_column"] == expected


def note(run, text_column):
    """Write into a run which column it was trained with."""
    path = run / "classification.json"
    found = json.loads(path.read_text())
    found["training"] = {} if text_column is None else {"text_column": text_column}
    path.write_text(json.dumps(found))


def test_a_folder_that_was_begun_with_the_column_named_is_gone_on_with(job, tmp_path, monkeypatch, capsys):
    predict(monkeypatch, {**job[1], "text_column": "text"})
    (tmp_path / "out" / "shard-000003.parquet").unlink()
    predict(monkeypatch, job[1])
    assert "going on at row 15\n" in capsys.readouterr().out
    check(job[0], tmp_path, str(tmp_path / "cache"))


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


def with_frequencies(folder):
    path = folder / "classification.json"
    description = json.loads(path.read_text())
    description["training"] = {"label_counts": {"train": [10, 30, 60]}, "documents": {"train": 100}}
    path.write_text(json.dumps(description))


def test_target_prior(job, tmp_path, monkeypatch):
    rows, options = job
    with_frequencies(tmp_path / "run")
    prior = {"c": 0.1, "a": 0.6, "b": 0.3}
    predict(monkeypatch, {**options, "target_prior": json.dumps(prior)})
    found = pd.read_parquet(tmp_path / "out")
    classifier = TextClassifier.from_pretrained(tmp_path / "run", target_prior=prior)
    texts = [row["text"] for row in rows]
    named = pd.DataFrame(list(found["probabilities"]))
    np.testing.assert_allclose(named, classifier.predict_proba(texts), atol=1e-5)
    plain = TextClassifier.from_pretrained(tmp_path / "run").predict_proba(texts)
    assert np.abs(named.to_numpy() - plain).max() > 0.1
    assert list(found["predicted"]) == classifier.predict(texts)

    (tmp_path / "out" / "shard-000001.parquet").unlink()
    for other in ({}, {"target_prior": "uniform"}):  # its rows would not fit to those that are there
        with pytest.raises(ValueError, match=r"other settings: \{'target_prior'"):
            predict(monkeypatch, {**options, **other})
    config = tmp_path / "predict.yaml"
    config.write_text("target_prior: {a: 0.6, b: 0.3, c: 0.1}\n")  # the same in another order
    predict(monkeypatch, {"config": str(config), **options})
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out"), found)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ('{"a": 0.5, "b": 0.5}', r"missing are \['c'\]"),
        ("equal", "target_prior must map each label to its share"),
        ('{"a": 0.5, "b": 0.5, "c": 0.5}', "must sum to 1"),
    ],
)
def test_a_wrong_target_prior_leaves_nothing(prior, message, job, tmp_path, monkeypatch):
    with_frequencies(tmp_path / "run")
    with pytest.raises(ValueError, match=message):
        predict(monkeypatch, {**job[1], "target_prior": prior})
    assert not (tmp_path / "out").exists()


def test_an_exported_file_predicts_what_the_run_does(job, tmp_path, monkeypatch):
    rows, options = job
    folder = tmp_path / "exported"
    arguments = {"model_name_or_path": options["model_name_or_path"], "output_dir": str(folder), "onnx": "true"}
    monkeypatch.setattr(sys, "argv", ["export.py", *words(arguments)])
    run_as_main(ROOT / "recipes" / "export.py")
    exported = {**options, "model_name_or_path": str(folder)}
    predict(monkeypatch, {**exported, "backend": "onnx"})
    check(rows, tmp_path, str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=r"other settings.*backend"):
        predict(monkeypatch, exported)
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes() + b" ")
    with pytest.raises(ValueError, match=r"model\.onnx|classifier"):
        predict(monkeypatch, {**exported, "backend": "onnx"})
