"""The splits that the package itself cuts: stratified, and documents with the same text on one side."""

from collections import Counter

import numpy as np
import pytest
from conftest import make_rows, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.sampling import stratified_sample, stratified_split
from hf_causal_clf.data.splits import load_data

examples = settings(max_examples=150, deadline=None, derandomize=True)
WORDS = ["The Cat", "the  cat", "a\tbank", "A bank", "Straße", "STRASSE", "mat", "film", "won", "fell"]
documents = st.lists(
    st.tuples(st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join), st.integers(0, 3)),
    min_size=2,
    max_size=60,
)


def normalized(text):
    return " ".join(text.split()).casefold()


@examples
@given(documents, st.floats(0.01, 0.99), st.integers(0, 5), st.booleans())
def test_no_text_is_on_both_sides(drawn, fraction, seed, multi_label):
    texts, gold = [normalized(text) for text, _ in drawn], np.array([label for _, label in drawn])
    if multi_label:
        gold = np.stack([gold % 2, gold // 2], axis=1)
    size = min(max(1, round(len(texts) * fraction)), len(texts) - 1)
    counts = Counter(texts)
    if len(counts) == 1:
        with pytest.raises(
            ValueError, match=f"Cannot set {size} of {len(texts)} documents apart: all of them have the same"
        ):
            stratified_split(gold, texts, size, seed)
        return
    chosen = stratified_split(gold, texts, size, seed)
    rest = np.setdiff1d(np.arange(len(texts)), chosen)
    assert len(chosen)
    assert len(rest)
    assert not {texts[row] for row in chosen} & {texts[row] for row in rest}
    if min(len(chosen), len(rest)) > min(counts.values()):  # else a side has the smallest group alone
        labels = 1 if multi_label else 4  # a label that one side would lose may cost its group's rows
        assert abs(len(chosen) - size) <= max(counts.values()) * labels
    assert stratified_split(gold, texts, size, seed).tolist() == chosen.tolist()
    if len(counts) == len(texts):
        assert chosen.tolist() == stratified_sample(gold, size, seed).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_sizes_and_shares_stay_with_many_pairs(seed):
    texts = [f"text {row // 2}" for row in range(400)]
    gold = np.repeat(np.arange(4), 100)
    chosen = stratified_split(gold, texts, 80, seed)
    assert abs(len(chosen) - 80) <= 1
    assert (abs(np.bincount(gold[chosen]) - 20) <= 4).all()


def test_a_text_that_half_of_all_documents_have_does_not_swell_a_small_split():
    texts = ["the same"] * 50 + [f"text {row}" for row in range(50)]
    chosen = stratified_split(np.arange(100) % 2, texts, 10, seed=0)
    assert 1 <= len(chosen) <= 10
    assert not {texts[row] for row in chosen} & {"the same"}


def test_a_label_whose_documents_are_all_alike_stays_in_training():
    texts = [f"text {row}" for row in range(36)] + ["rare"] * 4
    gold = np.array([row % 2 for row in range(36)] + [2] * 4)
    for seed in range(10):
        assert 2 not in gold[stratified_split(gold, texts, 20, seed)]


def duplicated(count):
    """Documents of which every fourth comes twice, once with other case and spacing, and some under another label."""
    rows = make_rows(count)
    others = ["sport", "tech", "business"]
    return rows + [{"text": f"  {row['text'].upper()} ", "label": row["label"] if index % 9 else others[index % 3]}
                   for index, row in enumerate(rows) if index % 4 == 0]  # fmt: skip


def arguments(tmp_path, train, **kwargs):
    files = {
        "train_file": write_jsonl(tmp_path / "train.jsonl", train),
        "test_file": write_jsonl(tmp_path / "test.jsonl", make_rows(6, 500)),
    }
    return DataArguments(**files, **{"validation_fraction": 0.2, **kwargs})


@pytest.mark.parametrize("seed", range(4))
def test_validation_fraction_leaves_duplicates_on_one_side(tmp_path, seed, caplog):
    args = arguments(tmp_path, duplicated(90), split_seed=seed)
    data = load_data(args)
    assert data.overlap["train/validation"] == 0
    sides = [set(map(normalized, data.texts(split))) for split in ("train", "validation")]
    assert not sides[0] & sides[1]
    assert "are in both splits" not in caplog.text
    assert abs(len(data.splits["validation"]) - 23) <= 1  # of 113
    assert load_data(args).texts("validation") == data.texts("validation")
    shares = {split: Counter(data.splits[split]["label"]) for split in ("train", "validation")}
    for label in data.label_space.names:
        assert abs(shares["validation"][label] - 0.2 * sum(share[label] for share in shares.values())) <= 3


def test_the_split_of_documents_that_all_differ_is_that_of_before(tmp_path):
    data = load_data(arguments(tmp_path, make_rows(30), validation_fraction=0.1))
    assert list(data.splits["validation"]["id"]) == [1, 24, 29]  # computed with commit bd88caa


@pytest.mark.parametrize("split", ["training", "validation", "test"])
def test_a_label_that_a_split_has_none_of_is_said(tmp_path, caplog, split):
    rare = [{"text": "the premiere", "label": "film"}, {"text": "the sequel", "label": "film"}]
    limits = {"max_train_samples": 9} if split == "training" else {"max_test_samples": 3}
    data = load_data(arguments(tmp_path, [*make_rows(60), *rare], validation_fraction=0.1, **limits))
    assert data.label_space.names == ("business", "film", "sport", "tech")
    assert f"No {split} document in use has these labels: ['film']." in caplog.text


def test_documents_with_one_text_cannot_be_cut(tmp_path):
    rows = [
        {"text": text, "label": label}
        for text, label in (("the cat", "sport"), ("The  Cat", "tech"), ("THE CAT", "business"))
    ]
    with pytest.raises(ValueError, match="Cannot set 1 of 3 documents apart: all of them have the same text"):
        load_data(arguments(tmp_path, rows))
