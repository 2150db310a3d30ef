import json
import math

import numpy as np
import pytest
from scipy.stats import beta

from hf_causal_clf.evaluation.conformal import (
    LEAST,
    LEAST_OF_LABEL,
    METHODS,
    MOST,
    Conformal,
    aps_scores,
    conformal_scores,
    lac_scores,
    uniform_of,
)

LABELS = 4


def documents(count, seed=0, *, sharpness=1.5, off=0.5):
    """Gold labels, and probabilities that are not calibrated, of a classifier that is right in two of three documents."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(size=(count, LABELS)) * sharpness
    truth = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    gold = (truth.cumsum(axis=1) < draw.random((count, 1))).sum(axis=1).clip(max=LABELS - 1)
    wrong = np.exp(logits / off)
    return (
        gold,
        (wrong / wrong.sum(axis=1, keepdims=True)).astype(np.float32),
        [f"{seed} {row}" for row in range(count)],
    )


def naive_limit(scores, coverage):
    """The smallest score that so many do not exceed that one more document's does not either, as often as asked."""
    needed = math.ceil((len(scores) + 1) * coverage - 1e-9)
    return min(score for score in scores if sum(other <= score for other in scores) >= needed)


def naive_scores(method, probabilities, text):
    row = probabilities.astype(np.float64).tolist()
    if method == "lac":
        return [1 - p for p in row]
    order = sorted(range(len(row)), key=lambda label: -row[label])
    part = uniform_of([text])[0]
    return [sum(row[other] for other in order[: order.index(label)]) + part * row[label] for label in range(len(row))]


@pytest.mark.parametrize("class_conditional", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("coverage", [0.5, 0.9, 0.95])
def test_sets_are_those_of_the_definition(method, coverage, class_conditional):
    gold, probabilities, texts = documents(300)
    conformal = conformal_scores(gold, probabilities, texts)
    own = [naive_scores(method, probabilities[row], texts[row])[gold[row]] for row in range(300)]
    groups = [[s for s, g in zip(own, gold, strict=True) if g == label or not class_conditional] for label in range(4)]
    limits = [naive_limit(group, coverage) for group in groups]
    others = documents(60, seed=1)[1:]
    found = conformal.sets(*others, coverage, method=method, class_conditional=class_conditional)
    for row, text in enumerate(others[1]):
        for label, score in enumerate(naive_scores(method, others[0][row], text)):
            assert found[row, label] == (score <= limits[label]) or abs(score - limits[label]) < 1e-6
    assert 0 < found.mean() < 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_coverage_over_two_hundred_splits_is_in_the_beta_interval(method, coverage):
    """Of one pool of documents, split again and again: coverage is Beta(k, n + 1 - k), observed on the other half."""
    gold, probabilities, texts = documents(4000)
    uniform = uniform_of(texts)
    scores = lac_scores(probabilities) if method == "lac" else aps_scores(probabilities, uniform)
    pool = scores[np.arange(4000), gold]
    draw, size, found = np.random.default_rng(0), 400, []
    for _ in range(200):
        order = draw.permutation(4000)
        ours = [texts[row] for row in order[:size]]
        conformal = conformal_scores(gold[order[:size]], probabilities[order[:size]], ours)
        limit = conformal.limits(coverage, method=method)[0]
        found.append((pool[order[size:]] <= limit + 1e-9).mean())
    rank = math.ceil((size + 1) * coverage)
    expected = beta(rank, size + 1 - rank)
    assert np.mean(found) == pytest.approx(expected.mean(), abs=4 * expected.std() / np.sqrt(200) + 1e-3)
    low, high = expected.ppf([0.025, 0.975])
    inside = np.mean([low <= each <= high for each in found])
    assert inside >= 0.88  # 95 % but for what the other half, a sample itself, adds
    assert np.std(found) == pytest.approx(expected.std(), rel=0.2)


def test_class_conditional_coverage_holds_for_each_label_where_the_marginal_one_does_not():
    gold, probabilities, texts = documents(1500)
    probabilities = probabilities * [0.2, 1, 1, 1]  # one label's probabilities are far too small
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    conformal = conformal_scores(gold[:750], probabilities[:750], texts[:750])
    others = probabilities[750:], texts[750:]
    hits = {}
    for conditional in (False, True):
        sets = conformal.sets(*others, 0.9, class_conditional=conditional)
        hit = sets[np.arange(750), gold[750:]]
        assert hit.mean() > 0.86
        hits[conditional] = [hit[gold[750:] == label].mean() for label in range(LABELS)]
    assert min(hits[False]) < 0.8 < 0.84 < min(hits[True])


def test_adaptive_sets_cover_hard_documents_better():
    gold, probabilities, texts = documents(6000, sharpness=2.5, off=1.0)
    conformal = conformal_scores(gold[:2000], probabilities[:2000], texts[:2000])
    hard = probabilities[2000:].max(axis=1) < 0.5
    hits = {
        method: conformal.sets(probabilities[2000:], texts[2000:], 0.8, method=method)[np.arange(4000), gold[2000:]]
        for method in METHODS
    }
    assert abs(hits["aps"][hard].mean() - 0.8) < abs(hits["lac"][hard].mean() - 0.8) / 2


@pytest.mark.parametrize(
    ("count", "coverage", "needed"), [(20, 0.9, LEAST), (LEAST - 1, 0.5, LEAST), (98, 0.99, 99), (998, 0.999, 999)]
)
def test_too_few_documents_are_named_with_how_many_are_needed(count, coverage, needed):
    with pytest.raises(ValueError, match=f"of {count} documents .*too few .* {needed} are needed"):
        conformal_scores(*documents(count)).limits(coverage)
    if count > 20:
        assert np.isfinite(conformal_scores(*documents(needed)).limits(coverage)).all()


def test_a_label_with_too_few_documents_has_no_coverage_of_its_own():
    gold, probabilities, texts = documents(400)
    keep = np.flatnonzero((gold != 2) | ((gold == 2).cumsum() <= 3))
    conformal = conformal_scores(gold[keep], probabilities[keep], [texts[row] for row in keep])
    conformal.limits(0.9)
    with pytest.raises(ValueError, match=f"1 of 4 labels have only 3 .* {LEAST_OF_LABEL} of each label are needed"):
        conformal.limits(0.9, class_conditional=True)


def test_what_is_saved_makes_the_same_sets_and_is_not_large():
    gold, probabilities, texts = documents(MOST + 500)
    conformal = conformal_scores(gold, probabilities, texts)
    text = json.dumps(conformal.to_dict())
    again = Conformal.from_dict(json.loads(text))
    again.check(LABELS)
    assert sum(map(len, conformal.scores["lac"])) == MOST
    assert len(text) < 60_000
    for method in METHODS:
        sets = [each.sets(probabilities[:50], texts[:50], 0.9, method=method) for each in (conformal, again)]
        np.testing.assert_array_equal(*sets)


def test_sets_do_not_depend_on_what_else_is_asked():
    gold, probabilities, texts = documents(200)
    conformal = conformal_scores(gold, probabilities, texts)
    whole = conformal.sets(probabilities, texts, 0.9, method="aps")
    parts = [conformal.sets(probabilities[[row]], [texts[row]], 0.9, method="aps") for row in range(200)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    assert len(set(uniform_of(["a", "a"]))) == 1


def test_the_numbers_of_texts_are_uniform():
    numbers = uniform_of([f"document {row}" for row in range(4000)])
    assert 0 <= numbers.min() < numbers.max() < 1
    assert np.histogram(numbers, bins=10, range=(0, 1))[0].min() > 330
    uniform_of(["\ud800"])  # a text that is not valid Unicode


def test_wrong_arguments_are_named():
    conformal = conformal_scores(*documents(100))
    for coverage in (0.0, 1.0, 90, True, "0.9", float("nan")):
        with pytest.raises(ValueError, match="coverage must be a share between 0 and 1"):
            conformal.limits(coverage)
    with pytest.raises(ValueError, match=r"method must be one of \['lac', 'aps'\], got 'raps'"):
        conformal.limits(0.9, method="raps")
    for bad in (Conformal({"lac": [[0.1]], "aps": [[0.1]]}), Conformal({"lac": [[0.1]] * 4, "aps": [[]] * 4})):
        with pytest.raises(ValueError, match="for each of 4 labels"):
            bad.check(LABELS)
    with pytest.raises(ValueError, match="scores from 0 to 1"):
        Conformal({"lac": [["x"]] * 4, "aps": [[0.1]] * 4}).check(LABELS)
