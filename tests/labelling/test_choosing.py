import json
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from datasets import Dataset

from hf_causal_clf import LabelSpace
from hf_causal_clf.data.splits import ClassificationData
from hf_causal_clf.evaluation.calibration import Calibration
from hf_causal_clf.labelling.choosing import SELECTIONS, choose
from hf_causal_clf.labelling.exporting import write_documents
from hf_causal_clf.labelling.plan import Known, choose_documents

SINGLE = LabelSpace(["a", "b & <c>", "ü"])
MULTI = LabelSpace(SINGLE.names, multi_label=True)


@pytest.fixture(scope="module")
def pool():
    """Four groups of documents, the second of which a head is not sure of."""
    draw = np.random.default_rng(0)
    group = np.repeat(np.arange(4), [100, 60, 60, 10])
    features = draw.normal(size=(4, 6))[group] * 5 + draw.normal(size=(230, 6))
    sure = np.where(group == 1, 0.4 + 0.2 * draw.random(230), 0.95)
    return features, np.column_stack([sure, 1 - sure]), group


@pytest.mark.parametrize("by", SELECTIONS)
@pytest.mark.parametrize("multi_label", [False, True])
def test_as_many_as_are_wanted_each_once_and_the_same_again(pool, by, multi_label):
    features, probabilities, _ = pool
    chosen = choose(features, probabilities, 12, by, multi_label=multi_label)
    assert len(set(chosen.tolist())) == 12
    np.testing.assert_array_equal(chosen, choose(features, probabilities, 12, by, multi_label=multi_label))
    assert sorted(choose(features, probabilities, 999, by, multi_label=multi_label)) == list(range(230))


def test_each_way_chooses_what_it_says(pool):
    features, probabilities, group = pool
    uncertain = choose(features, probabilities, 12, "uncertainty", multi_label=False)
    margin = abs(probabilities[:, 0] - probabilities[:, 1])
    assert sorted(uncertain) == sorted(np.argsort(margin)[:12])
    assert (np.diff(margin[uncertain]) >= 0).all()
    assert set(group[choose(features, probabilities, 12, "diversity", multi_label=False)]) == {0, 1, 2, 3}
    mixed = choose(features, probabilities, 12, "mix", multi_label=False)
    assert set(group[mixed]) == {1}
    spread = [features[rows].std(axis=0).mean() for rows in (mixed, uncertain)]
    assert margin[mixed].mean() > margin[uncertain].mean()
    assert spread[0] > spread[1] * 0.9
    random = [choose(features, probabilities, 12, "random", multi_label=False, seed=seed) for seed in (0, 1)]
    assert set(random[0]) != set(random[1])
    with pytest.raises(ValueError, match="select_by must be one of"):
        choose(features, probabilities, 12, "luck", multi_label=False)


def test_a_document_next_to_a_labels_own_threshold_is_uncertain(tmp_path):
    """As the plan has it: the thresholds that it decides by are those that it chooses by."""
    states = {f"text {row}": np.array([value]) for row, value in enumerate(np.linspace(-4, 4, 81))}
    gold = [[name for name, limit in (("a", 0), ("ü", 0)) if value[0] > limit] for value in states.values()]
    data = ClassificationData(MULTI, {"train": Dataset.from_dict({"text": list(states), "label": gold})}, {})
    features = np.array(list(states.values()))
    known = Known(data, lambda texts: np.array([states[text] for text in texts]), features, 1.0, Calibration())
    for limit in (0.5, 0.02):
        known = replace(known, calibration=Calibration(None, (limit, 0.5, limit)))
        choose_documents(known, list(states), 1, "uncertainty", tmp_path, "a head")
        (row,) = map(json.loads, (tmp_path / "to_label.jsonl").read_text(encoding="utf-8").splitlines())
        assert abs(row["probabilities"]["a"] - limit) < 0.05
        assert (row["probabilities"]["a"] < 0.1) == (limit == 0.02)


def test_documents_that_are_the_same_are_chosen_once_each():
    features = np.zeros((8, 3))
    assert sorted(choose(features, np.full((8, 2), 0.5), 5, "diversity", multi_label=False)) == list(range(5))


@pytest.mark.parametrize("space", [SINGLE, MULTI], ids=["single", "multi"])
def test_files_are_what_the_tools_read(space, tmp_path):
    texts = ['<b>"bold"</b> & more', "zwei\nZeilen"]
    predicted = [["a", "ü"], []] if space.multi_label else ["a", "b & <c>"]
    probabilities = np.array([[0.7, 0.1, 0.6], [0.2, 0.4, 0.1]], dtype=np.float32)
    write_documents(tmp_path, texts, predicted, probabilities, space, "a head")
    plain = [json.loads(line) for line in (tmp_path / "to_label.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    assert [row["text"] for row in plain] == texts
    assert [row["predicted"] for row in plain] == predicted
    assert plain[0]["probabilities"] == pytest.approx({"a": 0.7, "b & <c>": 0.1, "ü": 0.6}, abs=1e-6)

    records = json.loads((tmp_path / "argilla.json").read_text(encoding="utf-8"))
    assert [record["fields"] for record in records] == [{"text": text} for text in texts]
    assert set(records[0]) == {"id", "fields", "metadata", "suggestions", "responses", "vectors"}
    first = records[0]["suggestions"]["label"]
    assert (first["value"], first["agent"]) == (predicted[0], "a head")
    assert first["score"] == pytest.approx([0.7, 0.6] if space.multi_label else 0.7, abs=1e-6)
    assert records[1]["suggestions"] == ({} if space.multi_label else records[1]["suggestions"])

    tasks = json.loads((tmp_path / "label_studio.json").read_text(encoding="utf-8"))
    view = ElementTree.parse(tmp_path / "label_studio.xml").getroot()
    control, shown = view.find("Choices"), view.find("Text")
    assert [choice.get("value") for choice in control] == list(space.names)
    assert control.get("choice") == ("multiple" if space.multi_label else "single")
    assert control.get("toName") == shown.get("name")
    assert [task["data"][shown.get("value")[1:]] for task in tasks] == texts
    (result,) = tasks[0]["predictions"][0]["result"]
    assert (result["from_name"], result["to_name"]) == (control.get("name"), shown.get("name"))
    assert result["type"] == "choices"
    assert result["value"]["choices"] == (["a", "ü"] if space.multi_label else ["a"])
    if space.multi_label:
        assert tasks[1]["predictions"][0]["result"] == []
