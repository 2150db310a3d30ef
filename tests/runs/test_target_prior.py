"""The label frequencies that a run is used with, against those that it was trained for."""

from dataclasses import replace

import numpy as np
import pytest
from test_run import EMBEDDING

from hf_causal_clf import LabelSpace
from hf_causal_clf.runs.prior import priors_of, read_target_prior, target_ratio

NAMES = ["sport", "business", "tech"]
GIVEN = {"tech": 0.5, "sport": 0.3, "business": 0.2}  # in another order
SHARES = np.array([0.3, 0.2, 0.5])


def run(counts=(10, 30, 60), documents=100, multi_label=False, balanced=False, **facts):
    facts = {
        "label_counts": {"train": list(counts)},
        "documents": {"train": documents},
        "arguments": {"balanced_classes": balanced},
        **facts,
    }
    return replace(EMBEDDING, label_space=LabelSpace(NAMES, multi_label=multi_label), training=facts)


def odds(shares):
    return shares / (1 - shares)


def test_ratio_to_the_frequencies_of_training():
    np.testing.assert_allclose(target_ratio(run(), GIVEN), SHARES / [0.1, 0.3, 0.6])
    np.testing.assert_allclose(target_ratio(run(), "uniform"), (1 / 3) / np.array([0.1, 0.3, 0.6]))
    found = target_ratio(run(counts=(100, 50, 20), documents=200, multi_label=True), GIVEN)
    np.testing.assert_allclose(found, odds(SHARES) / odds(np.array([0.5, 0.25, 0.1])))


def test_balanced_runs_were_trained_for_equal_frequencies():
    np.testing.assert_allclose(target_ratio(run(balanced=True), GIVEN), SHARES * 3)
    found = target_ratio(run(counts=(100, 50, 20), documents=200, multi_label=True, balanced=True), GIVEN)
    np.testing.assert_allclose(found, odds(SHARES))
    prior = np.array([0.2, 0.3, 0.4])  # of documents that counted by their weights
    found = target_ratio(run(multi_label=True, balanced=True, prior=prior.tolist()), GIVEN)
    np.testing.assert_allclose(found, odds(SHARES) / odds(prior))


def test_runs_in_one_have_to_be_trained_for_the_same_frequencies():
    """Members of a combination or a cascade, or a student and its teacher, whose labels may be in another order."""
    plain, balanced = run(), run(balanced=True)
    other = run(counts=(60, 30, 10), prior=[0.2, 0.3, 0.5])
    backward = replace(run(prior=[0.5, 0.3, 0.2]), label_space=LabelSpace(NAMES[::-1]))
    assert priors_of([plain, run(counts=(11, 29, 60))]) == {}
    np.testing.assert_allclose(target_ratio(run(**priors_of([balanced, balanced])), GIVEN), SHARES * 3)
    np.testing.assert_allclose(target_ratio(run(**priors_of([other, backward])), GIVEN), SHARES / [0.2, 0.3, 0.5])
    even = run(counts=(20, 20, 20))
    np.testing.assert_allclose(target_ratio(run(**priors_of([even, balanced])), GIVEN), SHARES * 3)
    mixed = run(**priors_of([balanced, plain]))
    for members in ([plain, balanced], [other, balanced], [run(label_counts={}), balanced], [mixed, balanced]):
        with pytest.raises(ValueError, match="trained for different ones"):
            target_ratio(run(**priors_of(members)), GIVEN)


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ({}, {"sport": 0.5, "tech": 0.5}, r"missing are \['business'\], unknown \[\]"),
        ({}, {**GIVEN, "film": 0.1}, r"missing are \[\], unknown \['film'\]"),
        ({}, {**GIVEN, "tech": 0.4}, r"must sum to 1, got 0\.9"),
        ({}, {**GIVEN, "tech": 0.0}, "above 0 and below 1"),
        ({"multi_label": True}, {**GIVEN, "tech": 1.0}, "above 0 and below 1"),
        ({"multi_label": True}, "uniform", "is for single-label tasks"),
        ({"counts": (0, 40, 60)}, GIVEN, r"which \['sport'\] are not"),
        ({"counts": (100, 40, 60), "multi_label": True}, GIVEN, r"which \['sport'\] are not"),
        ({"counts": (0, 40, 60), "balanced": True}, GIVEN, r"which \['sport'\] are not"),
        ({"label_counts": {}}, GIVEN, r"does not have \(training\.label_counts\.train\)"),
        ({}, "equal", "must map each label to its share"),
        ({}, {**GIVEN, "tech": "half"}, "must map each label to its share"),
        ({}, [0.3, 0.2, 0.5], "must map each label to its share"),
        ({}, {**GIVEN, "tech": float("nan")}, "above 0 and below 1"),
    ],
)
def test_mistakes(kind, given, message):
    with pytest.raises(ValueError, match=message):
        target_ratio(run(**kind), given)


def test_shares_of_several_labels_need_not_sum_to_one():
    target_ratio(run(multi_label=True), {"tech": 0.9, "sport": 0.8, "business": 0.7})


def test_as_an_option_has_it():
    assert read_target_prior('{"sport": 0.5, "tech": 0.5}') == {"sport": 0.5, "tech": 0.5}
    assert read_target_prior({1: 1}) == {"1": 1.0}
    assert read_target_prior("uniform") == "uniform"
    for wrong in ("{", "[0.5]", "0.5", '{"a": true}', 3, None):
        with pytest.raises(ValueError, match="must map each label to its share"):
            read_target_prior(wrong)
