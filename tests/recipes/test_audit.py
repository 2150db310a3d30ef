"""`audit.py` as a user runs it: on a base model, on a finished run with folds, and with corrections."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import make_rows, run_as_main, write_jsonl

from hf_causal_clf.comparison import registry
from hf_causal_clf.comparison.arguments import ComparisonArguments
from hf_causal_clf.comparison.running import write_baseline
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.splits import load_data
from hf_causal_clf.runs.files import read_json
from hf_causal_clf.training.arguments import PromptArguments

ROOT = Path(__file__).parents[2]
WRONG = [5, 17, 30]  # documents whose label is another one than their text says


def documents(multi_label):
    rows = make_rows(60, multi_label=multi_label)
    for number, row in enumerate(rows):
        row |= {"id": f"d{number}", "source": "mail" if number % 2 else "phone"}
        if number in WRONG:
            row["label"] = rows[number + 1]["label"] if not multi_label else ["tech", "sport", "business"]
    return rows


def start(monkeypatch, model, train, output, *more):
    words = ["--model_name_or_path", model, "--train_file", train, "--output_dir", output, "--id_column", "id"]
    monkeypatch.setattr(sys, "argv", ["audit.py", *map(str, [*words, *more])])
    run_as_main(ROOT / "recipes" / "audit.py")


@pytest.mark.parametrize("multi_label", [False, True])
def test_an_audit_on_a_base_model(multi_label, checkpoint, tmp_path, monkeypatch, capsys):
    pytest.importorskip("cleanlab")
    rows = documents(multi_label)
    train = write_jsonl(tmp_path / "train.jsonl", rows)
    tested = [{**rows[3], "id": "t0", "text": rows[3]["text"].upper()}, *make_rows(9, 500, multi_label)]
    tested = [{"id": f"t{number}", **row} for number, row in enumerate(tested)]
    test = write_jsonl(tmp_path / "test.jsonl", tested)
    more = ["--multi_label", "true"] if multi_label else []
    start(
        monkeypatch,
        *(checkpoint, train, tmp_path / "out", "--test_file", test, "--slice_columns", "source"),
        *("--similarity", 0.99, "--dtype", "float32", *more),
    )
    table, summary = pd.read_parquet(tmp_path / "out" / "audit.parquet"), read_json(tmp_path / "out" / "audit.json")
    assert list(table) == ["id", "label", "suggested", "score", "error", "probabilities", "nearest", "similarity"]
    assert sorted(table["id"]) == sorted(row["id"] for row in rows)
    given = {row["id"]: row["label"] for row in rows}
    in_order = sorted if multi_label else str
    assert all(in_order(label) == in_order(given[id_]) for id_, label in zip(table["id"], table["label"]))
    assert table["score"].is_monotonic_decreasing
    if not multi_label:
        shown = np.stack(table["probabilities"])
        own = [summary["labels"].index(label) for label in table["label"]]
        np.testing.assert_allclose(table["score"], 1 - shown[np.arange(60), own], atol=1e-6)
        assert set(table["id"][:12]) & {f"d{number}" for number in WRONG}
    assert table["nearest"].map(len).eq(2).all()
    assert all(id_ not in others for id_, others in zip(table["id"], table["nearest"]))
    assert summary["documents"] == 60
    assert summary["judge"]["folds"] == 5
    assert summary["leakage"]["test_documents"] == 10
    assert summary["leakage"]["examples"][0]["id"] == "d3"
    assert summary["leakage"]["examples"][0]["test_id"] == "t0"
    assert summary["label_errors"]["documents"] == table["error"].sum()
    assert summary["slices"]["tested"] >= 2
    printed = " ".join(capsys.readouterr().out.split())
    assert "1 of 10 test documents have one in training" in printed


def test_corrections_in_the_table_are_not_replaced(tmp_path, monkeypatch):
    """Nor is anything read or computed before that is said."""
    pytest.importorskip("cleanlab")
    train = write_jsonl(tmp_path / "train.jsonl", documents(multi_label=False))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "audit.parquet").write_text("corrected by hand")
    with pytest.raises(ValueError, match=r"has audit\.parquet, which would be replaced\. Choose another output_dir"):
        start(monkeypatch, "nowhere", train, tmp_path / "out")
    assert (tmp_path / "out" / "audit.parquet").read_text() == "corrected by hand"
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_an_audit_of_a_finished_run_is_of_what_it_says_out_of_fold(tmp_path, monkeypatch):
    pytest.importorskip("cleanlab")
    rows = documents(multi_label=False)
    train = write_jsonl(tmp_path / "train.jsonl", rows)
    data_args = DataArguments(train_file=train, id_column="id")
    data = load_data(data_args, 4)  # which cuts a test split off
    monkeypatch.setattr("hf_causal_clf.runs.results._draw", lambda *args: None)
    job = registry.Job(data, ComparisonArguments(), PromptArguments(), None, tmp_path / "run")
    write_baseline(registry.BASELINES["tfidf"], job)
    start(monkeypatch, tmp_path / "run", train, tmp_path / "out")
    table = pd.read_parquet(tmp_path / "out" / "audit.parquet").set_index("id")
    held_out = pd.read_parquet(tmp_path / "run" / "out_of_fold.parquet").set_index("id")
    assert len(table) == 48
    np.testing.assert_array_equal(np.stack(table["probabilities"]), np.stack(held_out["probabilities"][table.index]))
    assert (table["suggested"] == held_out["predicted"][table.index]).all()
    assert not (tmp_path / "out" / "cache").exists()
    summary = read_json(tmp_path / "out" / "audit.json")
    assert summary["judge"] == {"kind": "a finished run, out of fold", "model": str(tmp_path / "run"), "folds": 4}
    assert summary["leakage"] is None

    changed = rows[int(table.index[0][1:])]
    changed["label"] = "tech" if changed["label"] != "tech" else "sport"
    new = write_jsonl(tmp_path / "new.jsonl", rows)
    with pytest.raises(ValueError, match="1 documents have another label"):
        start(monkeypatch, tmp_path / "run", new, tmp_path / "new")
    changed["label"] = held_out["gold"][changed["id"]]
    rewritten = write_jsonl(
        tmp_path / "rewritten.jsonl", [{**row, "text": "new"} if row is changed else row for row in rows]
    )
    with pytest.raises(ValueError, match="1 documents have another text"):
        start(monkeypatch, tmp_path / "run", rewritten, tmp_path / "new")
    with pytest.raises(ValueError, match="judges as it was trained: leave max_length, folds out"):
        start(monkeypatch, tmp_path / "run", train, tmp_path / "new", "--folds", "3", "--max_length", "8")
    others = write_jsonl(tmp_path / "others.jsonl", [{**row, "id": f"x{row['id']}"} for row in rows])
    with pytest.raises(ValueError, match=r"48 of the 48 documents .* are not among these"):
        start(monkeypatch, tmp_path / "run", others, tmp_path / "new")
    (tmp_path / "run" / "out_of_fold.parquet").unlink()
    with pytest.raises(FileNotFoundError, match="was trained without folds"):
        start(monkeypatch, tmp_path / "run", train, tmp_path / "new")


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "multi_label"])
def test_corrections_are_taken_back_in(kind, checkpoint, tmp_path, monkeypatch, capsys):
    rows = documents(multi_label=kind == "multi_label")
    table = pd.DataFrame(rows)
    train = tmp_path / f"train.{kind if kind != 'multi_label' else 'jsonl'}"
    writers = {"csv": lambda: table.to_csv(train, index=False), "parquet": lambda: table.to_parquet(train)}
    writers.get(kind, lambda: write_jsonl(train, rows))()
    before = train.read_bytes()
    right = ["tech", "sport"] if kind == "multi_label" else "sport"
    fixed = write_jsonl(
        tmp_path / "fixed.jsonl", [{"id": "d3", "label": right}, {"id": "d4", "label": rows[4]["label"]}]
    )
    more = ["--multi_label", "true"] if kind == "multi_label" else []
    rows[3]["label"] = rows[3]["label"] if rows[3]["label"] != right else "tech"
    was = table["label"][3]
    start(monkeypatch, checkpoint, train, tmp_path / "out", "--fixed_file", fixed, *more)
    written = [json.loads(line) for line in (tmp_path / "out" / "train.fixed.jsonl").read_text().splitlines()]
    assert train.read_bytes() == before
    assert [row["text"] for row in written] == table["text"].tolist()
    assert [row["source"] for row in written] == table["source"].tolist()
    expected = table["label"].tolist()
    expected[3] = right
    assert [sorted(row["label"]) for row in written] == [sorted(label) for label in expected]
    assert f"{int(sorted(was) != sorted(right))} labels are corrected" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(ValueError, match=r"There is a file .*train\.fixed\.jsonl' already"):
        start(monkeypatch, checkpoint, train, tmp_path / "out", "--fixed_file", fixed, *more)


@pytest.mark.parametrize(
    ("corrections", "told"),
    [
        ([{"id": "d99", "label": "tech"}], "corrects 1 documents that .* does not have"),
        ([{"id": "d3", "label": "teck"}], "Row 0 .* Unknown label 'teck'"),
        ([{"id": "d3", "label": None}], "Row 0 .* has no label"),
        ([{"label": "tech"}], "Row 0 .* has no id"),
        ([{"id": "d3", "label": "tech"}, {"id": "d3", "label": "sport"}], "two labels for the document 'd3'"),
    ],
)
def test_wrong_corrections_are_named(corrections, told, checkpoint, tmp_path, monkeypatch):
    train = write_jsonl(tmp_path / "train.jsonl", documents(multi_label=False))
    fixed = write_jsonl(tmp_path / "fixed.jsonl", corrections)
    with pytest.raises(ValueError, match=told):
        start(monkeypatch, checkpoint, train, tmp_path / "out", "--fixed_file", fixed)
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--folds", 0], "without folds, nothing is held out"),
        (["--similarity", 1.5], "similarity is a cosine"),
        (["--fixed_file", "nowhere.csv"], "There is no file 'nowhere.csv'"),
        (["--slice_columns", "sauce"], r"has no columns \['sauce'\]"),
    ],
)
def test_wrong_arguments_are_named(words, told, checkpoint, tmp_path, monkeypatch):
    pytest.importorskip("cleanlab")
    train = write_jsonl(tmp_path / "train.jsonl", documents(multi_label=False))
    monkeypatch.setattr("hf_causal_clf.backbone.loading.AutoModel", None)  # nothing is loaded
    with pytest.raises(ValueError, match=told):
        start(monkeypatch, checkpoint, train, tmp_path / "out", *words)


def test_without_cleanlab_it_says_what_to_install(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_causal_clf.cli.packages.find_spec", lambda name: None)
    train = write_jsonl(tmp_path / "train.jsonl", documents(multi_label=False))
    with pytest.raises(ValueError, match=r"pip install 'hf_causal_clf\[audit\]'"):
        start(monkeypatch, checkpoint, train, tmp_path / "out")
