"""What is printed of a finished run, beside its table."""

import numpy as np

from hf_causal_clf.runs.summary import weakest_labels


def test_the_two_labels_with_the_lowest_f1_are_named_and_no_label_without_documents():
    """Of four labels, `d` has no test documents."""
    gold, predicted = np.array([0, 0, 1, 1, 2]), np.array([0, 0, 1, 0, 3])
    assert weakest_labels(gold, predicted, ["a", "b", "c", "d"]) == (
        "lowest F1 on test: 'c' 0.000 on 1, 'b' 0.667 on 2 documents"
    )


def test_labels_of_a_multi_label_task():
    gold, predicted = np.array([[1, 0, 1], [1, 1, 0]]), np.array([[1, 0, 0], [1, 1, 0]])
    assert weakest_labels(gold, predicted, ["a", "b\nhidden", "c"]) == (
        "lowest F1 on test: 'c' 0.000 on 1, 'a' 1.000 on 2 documents"
    )
    assert "\n" not in weakest_labels(gold[:, ::-1], 1 - predicted, ["b\nhidden", "a", "c"])
