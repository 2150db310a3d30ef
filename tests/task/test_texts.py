"""What `TextClassifier` takes as texts, and what it says to everything else."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict

from hf_causal_clf import LabelSpace, TextClassifier
from hf_causal_clf.evaluation.calibration import to_logits

TEXTS = ["aaaa", "b", "ccc"]
COLUMNS = {"id": [7, 8, 9], "text": TEXTS}


class ByLength:
    """Gives the labels probabilities, or shares of them, by the length of a text."""

    batch_size = 4

    def __init__(self, multi_label=False):
        self.multi_label = multi_label

    def logits(self, texts):
        assert type(texts) is list
        assert all(type(text) is str for text in texts)
        share = np.array([min(len(text), 10) / 10 for text in texts], dtype=np.float32)
        return to_logits(np.stack([share, 1 - share, share], axis=1), multi_label=self.multi_label)


def classifier(multi_label=False):
    return TextClassifier(ByLength(multi_label), LabelSpace(["long", "short", "also"], multi_label=multi_label))


EXPECTED = ["short", "short", "short"]
PROBABILITIES = np.array([[4, 6, 4], [1, 9, 1], [3, 7, 3]]) / [[14], [11], [13]]


@pytest.mark.parametrize(
    "given",
    [
        *(list(TEXTS), tuple(TEXTS), dict(enumerate(TEXTS)).values(), np.array(TEXTS), np.array(TEXTS, dtype=object)),
        pd.DataFrame(COLUMNS)["text"],
        pd.DataFrame(COLUMNS).set_index("id")["text"].astype("category"),  # its index does not begin with 0
        pd.Index(TEXTS),
        pd.Series(TEXTS, dtype="string").array,
        *(pa.array(TEXTS), pa.chunked_array([TEXTS[:1], TEXTS[1:]]), pa.table(COLUMNS)["text"]),
        *(pa.array(TEXTS).dictionary_encode(), pa.array(TEXTS, pa.large_string())),
        Dataset.from_dict(COLUMNS)["text"],
        Dataset.from_dict(COLUMNS)[:]["text"],
        Dataset.from_dict(COLUMNS).to_iterable_dataset()["text"],
        Dataset.from_dict({"row": [{"text": text} for text in TEXTS]})["row"]["text"],
    ],
    ids=lambda given: f"{type(given).__module__}.{type(given).__name__}",
)
def test_containers_of_texts(given):
    assert classifier().predict(given) == EXPECTED
    np.testing.assert_allclose(classifier().predict_proba(given), PROBABILITIES, rtol=1e-6)


def test_an_iterator_is_read_once():
    read = []

    def stream():
        for text in TEXTS:
            read.append(text)
            yield text

    np.testing.assert_allclose(classifier().predict_proba(stream()), PROBABILITIES, rtol=1e-6)
    assert read == TEXTS


def test_a_single_text_gives_a_single_answer():
    assert classifier().predict("aaaa") == "short"
    assert classifier().predict(np.str_("aaaa")) == "short"
    assert classifier(multi_label=True).predict("aaaa") == ["short"]
    assert classifier(multi_label=True).predict("a" * 5) == ["long", "short", "also"]
    single = classifier().predict_proba("aaaa")
    assert (single.shape, single.dtype) == ((3,), np.float32)
    np.testing.assert_allclose(single, PROBABILITIES[0], rtol=1e-6)
    assert classifier().predict(["aaaa"]) == ["short"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (pd.DataFrame(COLUMNS), r"of type DataFrame. It has \['id', 'text'\]: .* such as predict\(given\['text'\]\)"),
        (pd.DataFrame({"body": TEXTS}), r"of type DataFrame. It has \['body'\]: .* predict\(given\['body'\]\)"),
        (pd.DataFrame(TEXTS), r"of type DataFrame. It has \[0\]: .* predict\(given\[0\]\)"),
        (COLUMNS, r"of type dict. It has \['id', 'text'\]: .* predict\(given\['text'\]\)"),
        ({}, "of type dict"),
        (Dataset.from_dict(COLUMNS), r"of type Dataset. It has \['id', 'text'\]: .* predict\(given\['text'\]\)"),
        (Dataset.from_dict(COLUMNS).to_iterable_dataset(), r"of type IterableDataset. It has \['id', 'text'\]"),
        (DatasetDict({"test": Dataset.from_dict(COLUMNS)}), r"of type DatasetDict. It has \['test'\]"),
        (pa.table(COLUMNS), r"of type Table. It has \['id', 'text'\]: .* predict\(given\['text'\]\)"),
        (pa.RecordBatch.from_pydict(COLUMNS), r"of type RecordBatch. It has \['id', 'text'\]"),
        (set(TEXTS), r"of type set. It has no order. Give a list: predict\(sorted\(texts\)\)"),
        (frozenset(TEXTS), "of type frozenset. It has no order"),
        (dict.fromkeys(TEXTS).keys(), "of type dict_keys. It has no order"),
        (b"aaaa", r"of type bytes. Decode it: predict\(given.decode\(\)\)"),
        (bytearray(b"aaaa"), "of type bytearray. Decode it"),
        (None, "of type NoneType. Give a text, or a list of texts"),
        (5, "of type int. Give a text, or a list of texts"),
        (Path("aaaa"), "Give a text, or a list of texts"),
        (
            np.array([TEXTS, TEXTS]),
            r"of type ndarray of shape \(2, 3\). Give one dimension: predict\(given.ravel\(\)\)",
        ),
        (np.array("aaaa"), r"of type ndarray of shape \(\)"),
        (["aaaa", 5], r"1 of 2 texts are not strings; the first are at \[1\]: 5 is of type int"),
        (["aaaa", ["b"]], r"\['b'\] is of type list"),
        ([COLUMNS], "is of type dict"),
        (["aaaa", b"b"], "b'b' is of type bytes"),
        (pd.Series([1, 2]), "2 of 2 texts are not strings"),
        (pa.array([1, 2]), "2 of 2 texts are not strings"),
        ("", r"1 of 1 texts are empty; the first are at \[0\]. Leave them out, or set empty='keep'"),
        (["a", None, float("nan"), pd.NA, "\n\t ", "b"], r"4 of 6 texts are empty; the first are at \[1, 2, 3, 4\]"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_text_is_refused_by_name(given, message):
    for method in (classifier().predict, classifier().predict_proba):
        with pytest.raises(ValueError, match=message):
            method(given)


@pytest.mark.parametrize("nothing", ["", "  \n", None, float("nan"), pd.NA])
@pytest.mark.parametrize("multi_label", [False, True])
def test_an_empty_text_keeps_its_place_where_that_is_asked_for(nothing, multi_label):
    given = ["aaaa", nothing, "a" * 7]
    model = classifier(multi_label)
    probabilities = model.predict_proba(given, empty="keep")
    assert (probabilities.shape, probabilities.dtype) == ((3, 3), np.float32)
    np.testing.assert_allclose(probabilities[[0, 2]], model.predict_proba(["aaaa", "a" * 7]))
    assert np.isnan(probabilities[1]).all()
    expected = [["short"], None, ["long", "also"]] if multi_label else ["short", None, "long"]
    assert model.predict(given, empty="keep") == expected
    assert model.predict([nothing], empty="keep") == [None]


def test_no_label_differs_from_no_answer():
    class Nothing(ByLength):
        def logits(self, texts):
            return np.full((len(texts), 3), -np.inf, dtype=np.float32)

    model = TextClassifier(Nothing(), LabelSpace(["a", "b", "c"], multi_label=True))
    assert model.predict(["x", "", "y"], empty="keep") == [[], None, []]
    assert model.predict("x") == []
    assert model.predict(" ", empty="keep") is None
    assert np.isnan(model.predict_proba(" ", empty="keep")).tolist() == [True] * 3


def test_other_ways_to_treat_an_empty_text():
    with pytest.raises(ValueError, match=r"empty must be one of \['error', 'keep'\], got 'skip'"):
        classifier().predict(TEXTS, empty="skip")


def test_a_model_without_numbers_is_told_from_an_empty_text():
    class Diverged(ByLength):
        def logits(self, texts):
            return np.full((len(texts), 3), np.nan, dtype=np.float32)

    model = TextClassifier(Diverged(), LabelSpace(["a", "b", "c"]))
    with pytest.raises(ValueError, match=r"\(NaN\) for 2 of 3 texts; the first are at \[0, 2\]"):
        model.predict(["x", "", "y"], empty="keep")
