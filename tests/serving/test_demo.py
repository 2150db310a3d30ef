"""What the page shows of a document and writes of a file, and how its recipe starts: no Gradio, no browser."""

import csv
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import hub_client
import numpy as np
import pytest
from conftest import run_as_main
from hub_server import HubServer
from huggingface_hub import HfApi

from hf_causal_clf import LabelSpace, TextClassifier
from hf_causal_clf.cascade import Cascade, calibrated_logits, stage_margins
from hf_causal_clf.evaluation.calibration import Calibration
from hf_causal_clf.evaluation.selective import Abstention
from hf_causal_clf.serving import space
from hf_causal_clf.serving.demo import _about, _answered, _is_uploaded, show_answer
from hf_causal_clf.serving.documents import classify_document, classify_file
from hf_causal_clf.serving.requests import Limits

ROOT = Path(__file__).parents[2]
LIMITS = Limits(max_request_bytes=2000, max_texts=5)
HOSTILE = "</script><img src=x onerror=alert(1)>${alert(2)}{{value}}"
TEXTS = ["a short one", "a text, with a comma", 'with "quotes"\nand a second line', HOSTILE]


class Scorer:
    """Logits that depend on the length of a text."""

    approach, batch_size = "tfidf", 4

    def __init__(self, labels, scale=1.0):
        self.labels, self.scale = labels, scale

    def logits(self, texts):
        return np.array([[self.scale * np.sin(len(text) + row) for row in range(self.labels)] for text in texts])


def make_classifier(*, multi_label=False, names=("a", "b", "c"), abstention=None, scale=1.0, text_column=None):
    calibration = Calibration((0.5, 1.0, 2.0), (0.4, 0.5, 0.6)) if multi_label else Calibration(0.5)
    classifier = TextClassifier(Scorer(len(names), scale), LabelSpace(names, multi_label), calibration)
    classifier.run = SimpleNamespace(
        abstention=abstention, calibration=calibration, training={"text_column": text_column}
    )
    return classifier


def limits_in_the_middle(classifier):
    """An abstention that leaves some texts unanswered, and not others."""
    probabilities = classifier.predict_proba(TEXTS)
    decided = classifier.calibration.decide(probabilities, multi_label=classifier.label_space.multi_label)
    if not classifier.label_space.multi_label:
        return Abstention(0.1, (float(np.median(probabilities.max(1))),))
    return Abstention(
        0.1, tuple(map(float, np.median(np.where(decided == 1, probabilities, 1 - probabilities), axis=0)))
    )


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_document_gets_what_the_classifier_says(multi_label):
    classifier = make_classifier(multi_label=multi_label)
    for text in TEXTS:
        answer = classify_document(classifier, text, LIMITS)
        expected = classifier.predict(text)
        assert answer.labels == (expected if multi_label else [expected])
        assert {row.name for row in answer.rows if row.given} == set(answer.labels)
        found = {row.name: row.probability for row in answer.rows}
        np.testing.assert_array_equal([found[name] for name in classifier.labels], classifier.predict_proba(text))
        assert [row.probability for row in answer.rows] == sorted(found.values(), reverse=True)
        thresholds = {row.name: row.threshold for row in answer.rows}
        assert thresholds == ({"a": 0.4, "b": 0.5, "c": 0.6} if multi_label else dict.fromkeys("abc"))
        assert not answer.abstains
        assert answer.stage is None


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_run_with_a_target_error_abstains_where_the_classifier_does(multi_label, tmp_path):
    classifier = make_classifier(multi_label=multi_label)
    classifier.run.abstention = limits_in_the_middle(classifier)
    expected = classifier.predict(TEXTS, abstain=True)
    rows = written(classifier, tmp_path, [{"text": text} for text in TEXTS])
    for text, said, row in zip(TEXTS, expected, rows, strict=True):
        answer = classify_document(classifier, text, LIMITS)
        shown = show_answer(multi_label=multi_label, answer=answer)
        if multi_label:
            unsure = [name for name, sure in said.items() if sure is None]
            assert sorted(each.name for each in answer.rows if not each.sure) == unsure
            assert json.loads(row["abstained"]) == unsure
            assert shown.count("not sure") == len(unsure)
        else:
            assert answer.abstains == (said is None)
            assert row["abstained"] == json.dumps(said is None)
            assert ("No answer: not sure enough" in shown) == (said is None)
    assert len({str(said) for said in expected}) > 1
    if not multi_label:
        assert None in expected


def test_a_multi_label_cascade_has_the_thresholds_of_the_stage_that_answers(tmp_path):
    first, second = make_classifier(multi_label=True, scale=2.0), make_classifier(multi_label=True)
    second.calibration = Calibration((1.0, 1.0, 1.0), (0.9, 0.1, 0.9))
    middle = float(np.median(stage_margins(first, calibrated_logits(first, TEXTS))))
    classifier = TextClassifier(Cascade([first, second], middle), first.label_space)
    about = {"calibration": classifier.calibration, "training": {"text_column": None}}
    classifier.run = SimpleNamespace(abstention=Abstention(0.1, (0.55, 0.6, 0.65)), **about)
    expected, stages = classifier.predict(TEXTS), classifier.score(TEXTS)[1]
    assert set(stages) == {1, 2}
    sure = [[name for name, known in each.items() if known is None] for each in classifier.predict(TEXTS, abstain=True)]
    assert any(sure)
    rows = written(classifier, tmp_path, [{"text": text} for text in TEXTS])
    for text, said, stage, unsure, row in zip(TEXTS, expected, stages, sure, rows, strict=True):
        answer = classify_document(classifier, text, LIMITS)
        assert (answer.labels, answer.stage) == (said, stage)
        assert sorted(each.name for each in answer.rows if not each.sure) == json.loads(row["abstained"]) == unsure
        assert {each.name for each in answer.rows if each.probability >= each.threshold} == set(said)
        assert (json.loads(row["predicted"]), row["stage"]) == (said, str(stage))
        assert f"Stage {stage} of the cascade" in show_answer(multi_label=True, answer=answer)


BAD_TEXTS = {
    "nothing": ("", "The document is empty."),
    "white space": (" \n", "is empty"),
    "too long": ("é" * 1001, "The document has more than 2,000 bytes. Take a part of it."),
    "NUL": ("a\0b", "has a NUL character"),
    "half a surrogate pair": ("a \ud83d", "has half of a surrogate pair"),
    "not a text": (None, "is not a string"),
}


@pytest.mark.parametrize("kind", BAD_TEXTS)
def test_a_bad_document_gets_a_sentence(kind):
    text, said = BAD_TEXTS[kind]
    with pytest.raises(ValueError, match=said):
        classify_document(make_classifier(), text, LIMITS)


def written(classifier, folder, rows, *, delimiter=",", encoding="utf-8", **options):
    """What a file of these rows becomes."""
    source, target = folder / "documents.csv", folder / "answers.csv"
    with source.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    classify_file(classifier, source, target, LIMITS, **options)
    with target.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize(("delimiter", "encoding"), [(",", "utf-8"), (";", "utf-16")])
def test_a_file_comes_back_with_answers(multi_label, delimiter, encoding, tmp_path):
    classifier = make_classifier(multi_label=multi_label)
    rows = [{"key": f"k{number}é", "text": text, "=1+1": "007"} for number, text in enumerate([*TEXTS, " "])]
    found = written(classifier, tmp_path, rows, delimiter=delimiter, encoding=encoding)
    assert [{name: row[name] for name in rows[0]} for row in found] == rows
    labels = [row["predicted"] for row in found[:-1]]
    assert (list(map(json.loads, labels)) if multi_label else labels) == classifier.predict(TEXTS)
    probabilities = np.array([[row[f"probabilities.{name}"] for name in "abc"] for row in found[:-1]], np.float32)
    np.testing.assert_array_equal(probabilities, classifier.predict_proba(TEXTS))
    assert list(found[0]) == [*rows[0], "predicted", "probabilities.a", "probabilities.b", "probabilities.c"]
    assert set(list(found[-1].values())[3:]) == {""}


def test_the_text_column_is_that_of_the_run_or_the_one_that_is_named(tmp_path):
    rows = [{"text": "not this", "speech": "a", "other": "bb"}]
    trained = make_classifier(text_column="speech")
    for options, text in (({}, "a"), ({"text_column": "other"}, "bb"), ({"text_column": "text"}, "not this")):
        [found] = written(trained, tmp_path, rows, **options)
        assert found["predicted"] == trained.predict(text)
        np.testing.assert_allclose(float(found["probabilities.a"]), trained.predict_proba(text)[0])


BAD_FILES = {
    "another ending": ({"name": "documents.xlsx"}, r"'documents\.xlsx' is no CSV file"),
    "nothing": ({"content": b""}, "The file has no documents"),
    "a header alone": ({"content": b"text\n"}, "The file has no documents"),
    "many bytes": ({"content": b"text\n" + b"a" * 2000}, "The file has more than 2,000 bytes"),
    "many documents": ({"content": b"text\n" + b"a\n" * 6}, "The file has more than 5 documents"),
    "no known column": (
        {"content": b"one,two\na,b\n"},
        r"not clear which column is the text; there are \['one', 'two'",
    ),
    "two known columns": ({"content": b"title,body,message\na,b,c\n"}, "not clear which column"),
    "another column": ({"text_column": "speech"}, r"There is no column 'speech'; there are \['text'\]"),
    "an answer's name": ({"content": b"text,predicted\na,b\n"}, r"names that the answers have: \['predicted'\]"),
    "latin-1": ({"content": "text\né\n".encode("latin-1")}, r"'documents\.csv' is not in UTF-8"),
    "a row too long": ({"content": b"text\na,b\n"}, r"'documents\.csv' cannot be read as csv"),
    "NUL": ({"content": b"text\na\nb\0c\n"}, "NUL"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_gets_a_sentence_and_writes_nothing(kind, tmp_path):
    given, said = BAD_FILES[kind]
    source = tmp_path / given.get("name", "documents.csv")
    source.write_bytes(given.get("content", b"text\na\n"))
    with pytest.raises(ValueError, match=said) as told:
        classify_file(make_classifier(), source, tmp_path / "out.csv", LIMITS, text_column=given.get("text_column"))
    assert str(tmp_path) not in str(told.value)
    assert list(tmp_path.iterdir()) == [source]


def test_hostile_text_stays_text(tmp_path):
    classifier = make_classifier(names=(HOSTILE, "b", "c\x07"))
    shown = [show_answer(multi_label=False, answer=classify_document(classifier, text, LIMITS)) for text in TEXTS]
    shown += [show_answer(multi_label=False, mistake=HOSTILE), show_answer(multi_label=False, summary=HOSTILE)]
    classifier.source = HOSTILE
    shown.append(_about(classifier))
    assert not [each for each in shown if "<img" in each or "<script" in each or "\x07" in each]
    assert all("&lt;img src=x onerror=alert(1)&gt;" in each for each in shown)


def test_only_what_was_uploaded_is_read(tmp_path):
    folder = tmp_path / "gradio"
    folder.mkdir()
    for path in (folder / "a.csv", tmp_path / "private.csv"):
        path.write_text("text\na\n")
    (folder / "link.csv").symlink_to(tmp_path / "private.csv")
    assert _is_uploaded(str(folder / "a.csv"), str(folder))
    for path in (tmp_path / "private.csv", folder / ".." / "private.csv", folder / "link.csv", folder / "gone.csv"):
        assert not _is_uploaded(str(path), str(folder))


def test_a_failure_says_nothing_of_a_text_in_the_log(caplog):
    def fail():
        raise RuntimeError(HOSTILE)

    shown = _answered(fail, make_classifier())
    assert "The classifier failed with RuntimeError" in shown
    assert "RuntimeError" in caplog.text
    assert "onerror" not in shown + caplog.text


def test_of_many_labels_the_most_probable_ones_are_shown_first():
    names = tuple(f"label {number}" for number in range(50))
    answer = classify_document(make_classifier(names=names), "a text", LIMITS)
    shown, _, others = show_answer(multi_label=False, answer=answer).partition("<details>")
    assert (shown.count('scope="row"'), others.count('scope="row"')) == (20, 30)
    assert "The other 30 labels" in others


def start(monkeypatch, **options):
    words = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["demo.py", *words])
    run_as_main(ROOT / "recipes" / "demo.py")


def test_mistakes_are_told_before_a_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ValueError, match=r"The page needs the package gradio, .*hf_causal_clf\[demo\]'") as told:
        start(monkeypatch, model_name_or_path=tmp_path, push_to_space="a/b/c", port=70000, max_documents=0)
    lines = str(told.value).splitlines()
    assert "is a folder. Push the run, and give its id" in lines[1]
    assert lines[2:] == [
        "push_to_space must have the form user/name, got 'a/b/c'.",
        "port must be from 0 to 65535, got 70000.",
        "max_documents must be at least 1, got 0.",
    ]


def test_the_recipe_writes_a_space(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("hf_causal_clf.cli.packages.missing_packages", lambda *_: ())
    monkeypatch.setattr(space, "version", lambda name: "6.31.0")
    example = ROOT / "tests" / "golden" / "runs" / "embedding" / "classification.json"
    with HubServer() as hub, hub_client.using(hub, tmp_path, hub.token):
        HfApi().create_repo("alice/news", private=True)
        HfApi().upload_file(path_or_fileobj=example, path_in_repo="classification.json", repo_id="alice/news")
        start(
            monkeypatch, model_name_or_path="alice/news", push_to_space="page", hub_private_repo=False, max_documents=7
        )
        assert "max_documents=7" in hub.files("alice/page", repo_type="space")["app.py"].decode()
        assert not hub.repo("alice/page", "space").private
        assert f"The Space is written: {hub.url}/spaces/alice/page" in capsys.readouterr().out
