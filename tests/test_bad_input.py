"""Bad input, case by case: the tables in `bad_inputs/` say what is given, what is said to it, and what is left behind."""

import hashlib
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from bad_input_doors import Doors, spelled_out
from datasets import Dataset
from huggingface_hub import ModelCard
from test_classifier import save_folder

from hf_causal_clf import LabelSpace, TextClassifier
from hf_causal_clf.backbone.loading import load_tokenizer

TABLES = sorted((Path(__file__).parent / "bad_inputs").glob("*.yaml"))
CASES = [case for table in TABLES for case in yaml.safe_load(table.read_text(encoding="utf-8"))]
THEMES = (
    *("data", "labels", "arguments", "YAML", "templates", "verbalizers", "adapters", "checkpoints", "schema version"),
    *("safetensors", "wrong base model", "out-of-vocabulary", "empty", "huge", "one-class", "duplicate", "NaN"),
    *("mixed types", "control characters", "right-to-left", "emoji", "200000 tokens"),
)
EARLIER = {"metrics.json": "{}", "classification.json": "{}", "adapter_model.safetensors": "weights", "README.md": "#"}
EARLIER["manifest.json"] = json.dumps({"files": list(EARLIER), "settings": None})


@pytest.fixture(scope="session")
def runs(checkpoint, tmp_path_factory):
    """A finished run of each approach, with random adapters."""
    folder = tmp_path_factory.mktemp("runs")
    for approach in ("embedding", "instruction"):
        save_folder(folder / approach, checkpoint, approach, LabelSpace(["sport", "business", "tech"]))
    return folder


@pytest.fixture
def doors(tmp_path, checkpoint, files, runs, monkeypatch):
    return Doors(tmp_path, checkpoint, files, runs, monkeypatch)


def snapshot(folder):
    """Content of every file below a folder, and every folder; a lock file that is left over means nothing."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
        if path.suffix != ".lock"
    }


def refuse_models(*args, **kwargs):
    raise AssertionError("a model was loaded before the mistake was found")


@pytest.mark.parametrize("case", [case for case in CASES if "says" in case], ids=lambda case: case["case"])
def test_bad_input_is_named_and_loses_nothing(case, doors, tmp_path, monkeypatch, capsys):
    given, leaves = case.get("given", {}), case["leaves"]
    doors.write(given)
    if leaves == "the earlier results":
        (tmp_path / "out").mkdir()
        for name, content in EARLIER.items():
            (tmp_path / "out" / name).write_text(content)
    before = snapshot(tmp_path)
    if not case.get("model_loaded"):
        monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", refuse_models)
    with pytest.raises((Exception, SystemExit)) as caught:
        doors.open(case["through"], given)
    after, message = snapshot(tmp_path), doors.unplaced(str(caught.value))
    assert (caught.type.__name__, message) == (case["raises"], case["says"])
    assert {name: after.get(name) for name in before} == before
    assert sorted(set(after) - set(before)) == (leaves if isinstance(leaves, list) else [])
    if case["through"].endswith(".py"):  # the message alone, not a traceback
        assert doors.unplaced(capsys.readouterr().err).endswith(f"{message}\n")


@pytest.mark.figures
@pytest.mark.parametrize("case", [case for case in CASES if "works" in case], ids=lambda case: case["case"])
def test_odd_input_works(case, doors):
    given, works = case["given"], case["works"]
    doors.write(given)
    found = doors.open(case["through"], given)
    if case["through"] == "TextClassifier":
        check_predictions(found, spelled_out(given["texts"]), works)
    elif case["through"] == "load_data":
        assert list(found.label_space.names) == works["labels"]
        assert {split: len(rows) for split, rows in found.splits.items()} == works["documents"]
        assert "overlap" not in works or found.overlap == works["overlap"]
    else:
        check_run(doors.folder / "out", works)


def check_predictions(classifier, texts, works):
    probabilities = classifier.predict_proba(texts)
    assert probabilities.shape == (len(texts), 3)
    assert np.isfinite(probabilities).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    encoder = classifier.scorer.encoder
    tokens = getattr(encoder, "document_ids", encoder.encode)  # without the prompt, where there is one
    tokenizer = load_tokenizer(classifier.source)
    if works.get("reads") == "every character":
        assert [tokenizer.decode(tokens(text)) for text in texts] == texts
        assert not {token for text in texts for token in tokens(text)} & set(tokenizer.all_special_ids)
    if "tokens" in works:
        assert all(len(tokenizer(text)["input_ids"]) >= works["tokens"] for text in texts)
    if "as" in works:
        same = [classifier.predict_proba([text])[0] for text in spelled_out(works["as"])]
        np.testing.assert_allclose(probabilities, np.reshape(same, (-1, 3)), atol=1e-5)
    if "unlike" in works:
        assert np.abs(probabilities - classifier.predict_proba(works["unlike"])).max() > 1e-3


def check_run(folder, works):
    """A finished run has these labels and gold labels, and probabilities that are those of its classifier."""
    rows = Dataset.from_parquet(str(folder / "predictions.parquet"), keep_in_memory=True)
    probabilities = np.asarray(list(rows["probabilities"]))
    assert list(rows["gold"]) == works["gold"]
    assert list(rows["predicted"]) == [works["labels"][index] for index in probabilities.argmax(axis=1)]
    assert probabilities.shape == (len(rows), len(works["labels"]))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert list(TextClassifier.from_pretrained(folder).label_space.names) == works["labels"]
    for figure in (folder / "figures").glob("*.svg"):
        ElementTree.parse(figure)
    assert ModelCard.load(folder / "README.md").data.library_name


def test_the_tables_cover_what_can_go_wrong():
    names = [case["case"] for case in CASES]
    assert len(names) >= 60
    assert len(set(names)) == len(names)
    assert set(THEMES) == {theme for case in CASES for theme in case["theme"]}
    assert all(("says" in case) != ("works" in case) for case in CASES)
