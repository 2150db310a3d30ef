"""What a classifier leaves unanswered, and its conformal sets: with a scorer whose logits are in the texts."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from hf_causal_clf import LabelSpace, TextClassifier
from hf_causal_clf.evaluation.calibration import Calibration, to_probabilities
from hf_causal_clf.evaluation.conformal import conformal_scores
from hf_causal_clf.evaluation.selective import Abstention
from hf_causal_clf.runs.run import BaseModel, Run, Truncation
from hf_causal_clf.shards import finish_prediction, predict_shards

SINGLE = LabelSpace(["a", "b", "c"])
MULTI = LabelSpace(["a", "b", "c"], multi_label=True)


class Written:
    """Its logits are the numbers that a text consists of."""

    approach, batch_size = "embedding", 8

    def __init__(self):
        self.asked = 0

    def logits(self, texts):
        self.asked += len(texts)
        return np.array([text.split() for text in texts], dtype=np.float32).reshape(-1, 3)


def classifier(space, **entries):
    run = Run("embedding", space, Truncation(8), Calibration(2.0), BaseModel("base"), "1", "last", "random", **entries)
    run = Run.from_dict(json.loads(json.dumps(run.to_dict())))  # as it is saved and read
    found = TextClassifier(Written(), space, run.calibration)
    found.run = run
    return found


def written(logits):
    return [" ".join(map(str, row)) for row in np.round(logits, 3)]


def draw(count, seed=0):
    random = np.random.default_rng(seed)
    texts = written(random.normal(size=(count, 3)) * 2)
    truth = to_probabilities(Written().logits(texts), multi_label=False)
    return texts, np.array([random.choice(3, p=row / row.sum()) for row in truth.astype(np.float64)])


def test_a_single_label_run_does_not_answer_below_its_threshold():
    ours, (texts, _) = classifier(SINGLE, abstention=Abstention(0.02, (0.7,))), draw(50)
    confident = ours.predict_proba(texts).max(axis=1) >= 0.7
    answers = ours.predict(texts)
    assert 0 < confident.sum() < 50
    expected = [answer if sure else None for answer, sure in zip(answers, confident, strict=True)]
    assert ours.predict(texts, abstain=True) == expected
    assert [ours.predict(text, abstain=True) for text in texts] == expected
    assert None not in answers
    assert ours.predict([texts[0], "", texts[1]], empty="keep", abstain=True) == [expected[0], None, expected[1]]
    assert ours.predict([], abstain=True) == ours.predict([]) == []


def test_without_a_threshold_that_holds_nothing_is_answered():
    assert classifier(SINGLE, abstention=Abstention(0.02, (None,))).predict("9 0 0", abstain=True) is None
    assert classifier(SINGLE, abstention=Abstention(0.02, (0.0,))).predict("0 0 0", abstain=True) == "a"


def test_a_multi_label_run_says_of_each_label_whether_it_is_sure():
    ours = classifier(MULTI, abstention=Abstention(0.02, (0.9, 0.7, None)))
    texts = written([[6, 6, 6], [2, 2, 2], [-2, -2, -2], [-6, -6, -6]])  # 0.95, 0.73, and the same for not
    assert ours.predict(texts, abstain=True) == [
        {"a": True, "b": True, "c": None},
        {"a": None, "b": True, "c": None},
        {"a": None, "b": False, "c": None},
        {"a": False, "b": False, "c": None},
    ]
    assert ours.predict(texts[0], abstain=True) == {"a": True, "b": True, "c": None}
    assert ours.predict([texts[0], None], empty="keep", abstain=True)[1] is None


@pytest.mark.parametrize("kind", ["none", "prior", "uncalibrated", "in memory"])
def test_abstaining_needs_a_fitted_target_error_and_the_probabilities_of_its_fit(kind):
    ours = classifier(SINGLE, abstention=None if kind == "none" else Abstention(0.02, (0.7,)))
    if kind == "prior":
        ours._prior_ratio = np.ones(3)
    elif kind == "uncalibrated":
        ours.calibration = Calibration()
    elif kind == "in memory":
        ours.run = None
    known = kind in ("prior", "uncalibrated")
    said = "leave target_prior and calibrated out" if known else r"Train it with --target_error 0\.02"
    with pytest.raises(ValueError, match=said):
        ours.predict(["1 2 3"], abstain=True)
    assert ours.scorer.asked == 0


@pytest.mark.parametrize("method", ["lac", "aps"])
def test_sets_have_the_right_label_as_often_as_asked_for(method):
    texts, gold = draw(1000)
    scores = conformal_scores(gold, to_probabilities(Written().logits(texts), multi_label=False), texts)
    ours = classifier(SINGLE, conformal=scores)
    others, right = draw(2000, seed=1)
    for coverage in (0.8, 0.95):
        sets = ours.predict_set(others, coverage, method=method)
        hits = [SINGLE.names[label] in found for label, found in zip(right, sets, strict=True)]
        assert np.mean(hits) == pytest.approx(coverage, abs=0.05)
        sizes = {len(found) for found in sets}
        assert len(sizes) > 1
    probabilities = ours.predict_proba(others)
    for row, found in zip(probabilities, sets, strict=True):
        places = [row[SINGLE.index(name)] for name in found]
        assert places == sorted(places, reverse=True)
    assert ours.predict_set(others[0], 0.95, method=method) == sets[0]
    assert ours.predict_set([others[0], ""], 0.95, method=method, empty="keep") == [sets[0], None]
    conditional = ours.predict_set(others, 0.95, method=method, class_conditional=True)
    for label in range(3):
        of_label = [found for found, own in zip(conditional, right, strict=True) if own == label]
        assert np.mean([SINGLE.names[label] in found for found in of_label]) > 0.88


def test_sets_do_not_depend_on_the_temperature():
    """It is fitted on the same documents."""
    texts, gold = draw(100)
    scores = conformal_scores(gold, to_probabilities(Written().logits(texts), multi_label=False), texts)
    ours, other = classifier(SINGLE, conformal=scores), classifier(SINGLE, conformal=scores)
    other.calibration = Calibration(0.3)
    assert ours.predict_set(texts) == other.predict_set(texts)


def test_sets_that_cannot_be_made_are_named_before_anything_is_predicted():
    texts, gold = draw(100)
    scores = conformal_scores(gold, to_probabilities(Written().logits(texts), multi_label=False), texts)
    few = conformal_scores(gold[:20], to_probabilities(Written().logits(texts[:20]), multi_label=False), texts[:20])
    ours = classifier(SINGLE, conformal=scores)
    shifted = classifier(SINGLE, conformal=scores)
    shifted._prior_ratio = np.ones(3)
    for wrong, options, said in (
        (classifier(MULTI), {}, "for single-label runs, and this one is multi-label"),
        (classifier(SINGLE), {}, "this run has none: .* --load_best_model_at_end false, or with --folds"),
        (classifier(SINGLE, conformal=few), {}, "Scores of 20 documents are there: too few .* 50 are needed"),
        (ours, {"coverage": 0.999}, "Scores of 100 documents .* 999 are needed"),
        (ours, {"coverage": 90}, "coverage must be a share between 0 and 1"),
        (ours, {"method": "raps"}, "method must be one of"),
        (shifted, {}, "leave target_prior out"),
    ):
        with pytest.raises(ValueError, match=said):
            wrong.predict_set(texts, **options)
        assert wrong.scorer.asked == 0


def test_a_model_that_gives_no_numbers_makes_no_sets():
    texts, gold = draw(100)
    scores = conformal_scores(gold, to_probabilities(Written().logits(texts), multi_label=False), texts)
    with pytest.raises(ValueError, match=r"no numbers \(NaN\) for 1 of 2 texts; the first are at \[1\]"):
        classifier(SINGLE, conformal=scores).predict_set([texts[0], "nan 0 0"])


@pytest.mark.parametrize("space", [SINGLE, MULTI], ids=["single", "multi"])
def test_shards_have_a_column_of_what_is_not_answered(space, tmp_path):
    limits = (0.9, 0.7, None) if space.multi_label else (0.7,)
    ours = classifier(space, abstention=Abstention(0.02, limits))
    texts = [*draw(25)[0], ""]
    rows = list(enumerate(texts))
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
    shards = predict_shards(lambda: ours, rows, tmp_path / "with", shard_size=10, empty="keep", abstain=True)
    (tmp_path / "with" / "_prediction.json").write_text("{}")
    assert finish_prediction(tmp_path / "with", shards, space).unanswered == 1
    predict_shards(lambda: ours, rows, tmp_path / "without", shard_size=10, empty="keep")
    found, plain = (pd.read_parquet(tmp_path / name) for name in ("with", "without"))
    assert list(found.columns) == [*plain.columns, "abstained"]
    pd.testing.assert_frame_equal(found[plain.columns], plain)
    for text, abstained in zip(texts[:-1], found["abstained"], strict=False):
        answer = ours.predict(text, abstain=True)
        if space.multi_label:
            assert list(abstained) == [name for name, known in answer.items() if known is None]
        else:
            assert abstained == (answer is None)
    assert found["abstained"].iloc[-1] is None or pd.isna(found["abstained"].iloc[-1])


def test_a_run_is_read_back_with_what_it_leaves_unanswered(tmp_path):
    texts, gold = draw(60)
    scores = conformal_scores(gold, to_probabilities(Written().logits(texts), multi_label=False), texts)
    run = classifier(SINGLE, abstention=Abstention(0.02, (0.75,)), conformal=scores).run
    run.write(tmp_path)
    found = Run.read(tmp_path)
    assert (found.abstention, found.conformal) == (run.abstention, run.conformal)
    plain = replace(run, abstention=None, conformal=None)
    assert not {"abstention", "conformal"} & set(plain.to_dict())  # so that earlier versions read it
    assert Run.from_dict({**plain.to_dict(), "abstention": None, "conformal": None}) == plain


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"abstention": 0.02}, "for abstention, which must be an object, or null"),
        ({"abstention": {"target_error": 0.02}}, r"lacks \['abstention.thresholds'\]"),
        ({"abstention": {"target_error": 0.02, "thresholds": 0.5}}, "a list of numbers or null"),
        ({"abstention": {"target_error": 0.02, "thresholds": [0.5, 0.5]}}, "must have 1 thresholds"),
        ({"abstention": {"target_error": 2, "thresholds": [0.5]}}, "target_error must be a share between 0 and 1"),
        ({"conformal": {"lac": [[0.1]] * 3}}, r"lacks \['conformal.aps'\]"),
        ({"conformal": {"lac": [[0.1]] * 3, "aps": [[0.1], ["x"], [0.1]]}}, "a list of lists of numbers"),
        ({"conformal": {"lac": [[0.1]], "aps": [[0.1]]}}, "for each of 3 labels"),
    ],
)
def test_wrong_entries_are_named(entries, said):
    with pytest.raises(ValueError, match=said):
        Run.from_dict({**classifier(SINGLE).run.to_dict(), **entries})
