"""A cascade of two classifiers: what it says is what the stage that answers says, in memory and as a finished run."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_rows, write_jsonl
from test_classifier import save_folder

from hf_causal_clf import LabelSpace, TextClassifier
from hf_causal_clf.backbone.identity import identify_run
from hf_causal_clf.cascade import Cascade
from hf_causal_clf.cascading import Job, make_cascade
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.splits import load_data
from hf_causal_clf.evaluation.calibration import Calibration
from hf_causal_clf.evaluation.cascade import Rule
from hf_causal_clf.evaluation.selective import Abstention
from hf_causal_clf.runs.files import read_json
from hf_causal_clf.runs.results import read_results
from hf_causal_clf.runs.run import BaseModel, Run, Truncation
from hf_causal_clf.sharing.hub import stage_run

SIZES = {"train": (24, 0), "validation": (60, 100), "test": (21, 200)}
CALIBRATIONS = {
    (False, "embedding"): Calibration(2.0),
    (False, "instruction"): Calibration(0.5),
    (True, "embedding"): Calibration((2.0, 1.0, 0.5), (0.3, 0.6, 0.5)),
    (True, "instruction"): Calibration((1.5, 1.0, 1.0), (0.05, 0.2, 0.9)),
}


@pytest.fixture(scope="module")
def made(checkpoint, tmp_path_factory):
    """For single-label and multi-label documents: these, two stages with random adapters, and a saved cascade."""
    found = {}
    for multi_label in (False, True):
        folder = tmp_path_factory.mktemp("runs")
        paths = {
            f"{split}_file": write_jsonl(folder / f"{split}.jsonl", make_rows(*size, multi_label))
            for split, size in SIZES.items()
        }
        data = load_data(DataArguments(**paths, multi_label=multi_label))
        for approach in ("embedding", "instruction"):
            save_folder(folder / approach, checkpoint, approach, data.label_space)
            run = Run.read(folder / approach)
            replace(run, calibration=CALIBRATIONS[multi_label, approach]).write(folder / approach)
        job = Job(
            folder / "cascade", (folder / "embedding", folder / "instruction"), data, Rule(max_deferred=0.5), "macro", 4
        )
        make_cascade(job)
        found[multi_label] = data, folder
    return found


@pytest.fixture(params=[False, True], ids=["single", "multi"])
def case(request, made):
    """The test documents and the two stages."""
    data, folder = made[request.param]
    stages = [TextClassifier.from_pretrained(folder / name, batch_size=4) for name in ("embedding", "instruction")]
    return data.texts("test"), stages, folder


def in_the_middle(stage, texts):
    """A threshold in the widest gap between the margins of the middle documents, which no rounding crosses."""
    return in_the_widest_gap([naive_margin(stage, stage.predict_proba(text)) for text in texts])


def in_the_widest_gap(values):
    """What is between the two of the middle values that are furthest apart."""
    ranked = np.sort(values)[5:-5]
    gap = int(np.argmax(np.diff(ranked)))
    return float(ranked[gap : gap + 2].mean())


def naive_margin(stage, row):
    """The margin of one document, label by label."""
    if not stage.label_space.multi_label:
        first, second = sorted(map(float, row), reverse=True)[:2]
        return first - second
    shares = []
    for probability, threshold in zip(map(float, row), stage.calibration.thresholds):
        given = probability >= threshold
        shares.append((probability - threshold) / (1 - threshold) if given else (threshold - probability) / threshold)
    return min(shares)


def test_it_says_of_each_document_what_the_stage_that_answers_says(case):
    texts, stages, _ = case
    threshold = in_the_middle(stages[0], texts)
    classifier = TextClassifier(Cascade(stages, threshold), stages[0].label_space)
    probabilities, answered = classifier.score(texts)
    assert probabilities.dtype == np.float32
    assert {1, 2} == set(answered)
    labels = classifier.predict(texts)
    for text, row, stage, label in zip(texts, probabilities, answered, labels):
        alone = stages[0].predict_proba(text)
        assert stage == (1 if naive_margin(stages[0], alone) >= threshold else 2)
        alone = alone if stage == 1 else stages[1].predict_proba(text)
        np.testing.assert_allclose(row, alone, atol=1e-5)
        assert [label] == stages[stage - 1].decide(alone[None])


def test_neither_order_nor_batch_size_matters(case):
    texts, stages, _ = case
    threshold = in_the_middle(stages[0], texts)
    classifier = TextClassifier(Cascade(stages, threshold), stages[0].label_space)
    probabilities, answered = classifier.score(texts)
    backward, answered_backward = classifier.score(texts[::-1])
    for stage, size in zip(stages, (3, 1)):
        stage.scorer.batch_size = size
    other, answered_other = classifier.score(texts)
    np.testing.assert_array_equal(answered_backward[::-1], answered)
    np.testing.assert_array_equal(answered_other, answered)
    np.testing.assert_allclose(backward[::-1], probabilities, atol=1e-5)
    np.testing.assert_allclose(other, probabilities, atol=1e-5)


@pytest.mark.parametrize("threshold", [0, 1])
def test_at_its_ends_it_is_one_of_its_stages(threshold, case, monkeypatch):
    texts, stages, _ = case
    expected = stages[threshold].predict_proba(texts), stages[threshold].predict(texts)
    monkeypatch.setattr(stages[1 - threshold].scorer, "logits", None)  # which is not even asked
    classifier = TextClassifier(Cascade(stages, threshold), stages[0].label_space)
    np.testing.assert_array_equal(classifier.predict_proba(texts), expected[0])
    assert classifier.predict(texts) == expected[1]
    assert set(classifier.score(texts)[1]) == {threshold + 1}


def test_the_second_stage_gets_all_deferred_texts_at_once(case, monkeypatch):
    texts, stages, _ = case
    asked = []
    logits = stages[1].scorer.logits
    monkeypatch.setattr(stages[1].scorer, "logits", lambda given: asked.append(given) or logits(given))
    classifier = TextClassifier(Cascade(stages, in_the_middle(stages[0], texts)), stages[0].label_space)
    _, answered = classifier.score(texts)
    assert asked == [[text for text, stage in zip(texts, answered) if stage == 2]]


def test_texts_that_are_empty_or_alone(case):
    texts, stages, _ = case
    classifier = TextClassifier(Cascade(stages, in_the_middle(stages[0], texts)), stages[0].label_space)
    probabilities, answered = classifier.score([None, *texts, " "], empty="keep")
    assert answered[[0, -1]].tolist() == [0, 0]
    assert np.isnan(probabilities[[0, -1]]).all()
    np.testing.assert_array_equal(probabilities[1:-1], classifier.predict_proba(texts))
    assert classifier.predict([None, *texts], empty="keep") == [None, *classifier.predict(texts)]
    assert classifier.predict_proba([]).shape == (0, 3)
    assert classifier.score(texts[0])[1] in (1, 2)
    with pytest.raises(ValueError, match="takes a list of texts"):
        classifier.scorer.logits("the cat")


def test_saved_and_loaded_it_is_what_was_measured(case, tmp_path):
    texts, stages, folder = case
    saved = Path(shutil.copytree(folder / "cascade", tmp_path / "moved"))
    run, metrics = Run.read(saved), read_json(saved / "metrics.json")
    assert 0 < run.cascade_threshold < 1
    assert metrics["cascade"]["fitted"]["threshold"] == run.cascade_threshold
    assert 0 < metrics["cascade"]["fitted"]["deferred"] <= 0.5
    loaded = TextClassifier.from_pretrained(saved, batch_size=4)
    probabilities, answered = loaded.score(texts)
    beside, answered_beside = TextClassifier(Cascade(stages, run.cascade_threshold), run.label_space).score(texts)
    np.testing.assert_array_equal(answered, answered_beside)
    np.testing.assert_array_equal(probabilities, beside)
    results = read_results(saved, run.label_space)
    np.testing.assert_allclose(probabilities, results.probabilities, atol=1e-6)
    np.testing.assert_array_equal(run.label_space.encode_batch(loaded.predict(texts)), results.predicted)
    assert metrics["cascade"]["test"]["deferred"] == (answered == 2).mean()
    assert not {"metrics.json", "predictions.parquet"} & {path.name for path in (saved / "members").rglob("*")}


def test_the_card_and_what_is_printed_say_what_it_keeps_and_costs(case):
    _, _, folder = case
    card = " ".join((folder / "cascade" / "README.md").read_text().split())
    test = read_json(folder / "cascade" / "metrics.json")["cascade"]["test"]
    assert "# A cascade of two classifiers of text" in card
    assert f"On test: {test['deferred']:.1%} went on" in card
    assert f"| second | instruction-based | a local checkpoint | 160 | {test['deferred']:.1%} |" in card
    assert "not calibrated" not in card
    assert str(folder) not in card
    shown = repr(TextClassifier.from_pretrained(folder / "cascade"))
    assert "embedding-based answers from a margin of 0." in shown


def test_a_stage_in_bfloat16_answers_as_it_does_alone(made):
    data, folder = made[False]
    texts, labels = data.texts("test"), data.label_space
    first = TextClassifier.from_pretrained(folder / "embedding")
    second = TextClassifier.from_pretrained(folder / "instruction", dtype="bfloat16")
    probabilities, answered = TextClassifier(Cascade([first, second], 0.3), labels).score(texts)
    rest = [text for text, stage in zip(texts, answered) if stage == 2]
    np.testing.assert_array_equal(probabilities[answered == 2], second.predict_proba(rest))
    turned, _ = TextClassifier(Cascade([second, first], 1), labels).score(texts)
    np.testing.assert_array_equal(turned, first.predict_proba(texts))


def test_a_row_of_a_multi_label_cascade_is_decided_by_the_stage_that_answered(made):
    _, folder = made[True]
    classifier = TextClassifier.from_pretrained(folder / "cascade")
    rows = np.array([[0.1, 0.5, 0.7], [0.1, 0.5, 0.7]], dtype=np.float32)
    names = classifier.labels
    assert classifier.decide(rows, np.array([1, 2])) == [[names[2]], [names[0], names[1]]]
    with pytest.raises(ValueError, match="different thresholds: give decide the stages"):
        classifier.decide(rows)


def test_where_it_is_not_sure_is_that_of_the_stage_that_answered(case, tmp_path):
    texts, stages, folder = case
    shutil.copytree(folder / "cascade", tmp_path / "cascade")
    labels = 3 if stages[0].label_space.multi_label else 1
    threshold = in_the_middle(stages[0], texts)
    rows = TextClassifier(Cascade(stages, threshold), stages[0].label_space).predict_proba(texts)
    limits = (0.6, 0.7, 0.8) if labels == 3 else (in_the_widest_gap(rows.max(axis=1)),)
    fitted = {"abstention": Abstention(0.2, limits), "cascade_threshold": threshold}
    replace(Run.read(folder / "cascade"), **fitted).write(tmp_path / "cascade")
    classifier = TextClassifier.from_pretrained(tmp_path / "cascade", batch_size=4)
    found, expected = classifier.predict(texts, abstain=True), []
    for text, stage in zip(texts, classifier.score(texts)[1], strict=True):
        alone = stages[stage - 1]
        row, answer = alone.predict_proba(text), alone.predict(text)
        if labels == 1:
            expected.append(answer if row.max() >= limits[0] else None)
            continue
        sure = [(p if name in answer else 1 - p) >= limit for name, p, limit in zip(alone.labels, row, limits)]
        expected.append({name: name in answer if known else None for name, known in zip(alone.labels, sure)})
    assert found == expected
    said = [value for each in expected for value in (each.values() if labels == 3 else [each])]
    assert None in said
    assert set(said) != {None}


def test_its_target_error_is_fitted_through_the_door_that_its_users_take(case, tmp_path):
    _, stages, folder = case
    multi_label = stages[0].label_space.multi_label
    rows = {"test": make_rows(*SIZES["test"], multi_label), "validation": make_rows(*SIZES["validation"], multi_label)}
    paths = {f"{name}_file": write_jsonl(tmp_path / f"{name}.jsonl", each) for name, each in rows.items()}
    train = write_jsonl(tmp_path / "train.jsonl", make_rows(*SIZES["train"], multi_label))
    data = load_data(DataArguments(**paths, train_file=train, multi_label=multi_label))
    places = (folder / "embedding", folder / "instruction")
    job = Job(tmp_path / "cascade", places, data, Rule(max_deferred=0.5), "macro", 4, target_error=0.75)
    metrics = make_cascade(job)["abstention"]
    classifier = TextClassifier.from_pretrained(tmp_path / "cascade", batch_size=4)
    answers = classifier.predict(data.texts("test"), abstain=True)
    sure = [list(each.values()) if multi_label else [each] for each in answers]
    shares = np.mean([[value is not None for value in row] for row in sure], axis=0)
    np.testing.assert_allclose([each["coverage"] for each in metrics["test"]], shares)
    assert shares.max() > 0
    assert "arget_error 0.75: " in (tmp_path / "cascade" / "README.md").read_text()


def test_a_combination_may_be_a_stage(made, tmp_path):
    data, folder = made[False]
    combined = tmp_path / "combined"
    for name in ("embedding", "instruction"):
        shutil.copytree(folder / name, combined / "members" / name)
    weights = {"embedding": 0.5, "instruction": 0.5}
    about = (data.label_space, Truncation(None), Calibration(1.5), BaseModel(None), "1")
    Run("combination", *about, members=weights, training={}).write(combined)
    job = Job(tmp_path / "cascade", (folder / "embedding", combined), data, Rule(max_deferred=1.0), "macro", 16)
    make_cascade(job)
    replace(Run.read(tmp_path / "cascade"), cascade_threshold=1.0).write(tmp_path / "cascade")
    expected = TextClassifier.from_pretrained(combined).predict_proba(data.texts("test"))
    shutil.rmtree(combined)
    found = TextClassifier.from_pretrained(tmp_path / "cascade").predict_proba(data.texts("test"))
    np.testing.assert_array_equal(found, expected)


def test_what_is_published_holds_both_stages_and_no_local_path(case, checkpoint, tmp_path):
    texts, _, folder = case
    (tmp_path / "aside").mkdir()
    stage_run(folder / "cascade", tmp_path / "aside", "me/cascade", ("me/base", None))
    names = {path.relative_to(tmp_path / "aside").as_posix() for path in (tmp_path / "aside").rglob("*")}
    assert {f"members/{name}/adapter_model.safetensors" for name in ("first", "second")} <= names
    for path in (path for path in (tmp_path / "aside").rglob("*") if path.is_file()):
        assert str(checkpoint).encode() not in path.read_bytes(), path
        assert str(folder).encode() not in path.read_bytes(), path
    for name in ("first", "second"):
        shutil.copy(
            folder / "cascade" / "members" / name / "adapter_config.json", tmp_path / "aside" / "members" / name
        )
    expected = TextClassifier.from_pretrained(folder / "cascade").score(texts)
    for one, other in zip(TextClassifier.from_pretrained(tmp_path / "aside").score(texts), expected):
        np.testing.assert_array_equal(one, other)


def test_its_threshold_and_its_members_are_part_of_what_it_is(made, tmp_path):
    saved = Path(shutil.copytree(made[False][1] / "cascade", tmp_path / "cascade"))
    before = identify_run(saved)
    assert {name.split(":")[0] for name in before} >= {"first", "second", "classification.json"}
    replace(Run.read(saved), cascade_threshold=0.99).write(saved)
    after = identify_run(saved)
    assert {name for name in before if before[name] != after[name]} == {"classification.json"}


def test_what_makes_no_cascade_is_named(case):
    _, (first, second), _ = case
    other = TextClassifier(first.scorer, LabelSpace(["a", "b", "c"], multi_label=first.label_space.multi_label))
    kind = TextClassifier(first.scorer, LabelSpace(first.labels, multi_label=not first.label_space.multi_label))
    whole = TextClassifier(Cascade([first, second], 0.5), first.label_space)
    moved = TextClassifier(first.scorer, first.label_space)
    moved._prior_ratio = np.ones(3)
    for stages, threshold, said in (
        ([first], 0.5, "has two stages, the cheap one first; got 1"),
        ([first, second, second], 0.5, "got 3"),
        ([first, other], 0.5, "different labels"),
        ([first, kind], 0.5, "multi-label, the second|single-label, the second"),
        ([whole, second], 0.5, "is a cascade itself"),
        ([moved, second], 0.5, "give target_prior to the cascade"),
        ([first, second], 1.5, "threshold must be from 0"),
        ([first, second], float("nan"), "threshold must be from 0"),
    ):
        with pytest.raises(ValueError, match=said):
            Cascade(stages, threshold)


def test_a_first_stage_that_gives_no_numbers_is_told_of(case, monkeypatch):
    texts, stages, _ = case
    logits = stages[0].scorer.logits(texts)
    logits[3, 0] = np.nan
    monkeypatch.setattr(stages[0].scorer, "logits", lambda given: logits)
    with pytest.raises(ValueError, match=r"no numbers \(NaN\) for 1 of 21 texts; the first are at \[3\]"):
        TextClassifier(Cascade(stages, 0.5), stages[0].label_space).predict(texts)


@pytest.mark.parametrize(
    ("entry", "value", "said"),
    [
        ("cascade_threshold", 1.5, "a number from 0 to 1"),
        ("cascade_threshold", None, r"lacks \['cascade_threshold'\]"),
        ("members", {"first": 1.0}, "in place of"),
    ],
)
def test_a_damaged_cascade_is_told_of(entry, value, said, made, tmp_path):
    saved = Path(shutil.copytree(made[False][1] / "cascade", tmp_path / "cascade"))
    data = {**read_json(saved / "classification.json"), entry: value}
    (saved / "classification.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=said):
        TextClassifier.from_pretrained(saved)


def test_what_a_cascade_does_not_do_is_named(made):
    folder = made[False][1] / "cascade"
    with pytest.raises(ValueError, match="leave calibrated out"):
        TextClassifier.from_pretrained(folder, calibrated=False)
    classifier = TextClassifier.from_pretrained(folder, target_prior="uniform")
    assert classifier.predict(["the cat"])
    with pytest.raises(ValueError, match="Only the instruction-based approach generates"):
        classifier.generate("the cat")
    with pytest.raises(ValueError, match="has none"):
        classifier.predict("the cat", abstain=True)
