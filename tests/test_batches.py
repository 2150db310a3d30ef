"""`BatchClassifier`, which Ray Data calls: tables of any kind, and documents that cannot be predicted."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from test_shards import LABELS, ByLength

from hf_causal_clf import TextClassifier
from hf_causal_clf.batches import BatchClassifier

TEXTS = ["x", "xxxxxxxx", "xxx", "xxxxxxxxxx"]
EXPECTED = ["short", "long", "short", "long"]


class Fails(ByLength):
    """Cannot read some texts, and notes how many it is asked for."""

    def __init__(self, *bad):
        super().__init__()
        self.bad = bad
        self.calls = 0

    def logits(self, texts):
        self.calls += 1
        if set(self.bad) & set(texts):
            raise RuntimeError("cannot be read")
        return super().logits(texts)


def batches(scorer=None, **options):
    return BatchClassifier(TextClassifier(scorer or ByLength(), LABELS), **options)


@pytest.mark.parametrize(
    "make",
    [
        lambda texts: pa.table({"key": [1, 2, 3, 4], "text": texts}),
        lambda texts: {"key": np.arange(1, 5), "text": np.array(texts, dtype=object)},
        lambda texts: pd.DataFrame({"key": [1, 2, 3, 4], "text": texts}, index=[7, 8, 9, 10]),
    ],
)
def test_a_batch_of_any_format_gets_the_columns_of_predict(make):
    found = batches()(make(TEXTS))
    assert found.column_names == ["key", "text", "predicted", "probabilities"]
    assert found["key"].to_pylist() == [1, 2, 3, 4]
    assert found["predicted"].to_pylist() == EXPECTED
    expected = TextClassifier(ByLength(), LABELS).predict_proba(TEXTS)
    np.testing.assert_array_equal(pd.DataFrame(found["probabilities"].to_pylist()), expected)


def test_a_batch_without_the_column_or_with_an_answers_name_is_refused():
    with pytest.raises(ValueError, match=r"no column 'text'; it has \['body'\]\. Set text_column"):
        batches()({"body": TEXTS})
    with pytest.raises(ValueError, match=r"has the columns \['predicted'\] before it is predicted"):
        batches()({"text": TEXTS, "predicted": TEXTS})
    with pytest.raises(ValueError, match=r"on_error must be one of \['stop', 'record'\], got 'skip'"):
        batches(on_error="skip")


def test_one_document_that_fails_ends_the_batch_or_is_recorded():
    with pytest.raises(RuntimeError, match="cannot be read"):
        batches(Fails("bad"))({"text": [*TEXTS, "bad"]})
    scorer = Fails("bad", "worse")
    texts = [*TEXTS, "bad", None, *TEXTS * 20, 7, "worse", "xx"]
    found = batches(scorer, on_error="record").answers(texts)
    errors = {row: error for row, error in enumerate(found["error"].to_pylist()) if error}
    assert errors == {
        4: "RuntimeError: cannot be read",
        86: "7 of type int instead of a text",
        87: "RuntimeError: cannot be read",
    }
    expected = [*EXPECTED, None, None, *EXPECTED * 20, None, None, "short"]
    assert found["predicted"].to_pylist() == expected
    assert found["probabilities"].null_count == 4
    assert scorer.calls < 40  # in halves, not one by one


def test_an_empty_text_is_an_error_where_it_is_to_be_one():
    found = batches(on_error="record", empty="error").answers(["x", " "])
    assert found["error"].to_pylist() == [None, "no text: ' '"]
    assert batches(on_error="record").answers(["x", " "])["error"].null_count == 2
    with pytest.raises(ValueError, match="1 of 2 texts are empty"):
        batches(empty="error").answers(["x", " "])


@pytest.mark.parametrize("count", [2, 1000])
def test_a_classifier_that_predicts_nothing_is_no_matter_of_the_documents(count):
    texts = ["x" * row for row in range(1, count + 1)]
    scorer = Fails(*texts)
    with pytest.raises(RuntimeError, match="cannot be read"):
        batches(scorer, on_error="record").answers(texts)
    assert scorer.calls <= 60


def test_one_text_alone_that_fails_is_recorded():
    classify = batches(Fails("bad"), on_error="record")
    assert classify.answers(["bad"])["error"].to_pylist() == ["RuntimeError: cannot be read"]
    assert classify.answers([])["predicted"].to_pylist() == []
