"""`plan.py` as a user runs it."""

import json
import sys
from pathlib import Path

import pytest
from conftest import make_rows, run_as_main, write_jsonl

from hf_causal_clf.runs.files import read_json

ROOT = Path(__file__).parents[2]


def start(monkeypatch, model, files, output, *more):
    words = [word for name, path in files.items() for word in (f"--{name}", path)]
    words = ["--model_name_or_path", model, "--output_dir", output, *words, *more]
    monkeypatch.setattr(sys, "argv", ["plan.py", *map(str, words)])
    run_as_main(ROOT / "recipes" / "plan.py")


def test_documents_that_were_labelled_since_are_not_replaced(tmp_path, files, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "to_label.jsonl").write_text("labelled by hand")
    with pytest.raises(ValueError, match=r"has to_label\.jsonl, which would be replaced\. Choose another output_dir"):
        start(monkeypatch, "nowhere", files, tmp_path / "out")
    assert (tmp_path / "out" / "to_label.jsonl").read_text() == "labelled by hand"


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_plan_says_how_many_and_which(
    multi_label, checkpoint, tmp_path, files, multi_label_files, monkeypatch, capsys
):
    given = multi_label_files if multi_label else files
    known = [json.loads(line)["text"] for path in given.values() for line in Path(path).read_text().splitlines()]
    others = [{"text": row["text"]} for row in make_rows(30, 300)]
    unlabelled = write_jsonl(
        tmp_path / "more.jsonl", [*others, *({"text": text.upper()} for text in known), {"text": ""}]
    )
    more = ["--multi_label", "true", "--f1_average", "micro"] if multi_label else []
    start(monkeypatch, checkpoint, given, tmp_path / "out", "--unlabelled_file", unlabelled, "--select", 7, *more)
    plan = read_json(tmp_path / "out" / "plan.json")
    assert (plan["documents"], plan["test_documents"]) == (63, 17)
    assert plan["measured"][-1]["documents"] == 63
    assert [row["documents"] for row in plan["expected"]] == [126, 252]
    assert all(0 <= row["low"] <= row["f1"] <= 1 for row in plan["expected"])
    assert (plan["chosen"]["by"], plan["chosen"]["number"], plan["chosen"]["of"]) == ("mix", 7, 30)
    chosen = [json.loads(line) for line in (tmp_path / "out" / "to_label.jsonl").read_text().splitlines()]
    assert {row["text"] for row in chosen} <= {row["text"] for row in others}
    assert len(chosen) == 7
    printed = " ".join(capsys.readouterr().out.split())
    row = plan["expected"][0]
    average = "Micro" if multi_label else "Macro"
    assert f"{average} F1 of {row['f1']:.2f} ({row['low']:.2f} – {row['high']:.2f}) expected at 126" in printed
    assert "17 that are in the test documents" in printed


def test_without_documents_to_choose_from_it_forecasts(checkpoint, tmp_path, files, monkeypatch):
    start(monkeypatch, checkpoint, files, tmp_path / "out", "--forecast_at", 500, 100)
    plan = read_json(tmp_path / "out" / "plan.json")
    assert [row["documents"] for row in plan["expected"]] == [100, 500]
    assert plan["chosen"] is None
    assert not (tmp_path / "out" / "to_label.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--select", 0], "select must be at least 1"),
        (["--forecast_at", 0], "forecast_at takes numbers of documents"),
        (["--unlabelled_file", "nowhere.csv"], "There is no file 'nowhere.csv'"),
        (["--max_train_samples", 30], "at least 40 labelled documents .* there are 30"),
    ],
)
def test_wrong_arguments_are_named(words, told, checkpoint, tmp_path, files, monkeypatch):
    monkeypatch.setattr("hf_causal_clf.backbone.loading.AutoModel", None)  # nothing is loaded
    with pytest.raises(ValueError, match=told):
        start(monkeypatch, checkpoint, files, tmp_path / "out", *words)


def test_labelled_documents_alone_are_none_to_choose_from(checkpoint, tmp_path, files, monkeypatch):
    with pytest.raises(ValueError, match="No document without a label is left"):
        start(monkeypatch, checkpoint, files, tmp_path / "out", "--unlabelled_file", files["test_file"])
