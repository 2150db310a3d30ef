import json
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import make_rows, write_jsonl
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from sklearn.utils.class_weight import compute_class_weight

from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.sampling import stratified_sample
from hf_causal_clf.data.splits import load_data


def arguments(tmp_path, rows=None, **kwargs):
    """Three files of rows; `rows` replaces those of a split."""
    splits = {"train": make_rows(12), "validation": make_rows(6, 20), "test": make_rows(6, 30), **(rows or {})}
    files = {
        f"{split}_file": write_jsonl(tmp_path / f"{split}.jsonl", data)
        for split, data in splits.items()
        if data is not None
    }
    return DataArguments(**files, **kwargs)


def test_strings(tmp_path):
    data = load_data(arguments(tmp_path))
    assert data.label_space.names == ("business", "sport", "tech")
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 12, "validation": 6, "test": 6}
    assert list(data.splits) == ["train", "validation", "test"]
    assert data.texts("test") == [row["text"] for row in make_rows(6, 30)]
    assert (
        data.gold("test").tolist() == data.label_space.encode_batch([row["label"] for row in make_rows(6, 30)]).tolist()
    )
    assert list(data.splits["test"]["id"]) == list(range(6))


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl", "parquet"])
def test_file_formats(tmp_path, ending):
    files = {}
    for split, offset in (("train", 0), ("validation", 20), ("test", 40)):
        path = tmp_path / f"{split}.{ending}"
        rows = Dataset.from_list(make_rows(9, offset))
        {"csv": rows.to_csv, "parquet": rows.to_parquet}.get(ending, rows.to_json)(path)
        files[f"{split}_file"] = str(path)
    assert load_data(DataArguments(**files)).texts("train") == [row["text"] for row in make_rows(9)]


def relabel(rows, function):
    return [{**row, "label": function(row["label"])} for row in rows]


@pytest.mark.parametrize(
    ("function", "kwargs", "names"),
    [
        (lambda label: {"sport": 2, "business": 10, "tech": 1}[label], {}, ("1", "2", "10")),
        (lambda label: {"sport": 0, "business": 1, "tech": 2}[label], {"label_list": ["s", "b", "t"]}, ("s", "b", "t")),
        (lambda label: label, {"label_list": ["tech", "sport", "business"]}, ("tech", "sport", "business")),
        (lambda label: [label], {"multi_label": True}, ("business", "sport", "tech")),
        (
            lambda label: f"{label}; x",
            {"multi_label": True, "label_delimiter": ";"},
            ("business", "sport", "tech", "x"),
        ),
    ],
    ids=["ids", "ids_with_names", "order", "lists", "delimiter"],
)
def test_forms_of_labels(tmp_path, function, kwargs, names):
    splits = {
        split: relabel(make_rows(9, offset), function)
        for split, offset in (("train", 0), ("validation", 20), ("test", 40))
    }
    assert load_data(arguments(tmp_path, splits, **kwargs)).label_space.names == names


def test_delimited_labels_may_be_empty(tmp_path):
    splits = {"test": [{"text": "a", "label": ""}, {"text": "b", "label": None}, {"text": "c", "label": "tech,sport"}]}
    data = load_data(arguments(tmp_path, splits, multi_label=True, label_delimiter=","))
    assert data.gold("test").tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 1]]


@pytest.mark.parametrize("multi_label", [False, True])
def test_class_labels_of_a_data_set_folder(tmp_path, multi_label):
    kind = ClassLabel(names=["tech", "sport", "business"])
    features = Features({"text": Value("string"), "label": Sequence(kind) if multi_label else kind})
    wrap = (lambda label: [label]) if multi_label else (lambda label: label)
    splits = {
        split: Dataset.from_list(relabel(make_rows(9, offset), wrap), features)
        for split, offset in (("train", 0), ("validation", 20), ("test", 40))
    }
    for split, rows in splits.items():
        rows.to_parquet(tmp_path / f"{split}.parquet")
    data = load_data(DataArguments(dataset_name=str(tmp_path), multi_label=multi_label))
    assert data.label_space.names == ("tech", "sport", "business")  # ids are the data set's own
    assert data.splits["train"][0]["label"] == wrap("sport")


def test_other_columns(tmp_path):
    rows = {
        split: [
            {"body": row["text"], "topic": row["label"], "key": f"{split}-{index}"}
            for index, row in enumerate(make_rows(9, offset))
        ]
        for split, offset in (("train", 0), ("validation", 20), ("test", 40))
    }
    data = load_data(arguments(tmp_path, rows, text_column="body", label_column="topic", id_column="key"))
    assert data.splits["test"]["id"][2] == "test-2"


def test_validation_fraction_is_stratified_and_leaves_test_alone(tmp_path):
    args = arguments(tmp_path, {"train": make_rows(60), "validation": None}, validation_fraction=0.2)
    data = load_data(args)
    assert Counter(data.splits["validation"]["label"]) == {"sport": 4, "business": 4, "tech": 4}
    assert Counter(data.splits["train"]["label"]) == {"sport": 16, "business": 16, "tech": 16}
    together = sorted(data.texts("train") + data.texts("validation"))
    assert together == sorted(row["text"] for row in make_rows(60))
    assert data.texts("test") == [row["text"] for row in make_rows(6, 30)]
    assert load_data(args).texts("validation") == data.texts("validation")


def test_samples_are_drawn_from_all_of_a_sorted_file(tmp_path):
    rows = sorted(make_rows(60), key=lambda row: row["label"])
    data = load_data(arguments(tmp_path, {"train": rows}, max_train_samples=12, max_test_samples=3))
    assert Counter(data.splits["train"]["label"]) == {"sport": 4, "business": 4, "tech": 4}
    assert len(data.splits["test"]) == 3
    ids = list(data.splits["test"]["id"])
    assert [make_rows(6, 30)[index]["text"] for index in ids] == data.texts("test")


def test_labels_are_those_of_the_whole_training_split(tmp_path):
    rows = [*make_rows(40), {"text": "rare", "label": "film"}]
    data = load_data(arguments(tmp_path, {"train": rows}, max_train_samples=9))
    assert "film" in data.label_space.names


def test_overlap_is_reported(tmp_path):
    data = load_data(arguments(tmp_path, {"test": [*make_rows(2), {"text": "The CAT", "label": "sport"}]}))
    assert data.overlap == {"train/validation": 0, "train/test": 2, "validation/test": 0}


def test_a_label_that_every_document_has_is_learned_with_balanced_weights(tmp_path):
    rows = [{"text": f"text {row}", "label": ["a"] + ["b"] * (row < 2)} for row in range(8)]
    args = arguments(
        tmp_path,
        dict.fromkeys(("train", "validation", "test"), rows),
        multi_label=True,
        label_list=["a", "b", "c"],
    )
    data = load_data(args)
    weights = torch.tensor(data.balanced_weights()["pos_weight"])
    assert weights.tolist() == [1, 3, 1]  # b: 6 documents without, 2 with
    logits = torch.zeros(8, 3, requires_grad=True)
    targets = torch.tensor(data.gold("train"), dtype=torch.float32)
    torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights).backward()
    assert (logits.grad[:, 0] < 0).all()  # towards the label


def test_a_label_without_documents_does_not_weigh_on_the_others(tmp_path):
    rows = [{"text": f"text {row}", "label": "a" if row < 6 else "c"} for row in range(8)]
    splits = dict.fromkeys(("train", "validation", "test"), rows)
    data = load_data(arguments(tmp_path, splits, label_list=["a", "b", "c"]))
    a, b, c = data.balanced_weights()["class_weights"]
    assert [a, c] == pytest.approx(compute_class_weight("balanced", classes=np.array([0, 2]), y=data.gold("train")))
    assert b == 1


@pytest.mark.parametrize("size", [1, 7, 50, 99])
def test_stratified_sample_of_label_sets(size):
    gold = (np.random.default_rng(0).uniform(size=(100, 4)) < [0.5, 0.3, 0.1, 0.02]).astype(int)
    chosen = stratified_sample(gold, size, seed=1)
    assert len(chosen) == len(set(chosen.tolist())) == size
    assert np.array_equal(chosen, np.sort(chosen))
    if size == 50:
        assert abs(gold[chosen].mean(0) - gold.mean(0)).max() <= 0.06


def one(label="sport", text="some text"):
    return [{"text": text, "label": label}]


MISTAKES = {
    "empty text": ({"test": [*make_rows(2), *one(text=" "), *one(text="")]}, {}, r"2 documents of the test split have no text in 'text'.*rows \[2, 3\]"),
    "null text": ({"train": [*make_rows(4), {"text": None, "label": "sport"}]}, {}, r"1 documents of the train split.*rows \[4\]"),
    "null label": ({"train": [*make_rows(4), *one(label=None)]}, {}, r"Row 4 of the train split, counted from 0: the label is missing"),
    "empty label": ({"train": [*make_rows(4), *one(label=" ")]}, {}, "the label is empty"),
    "unknown label": ({"test": [*make_rows(3), *one(label="film")]}, {}, r"test split has labels that the training split does not have: \['film'\]"),
    "single class": ({split: one() for split in ("train", "validation", "test")}, {}, r"single label \['sport'\]: there is nothing to tell apart"),
    "no column": ({}, {"text_column": "body"}, r"no column 'body'; it has \['text', 'label'\]. Set text_column"),
    "no label column": ({}, {"label_column": "topic"}, "Set label_column to one of these"),
    "label list contradicts": ({}, {"label_list": ["sport", "tech"]}, r"label_list does not list: \['business'\]"),
    "id beyond the list": ({"train": [*relabel(make_rows(3), lambda _: 0), *one(label=7)]}, {"label_list": ["a", "b"]}, "label id 7 is not one of the 2 labels"),
    "no training": ({"train": None}, {}, "has no train split, and no other is used in its place. Give train_file"),
    "test fraction and split": ({}, {"test_fraction": 0.1}, "has a test split, so test_fraction=0.1 has nothing to do"),
    "fractions of everything": ({"validation": None, "test": None}, {"test_fraction": 0.5, "validation_fraction": 0.5}, "test_fraction=0.5 and validation_fraction=0.5 leave no training document"),
    "one document": ({"train": one(), "validation": None, "test": None}, {"label_list": ["sport", "tech"]}, "A test split cannot be cut off 1 training documents"),
    "a document for each label": ({"train": [*one("sport", "a"), *one("tech", "b")], "validation": None, "test": None}, {}, "test_fraction=0.2 leaves no training document with the labels"),
    "fraction and split": ({}, {"validation_fraction": 0.1}, "Leave one of them out"),
    "list in single-label": ({"train": relabel(make_rows(6), lambda label: [label])}, {}, "set multi_label to true"),
    "string in multi-label": ({}, {"multi_label": True}, "are not a list. For one string, set label_delimiter"),
    "multi-hot": ({"train": relabel(make_rows(6), lambda _: [0, 0, 1])}, {"multi_label": True}, "0/1 vectors are not read"),
    "cut takes a label": ({"train": [*make_rows(9), *one(label="film")], "validation": None, "test": make_rows(3)}, {"validation_fraction": 0.9}, "leaves no training document with the labels"),
    "ids not unique": ({}, {"id_column": "label"}, "ids in column 'label' of the train split are not unique"),
    "one class left": ({"train": [*relabel(make_rows(50), lambda _: "sport"), *make_rows(3)]}, {"max_train_samples": 1}, "single label"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(tmp_path, mistake):
    rows, kwargs, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        load_data(arguments(tmp_path, rows, **kwargs))


def test_bad_files(tmp_path):
    good = arguments(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"There is no file 'nowhere.jsonl'"):
        load_data(
            DataArguments(train_file="nowhere.jsonl", validation_file=good.validation_file, test_file=good.test_file)
        )
    (tmp_path / "data.xlsx").write_text("x")
    with pytest.raises(ValueError, match=r"has the ending '.xlsx'; known are .csv, .json, .jsonl, .parquet"):
        load_data(DataArguments(train_file=str(tmp_path / "data.xlsx")))
    (tmp_path / "empty.csv").touch()
    with pytest.raises(ValueError, match="is empty"):
        load_data(DataArguments(train_file=str(tmp_path / "empty.csv")))
    (tmp_path / "broken.jsonl").write_text(json.dumps({"text": "a"}) + "\n{oops")
    with pytest.raises(ValueError, match="cannot be read as json"):
        load_data(DataArguments(train_file=str(tmp_path / "broken.jsonl")))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "none is given"),
        ({"dataset_name": "a", "train_file": "b"}, "not both"),
        ({"train_file": "b", "validation_fraction": 1.0}, "between 0 and 1"),
        ({"train_file": "b", "label_delimiter": ","}, "label_delimiter is for multi-label"),
        ({"train_file": "b", "max_test_samples": 0}, "max_test_samples must be at least 1"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        DataArguments(**kwargs)
