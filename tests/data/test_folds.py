"""Folds: labels in proportion, documents that are alike together, and data that have folds in place of a split."""

import numpy as np
import pytest
from conftest import make_rows, write_jsonl

from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.folds import assign_folds, check_folds, labels_in_one_fold
from hf_causal_clf.data.sampling import normalized
from hf_causal_clf.data.splits import load_data
from hf_causal_clf.training.output_folder import documents_content


def several(count, labels, seed):
    """Sets of labels of which some are rare, and documents without any."""
    draw = np.random.default_rng(seed)
    return (draw.random((count, labels)) < draw.uniform(0.02, 0.4, labels)).astype(np.int64)


def each_fold(gold, folds):
    has = gold if gold.ndim == 2 else np.eye(gold.max() + 1, dtype=np.int64)[gold]
    return np.array([has[folds == fold].sum(axis=0) for fold in range(folds.max() + 1)])


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("folds", [2, 5, 20])
def test_labels_and_documents_are_in_proportion(folds, seed):
    draw = np.random.default_rng(seed)
    gold = draw.choice(6, size=draw.integers(40, 150), p=[0.4, 0.3, 0.2, 0.05, 0.03, 0.02])
    gold[:2] = 0, 1
    found = assign_folds(gold, range(len(gold)), folds, seed)
    assert sorted(set(found)) == list(range(folds))
    for counts in [np.bincount(found), *each_fold(gold, found).T]:
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("seed", range(10))
def test_sets_of_labels_are_near_proportion(seed):
    gold = several(120, 6, seed)
    counts = each_fold(gold, assign_folds(gold, range(120), 5, seed))
    assert (np.abs(counts - gold.sum(axis=0) / 5) <= 4).all()
    sizes = np.bincount(assign_folds(gold, range(120), 5, seed))
    assert np.abs(sizes - 24).max() <= 6


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_documents_that_are_alike_are_in_one_fold(multi_label, seed):
    draw = np.random.default_rng(seed)
    gold = several(80, 4, seed) if multi_label else draw.integers(0, 4, 80)
    groups = draw.integers(0, 30, 80)
    found = assign_folds(gold, groups.tolist(), 4, seed)
    assert all(len(set(found[groups == group])) == 1 for group in set(groups))
    assert sorted(set(found)) == [0, 1, 2, 3]


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("multi_label", [False, True])
def test_each_training_knows_each_label_that_two_texts_have(multi_label, seed):
    """Also where a label has fewer documents than there are folds, or most of them are one text."""
    draw = np.random.default_rng(seed)
    gold = several(40, 8, seed) if multi_label else draw.integers(0, 20, 40)
    groups = draw.integers(0, 25, 40)
    found = assign_folds(gold, groups.tolist(), 5, seed)
    has = gold if multi_label else np.eye(gold.max() + 1, dtype=np.int64)[gold]
    lonely = [label for label in range(has.shape[1]) if len(set(groups[has[:, label] > 0])) == 1]
    assert labels_in_one_fold(gold, found).tolist() == lonely


def test_folds_depend_on_the_seed_and_on_nothing_else():
    gold = np.arange(60) % 3
    first, same, other = (assign_folds(gold, range(60), 5, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


@pytest.mark.parametrize(
    ("gold", "groups", "message"),
    [
        ([0, 1, 0, 1], [0, 1, 2, 2], r"folds=4 needs as many labelled documents with different texts, and there are 3"),
        ([0, 0, 0, 0, 1], range(5), "single label"),
        ([[1, 0], [1, 0], [1, 0], [1, 1]], range(4), "single label"),
    ],
)
def test_too_few_documents(gold, groups, message):
    with pytest.raises(ValueError, match=message):
        assign_folds(np.array(gold), list(groups), 4, 0)


@pytest.mark.parametrize("folds", [1, 21, -3, True, 2.5, "5"])
def test_wrong_numbers_of_folds(folds):
    with pytest.raises(ValueError, match=r"folds must be 0 \(off\) or from 2 to 20, got"):
        check_folds(folds)


def test_right_numbers_of_folds():
    for folds in (0, 2, 20):
        check_folds(folds)


def test_validation_documents_join(files, capsys):
    plain, data = load_data(DataArguments(**files)), load_data(DataArguments(**files), 5)
    texts = [*plain.texts("train"), *plain.texts("validation")]
    assert data.texts("train") == data.texts("validation") == texts
    assert data.splits["test"][:] == plain.splits["test"][:]
    assert data.overlap["train/validation"] == 0  # they are the same documents
    assert len(set(data.splits["train"]["id"])) == 63
    assert data.splits["train"]["id"][48] == "validation/0"
    told = " ".join(capsys.readouterr().out.split())
    assert "The 15 validation documents join the 48 training documents." in told
    assert "No validation split is cut: the 63 training documents are in 5 folds of 12 to 13" in told


def test_ids_of_ones_own_stay(tmp_path):
    parts = {"train": make_rows(30), "validation": make_rows(9, 100), "test": make_rows(9, 200)}
    paths = {
        f"{split}_file": write_jsonl(tmp_path / f"{split}.jsonl", [{**row, "n": row["text"][::-1]} for row in rows])
        for split, rows in parts.items()
    }
    data = load_data(DataArguments(**paths, id_column="n"), 3)
    assert [each[::-1] for each in data.splits["train"]["id"]] == data.texts("train")


def test_no_validation_split_is_cut_and_the_test_split_is_the_same(files):
    arguments = DataArguments(train_file=files["train_file"])
    plain, data = load_data(arguments), load_data(arguments, 4)
    assert data.splits["test"][:] == plain.splits["test"][:]
    together = sorted([*plain.splits["train"]["id"], *plain.splits["validation"]["id"]])
    assert sorted(data.splits["train"]["id"]) == together


@pytest.mark.parametrize("multi_label", [False, True])
def test_one_fold_is_held_out(multi_label, files, multi_label_files):
    data = load_data(DataArguments(**(multi_label_files if multi_label else files), multi_label=multi_label), 4)
    held = []
    for fold in range(data.fold_count):
        part = data.holding_out(fold)
        assert part.folds is None
        assert not {*map(normalized, part.texts("train"))} & {*map(normalized, part.texts("validation"))}
        assert sorted(part.texts("train") + part.texts("validation")) == sorted(data.texts("train"))
        assert part.texts("validation") == [text for text, at in zip(data.texts("train"), data.folds) if at == fold]
        assert part.texts("test") == data.texts("test")
        held += part.texts("validation")
    assert sorted(held) == sorted(data.texts("train"))


def test_documents_that_are_alike_share_a_fold(tmp_path):
    rows = [*make_rows(30), *({**row, "text": row["text"].upper() + " "} for row in make_rows(12))]
    paths = {
        "train_file": write_jsonl(tmp_path / "train.jsonl", rows),
        "test_file": write_jsonl(tmp_path / "t.jsonl", make_rows(9, 200)),
    }
    data = load_data(DataArguments(**paths), 5)
    assert data.folds[:12].tolist() == data.folds[30:].tolist()


def test_a_label_with_one_document_is_named(tmp_path, caplog):
    rows = [*make_rows(30), {"text": "one film", "label": "film"}]
    paths = {
        "train_file": write_jsonl(tmp_path / "train.jsonl", rows),
        "test_file": write_jsonl(tmp_path / "t.jsonl", make_rows(9, 200)),
    }
    load_data(DataArguments(**paths), 5)
    assert "the training without it knows none of them: ['film']" in caplog.text


def test_settings_of_a_split_that_is_not_there(files):
    for wrong in ({"validation_fraction": 0.2}, {"max_validation_samples": 3}):
        arguments = DataArguments(train_file=files["train_file"], **wrong)
        with pytest.raises(ValueError, match=f"With folds, no validation split is cut: leave {next(iter(wrong))} out"):
            load_data(arguments, 5)
    assert len(load_data(DataArguments(**files, max_validation_samples=3), 5).splits["train"]) == 51


def test_the_number_of_training_documents_is_that_of_all_labelled_ones(files):
    data = load_data(DataArguments(**files, max_train_samples=30), 5)
    ids = data.splits["train"]["id"]
    assert len(ids) == len(data.folds) == 30
    assert {each.split("/")[0] for each in ids} == {"train", "validation"}


def test_other_folds_are_another_run(files):
    one, two, three = (
        load_data(DataArguments(**files, split_seed=seed), folds) for seed, folds in ((1, 5), (2, 5), (1, 4))
    )
    assert len({documents_content(data) for data in (one, two, three)}) == 3
    assert len({documents_content(data, ("test",)) for data in (one, two, three)}) == 1
