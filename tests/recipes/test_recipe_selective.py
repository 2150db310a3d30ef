"""`--target_error` as a user runs the recipes: fitted, saved, shown and answered by; and what conformal sets need."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import make_rows, write_jsonl
from test_recipes import arguments, run

from hf_causal_clf import TextClassifier
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.splits import load_data
from hf_causal_clf.evaluation.selective import fit_abstention
from hf_causal_clf.runs.run import Run
from hf_causal_clf.task.labels import LabelSpace

TO_THE_END = {"load_best_model_at_end": "false", "num_train_epochs": "4"}


@pytest.fixture
def more_files(tmp_path):
    """As many documents as a target error and conformal sets take."""
    sizes = {"train": (48, 0), "validation": (70, 100), "test": (30, 200)}
    return {
        f"{split}_file": write_jsonl(tmp_path / f"{split}.jsonl", make_rows(*size)) for split, size in sizes.items()
    }


@pytest.mark.parametrize(("recipe", "folds"), [("embed", False), ("instruct", False), ("embed", True)])
def test_a_target_error_is_fitted_saved_shown_and_answered_by(
    recipe, folds, checkpoint, more_files, tmp_path, monkeypatch, capsys
):
    options = {"target_error": "0.2", **TO_THE_END, **({"folds": "2"} if folds else {})}
    run(recipe, arguments(recipe, checkpoint, more_files, tmp_path / "run", **options), monkeypatch)
    printed = " ".join(capsys.readouterr().out.split())
    data = load_data(DataArguments(**more_files), 2 if folds else 0)
    saved = Run.read(tmp_path / "run")
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())["abstention"]
    assert found["target_error"] == saved.abstention.target_error == 0.2
    assert found["found"][0]["threshold"] == saved.abstention.thresholds[0]
    assert found["found"][0]["documents"] == (118 if folds else 70)
    card = " ".join((tmp_path / "run" / "README.md").read_text().split())
    for text in (printed, card):
        assert "arget_error 0.2: " in text
    assert "When should it not answer?" in card

    classifier = TextClassifier.from_pretrained(tmp_path / "run", batch_size=8)
    texts, gold = data.texts("test"), data.gold("test")
    answers, sure = classifier.predict(texts), classifier.predict(texts, abstain=True)
    assert all(one in (None, other) for one, other in zip(sure, answers, strict=True))
    answered = np.array([answer is not None for answer in sure])
    assert found["test"][0]["coverage"] == pytest.approx(answered.mean())
    if not folds:
        probabilities = classifier.predict_proba(data.texts("validation"))
        again, _ = fit_abstention(data.gold("validation"), probabilities, probabilities.argmax(1), 0.2)
        assert again.thresholds == pytest.approx(saved.abstention.thresholds, abs=1e-4)
    sets = classifier.predict_set(texts, 0.8)
    assert all(set(found) <= set(data.label_space.names) for found in sets)
    assert saved.conformal.documents == (118 if folds else 70)
    if not folds:
        assert "predict_set(texts, coverage=0.9)" in card
    assert len(gold) == len(sets)


def test_predictions_of_a_file_say_where_not_to_answer(checkpoint, more_files, tmp_path, monkeypatch):
    options = {"target_error": "0.3", **TO_THE_END}
    run("embed", arguments("embed", checkpoint, more_files, tmp_path / "run", **options), monkeypatch)
    asked = ["--model_name_or_path", str(tmp_path / "run"), "--test_file", more_files["test_file"]]
    run("predict", [*asked, "--output_dir", str(tmp_path / "out"), "--abstain", "true"], monkeypatch)
    rows = pd.read_parquet(tmp_path / "out")
    texts = load_data(DataArguments(**more_files)).texts("test")
    expected = TextClassifier.from_pretrained(tmp_path / "run", batch_size=16).predict(texts, abstain=True)
    assert rows["abstained"].tolist() == [answer is None for answer in expected]
    assert rows["predicted"].notna().all()
    with pytest.raises(ValueError, match=r"predictions with other settings: .*abstain"):
        run("predict", [*asked, "--output_dir", str(tmp_path / "out")], monkeypatch)
    more = ["--output_dir", str(tmp_path / "other"), "--abstain", "true", "--calibrated", "false"]
    with pytest.raises(ValueError, match="leave target_prior and calibrated out"):
        run("predict", [*asked, *more], monkeypatch)
    assert not (tmp_path / "other").exists()


@pytest.mark.figures
def test_a_multi_label_run_has_a_threshold_for_each_label(checkpoint, multi_label_files, tmp_path, monkeypatch, capsys):
    options = {"target_error": "0.4", "multi_label": "true", **TO_THE_END}
    run("embed", arguments("embed", checkpoint, multi_label_files, tmp_path / "run", **options), monkeypatch)
    assert "labels. Of all decisions on test" in " ".join(capsys.readouterr().out.split())
    saved = Run.read(tmp_path / "run")
    assert len(saved.abstention.thresholds) == 3
    assert saved.conformal is None
    classifier = TextClassifier.from_pretrained(tmp_path / "run")
    assert set(classifier.predict("the cat", abstain=True)) == set(saved.label_space.names)
    with pytest.raises(ValueError, match="this one is multi-label"):
        classifier.predict_set("the cat")
    card = (tmp_path / "run" / "README.md").read_text()
    assert "None where it is not sure enough of a label" in card
    assert "(figures/risk_coverage.png)" in card
    assert (tmp_path / "run" / "figures" / "risk_coverage.png").stat().st_size > 5000


def test_a_run_whose_checkpoint_was_chosen_makes_no_sets(checkpoint, more_files, tmp_path, monkeypatch):
    options = {"num_train_epochs": "1"}  # load_best_model_at_end is then the default
    run("embed", arguments("embed", checkpoint, more_files, tmp_path / "run", **options), monkeypatch)
    data = json.loads((tmp_path / "run" / "classification.json").read_text())
    assert not {"abstention", "conformal"} & set(data)
    classifier = TextClassifier.from_pretrained(tmp_path / "run")
    with pytest.raises(ValueError, match="told which checkpoint is kept"):
        classifier.predict_set("the cat")
    with pytest.raises(ValueError, match=r"Train it with --target_error 0\.02"):
        classifier.predict("the cat", abstain=True)
    assert isinstance(classifier.label_space, LabelSpace)
    assert "abstain" not in (tmp_path / "run" / "README.md").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target_error": "0.02"}, "70 documents are too few to be sure of target_error 0.02: at least 149 are needed"),
        ({"target_error": "2"}, "target_error must be a share between 0 and 1, such as 0.02, got 2.0"),
    ],
)
def test_a_target_error_that_cannot_hold_is_named_before_a_model_is_loaded(
    options, said, checkpoint, more_files, tmp_path, monkeypatch
):
    monkeypatch.setattr("hf_causal_clf.embedding.trainer.embedding_trainer", None)
    with pytest.raises(ValueError, match=said):
        run("embed", arguments("embed", checkpoint, more_files, tmp_path / "run", **options), monkeypatch)
    assert not (tmp_path / "run" / "classification.json").exists()
