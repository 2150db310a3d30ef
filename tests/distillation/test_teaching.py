"""What a teacher says, in the order of the documents' labels; and which documents it is asked for."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_rows, write_jsonl
from teachers import write_teacher

from hf_causal_clf import LabelSpace, TextClassifier
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.splits import load_data
from hf_causal_clf.distillation.arguments import DistillationArguments
from hf_causal_clf.distillation.documents import unlabelled_texts
from hf_causal_clf.distillation.lesson import prepare_lesson
from hf_causal_clf.distillation.teacher import Scores, Teacher, measured_teacher, out_of_fold, warn_of_seen
from hf_causal_clf.evaluation.calibration import Calibration
from hf_causal_clf.evaluation.metrics import decision_metrics
from hf_causal_clf.runs.disk import write_json
from hf_causal_clf.runs.files import MANIFEST_FILE, MEMBERS_FOLDER, PREDICTIONS_FILE
from hf_causal_clf.runs.members import copy_run
from hf_causal_clf.runs.results import read_out_of_fold, read_results
from hf_causal_clf.runs.run import Run
from hf_causal_clf.training.output_folder import documents_content

NAMES = ["business", "sport", "tech"]


@pytest.fixture(scope="module")
def folder(files, tmp_path_factory):
    return write_teacher(tmp_path_factory.mktemp("teacher") / "folded", files, folds=3)


def load(files, **options):
    return load_data(DataArguments(**files, **options))


@pytest.mark.parametrize("names", [NAMES, NAMES[::-1]])
def test_scores_are_in_the_order_of_the_documents_labels(names, folder, files, tmp_path):
    data, teacher = load(files, label_list=names), Teacher.read(str(folder))
    teacher.check_labels(data.label_space)
    scores = Scores(teacher, data.label_space, tmp_path, 4)
    texts = data.texts("test")
    expected = TextClassifier.from_pretrained(folder).predict_proba(texts)[:, [NAMES.index(name) for name in names]]
    np.testing.assert_array_equal(scores(texts, "documents").probabilities, expected)
    reached = read_results(folder, LabelSpace(NAMES)).metrics["test"]
    assert measured_teacher(teacher, data, scores)["f1_macro"] == pytest.approx(reached["f1_macro"])
    held_out = read_out_of_fold(folder, LabelSpace(NAMES))
    rows = [held_out.ids.index(f"train/{each}") for each in data.splits["train"]["id"][:]]
    expected = held_out.probabilities[rows][:, [NAMES.index(name) for name in names]]
    np.testing.assert_array_equal(out_of_fold(teacher, data), expected)
    texts = [f"{text}!" if row == 3 else text for row, text in enumerate(data.texts("train"))]
    train = data.splits["train"].remove_columns("text").add_column("text", texts)
    assert out_of_fold(teacher, replace(data, splits={**data.splits, "train": train})) is None


def test_a_teacher_decides_by_its_own_thresholds(multi_label_files, tmp_path):
    """Those of the stage that answers, where it is a cascade; in whatever order the documents have its labels."""
    stages = {name: write_teacher(tmp_path / name, multi_label_files, multi_label=True) for name in ("first", "second")}
    limits = {"first": (0.001, 0.4, 0.999), "second": (0.999, 0.5, 0.001)}
    for name, stage in stages.items():
        run = replace(Run.read(stage), calibration=Calibration(None, limits[name]))
        run.write(stage)
        copy_run(stage, tmp_path / "cascade" / MEMBERS_FOLDER / name)
    parts = {"approach": "cascade", "members": dict.fromkeys(stages, 1.0), "calibration": Calibration()}
    replace(run, **parts, cascade_threshold=0.2).write(tmp_path / "cascade")
    data = load(multi_label_files, label_list=NAMES[::-1], multi_label=True)
    texts = data.texts("test")
    for folder in (*stages.values(), tmp_path / "cascade"):
        teacher, classifier = Teacher.read(str(folder)), TextClassifier.from_pretrained(folder)
        expected = classifier.predict(texts)
        scores = Scores(teacher, data.label_space, tmp_path / "scores", 4)
        gold = classifier.label_space.encode_batch(data.splits["test"]["label"][:])
        (folder / PREDICTIONS_FILE).unlink(missing_ok=True)
        reached = decision_metrics(gold, classifier.label_space.encode_batch(expected))
        assert measured_teacher(teacher, data, scores)["f1_macro"] == pytest.approx(reached["f1_macro"])
        others = [f"{text} more" for text in texts]
        path = write_jsonl(tmp_path / "more.jsonl", [{"text": text} for text in others])
        arguments = DistillationArguments(teacher=str(folder), unlabelled_file=path)
        lesson = prepare_lesson(arguments, teacher, data, scores, None, None)
        assert lesson.data.splits["train"]["label"][-len(texts) :] == classifier.predict(others)
    assert set(classifier.score(texts)[1]) == {1, 2}


def test_a_teacher_is_not_measured_again_on_the_documents_that_it_was_tested_on(folder, files, monkeypatch):
    data, teacher = load(files), Teacher.read(str(folder))
    write_json(folder / MANIFEST_FILE, {"files": [], "settings": {"test": documents_content(data, ("test",))}})
    try:
        reached = read_results(folder, data.label_space).metrics["test"]
        found = measured_teacher(teacher, data, lambda *args: pytest.fail("measured"))
        assert found["accuracy"] == pytest.approx(reached["accuracy"])
        fewer = load(files, max_test_samples=9)
        with pytest.raises(pytest.fail.Exception, match="measured"):
            measured_teacher(teacher, fewer, lambda *args: pytest.fail("measured"))
    finally:
        (folder / MANIFEST_FILE).unlink()


@pytest.mark.parametrize("other", ["labels", "ids"])
def test_what_is_out_of_fold_of_other_documents_is_not_taken(other, folder, files, tmp_path, caplog):
    rows = make_rows(48)
    if other == "labels":
        rows[3]["label"] = next(name for name in NAMES if name != rows[3]["label"])
    else:
        rows += make_rows(1, 800)
    data = load({**files, "train_file": write_jsonl(tmp_path / "train.jsonl", rows)})
    assert out_of_fold(Teacher.read(str(folder)), data) is None
    assert "has other documents than these training documents" in caplog.text


@pytest.mark.parametrize("column", ["text", "body"])
def test_documents_without_labels_are_those_that_no_split_has(column, folder, files, tmp_path, capsys):
    """The rest of the training documents, and those of a file; each once, empty ones left out."""
    data = load(files, max_train_samples=20)
    new, test = make_rows(3, 900), make_rows(2, 200)
    texts = [row["text"] for row in [*new, *test, *new[:1]]] + ["", None, " "]
    more = write_jsonl(tmp_path / "more.jsonl", [{column: text} for text in texts])
    arguments = DistillationArguments(teacher=str(folder), unlabelled_file=more, unlabelled_rest=True)
    found = unlabelled_texts(arguments, data)
    lines = Path(files["train_file"]).read_text().splitlines()
    rest = {json.loads(line)["text"] for line in lines} - set(data.texts("train"))
    assert len(rest) == 28
    assert sorted(found) == sorted([*rest, *(row["text"] for row in new)])
    said = " ".join(capsys.readouterr().out.split())
    assert "31. Left out are 2 that are in the test documents, 1 that are there twice, 3 without text" in said


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": 7}], "Row 0 of .* has 7 of type int in 'text' instead of a text"),
        ([{"words": "a", "more": "b"}], "It is not clear which column of .* is the text; row 0"),
        ([{"text": " "}], "No document without a label is left"),
    ],
)
def test_documents_that_cannot_be_read(rows, message, folder, files, tmp_path):
    more = write_jsonl(tmp_path / "more.jsonl", rows)
    with pytest.raises(ValueError, match=message):
        unlabelled_texts(DistillationArguments(teacher=str(folder), unlabelled_file=more), load(files))


def test_a_teacher_of_another_draw_is_warned_of(files, tmp_path, caplog):
    """What max_train_samples leaves out has no labels for the student, but may have had for its teacher."""
    path = write_teacher(tmp_path / "drawn", files, max_train_samples=20)
    same, other = load(files, max_train_samples=20), load(files, max_train_samples=20, split_seed=1)
    assert documents_content(same) != documents_content(other)
    write_json(path / MANIFEST_FILE, {"files": [], "settings": {"data": documents_content(same)}})
    warn_of_seen(Teacher.read(str(path)), same)
    assert "split_seed" not in caplog.text
    warn_of_seen(Teacher.read(str(path)), other)
    assert "max_train_samples and split_seed" in caplog.text
