"""Splits that are cut off the training documents where there are none."""

import numpy as np
import pytest
from conftest import make_rows, write_jsonl
from datasets import Dataset
from test_splits import arguments

from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.sampling import stratified_split
from hf_causal_clf.data.splits import load_data


def counts(data):
    return {split: len(rows) for split, rows in data.splits.items()}


@pytest.mark.parametrize("source", ["file", "data set"])
def test_by_default_a_tenth_and_a_fifth_are_cut(tmp_path, source, capsys):
    path = write_jsonl(tmp_path / "train.jsonl", make_rows(90))
    given = {"train_file": path} if source == "file" else {"dataset_name": str(tmp_path)}
    data = load_data(DataArguments(**given))
    assert counts(data) == {"train": 63, "validation": 9, "test": 18}
    assert [np.bincount(data.gold(split)).tolist() for split in data.splits] == [[21] * 3, [3] * 3, [6] * 3]
    assert sorted(text for split in data.splits for text in data.texts(split)) == sorted(
        r["text"] for r in make_rows(90)
    )
    out = capsys.readouterr().out
    said = " ".join(out.split())
    place = "train.jsonl" if source == "file" else "the training split"
    assert f"test split is 18 of the 90 documents of {place}, stratified by label (test_fraction=0.2, the default; split_seed=42)" in said  # fmt: skip
    assert f"validation split is 9 of the 90 documents of {place}, stratified by label (validation_fraction=0.1, the default; split_seed=42)" in said  # fmt: skip
    assert all(len(line) < 100 for line in out.splitlines())


def test_the_test_documents_are_drawn_before_anything_else(tmp_path):
    def test_documents(**kwargs):
        return load_data(
            arguments(tmp_path, {"train": make_rows(60), "validation": None, "test": None}, **kwargs)
        ).texts("test")

    expected = test_documents()
    assert expected == test_documents(validation_fraction=0.4, max_train_samples=6) != test_documents(split_seed=1)
    gold = np.array([["business", "sport", "tech"].index(row["label"]) for row in make_rows(60)])
    drawn = stratified_split(gold, [row["text"] for row in make_rows(60)], 12, 42)
    assert expected == [make_rows(60)[row]["text"] for row in drawn]


def test_a_split_that_is_given_is_never_cut(tmp_path):
    data = load_data(arguments(tmp_path, {"train": make_rows(30), "validation": None}))
    assert data.texts("test") == [row["text"] for row in make_rows(6, 30)]
    assert counts(data) == {"train": 27, "validation": 3, "test": 6}
    data = load_data(arguments(tmp_path, {"train": make_rows(30), "test": None}, test_fraction=0.5))
    assert data.texts("validation") == [row["text"] for row in make_rows(6, 20)]
    assert counts(data) == {"train": 15, "validation": 6, "test": 15}


def test_a_split_of_another_name_is_not_taken_and_named(tmp_path, capsys):
    for split in ("train", "unlabelled"):
        Dataset.from_list(make_rows(30)).to_parquet(tmp_path / f"{split}.parquet")
    folder = tmp_path / "README.md"
    folder.write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - {split: train, path: train.parquet}\n"
        "  - {split: unlabelled, path: unlabelled.parquet}\n---\n"
    )
    assert counts(load_data(DataArguments(dataset_name=str(tmp_path)))) == {"train": 21, "validation": 3, "test": 6}
    assert "The data set has other splits, which are not used: ['unlabelled']." in capsys.readouterr().out


@pytest.mark.parametrize("multi_label", [False, True])
def test_by_default_the_only_document_of_a_label_stays_in_training(tmp_path, multi_label, caplog):
    wrap = (lambda label: [label]) if multi_label else str
    rows = [{**row, "label": wrap(row["label"])} for row in make_rows(12)]
    rows += [{"text": f"rare {index}", "label": wrap(f"label {index}")} for index in range(12)]
    rows += [{"text": "RARE  0", "label": wrap("label 0")}]  # alike, so it stays beside it
    path = write_jsonl(tmp_path / "train.jsonl", rows)
    data = load_data(DataArguments(train_file=path, multi_label=multi_label))
    assert data.gold("train").sum() > 0
    named = [label for value in data.splits["train"]["label"] for label in (value if multi_label else [value])]
    assert set(named) == set(data.label_space.names)
    assert {"rare 0", "RARE  0"} <= set(data.texts("train"))
    assert sum(counts(data).values()) == 25
    assert len(data.splits["test"]) >= 1 <= len(data.splits["validation"])
    assert "No test document in use has these labels" in caplog.text


def test_documents_that_are_alike_are_on_one_side_of_each_cut(tmp_path):
    rows = [{**row, "text": text} for row in make_rows(60) for text in (row["text"], row["text"].upper())]
    data = load_data(DataArguments(train_file=write_jsonl(tmp_path / "train.jsonl", rows)))
    assert set(data.overlap.values()) == {0}


def test_names_of_labels_that_may_be_one_are_pointed_out(tmp_path, caplog):
    rows = [*make_rows(30), *({"text": f"x {index}", "label": "Sport"} for index in range(10))]
    load_data(arguments(tmp_path, {"train": rows}))
    assert "Labels that differ by case or spaces alone: 'Sport' (10) and 'sport' (10). Each is a label" in caplog.text
    caplog.clear()
    load_data(arguments(tmp_path))
    assert not caplog.text
