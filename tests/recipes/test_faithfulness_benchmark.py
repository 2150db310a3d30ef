"""The measurement of explanations: it goes on where it stopped, and its integrated gradients are captum's."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_jsonl
from test_classifier import LABELS, save_folder

from hf_causal_clf import LabelSpace, TextClassifier

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

from benchmarks import faithfulness

TEXTS = [
    "The football match won. Shares in the bank fell as markets kept busy! A new film about computers. The cat",
    "Cat. A cat sat on a mat. Business in the middle east. Politics and phones won the prize for sport. A mat.",
    "cat",
]


@pytest.fixture(scope="module", params=[False, True], ids=["single", "multi"])
def run(request, checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured") / "run"
    save_folder(folder, checkpoint, "embedding", LabelSpace(LABELS.names, multi_label=request.param))
    return folder


def test_it_measures_each_document_once(run, tmp_path, capsys):
    file = write_jsonl(tmp_path / "documents.jsonl", [{"text": text} for text in TEXTS])
    words = ["--model_name_or_path", str(run), "--test_file", file, "--output", str(tmp_path / "found" / "rows.jsonl")]
    faithfulness.main([*words, "--max_test_samples", "2", "--dtype", "float32"])
    output = tmp_path / "found" / "rows.jsonl"
    half = output.read_text()
    assert len(half.splitlines()) == 3  # settings before the rows
    output.write_text(half[: half.rstrip().rfind("\n") + 30])  # killed while the last row was written
    faithfulness.main([*words, "--dtype", "float32"])
    rows = [json.loads(line) for line in output.read_text().splitlines()[1:]]
    assert output.read_text().startswith("".join(half.splitlines(keepends=True)[:2]))
    assert sorted(row["row"] for row in rows) == [0, 1, 2]
    measured = [row for row in rows if row["falls"] is not None]
    assert [row["row"] for row in rows if row["falls"] is None] == [2]
    assert {np.shape(row["falls"]) for row in measured} == {(3, 5)}
    assert {row["passes"] for row in measured} == {5, 6}  # the whole text beside each of its sentences
    said = capsys.readouterr().out
    assert "2 of 3 documents have two parts that are read; 4.5 on average" in said
    area = np.mean([row["falls"][1] for row in measured])
    assert f"integrated gradients: AOPC {area:.4f}" in said
    with pytest.raises(SystemExit, match="was begun with"):
        faithfulness.main([*words, "--dtype", "bfloat16"])


def test_integrated_gradients_sum_to_the_change_of_the_log_odds(run):
    classifier = TextClassifier.from_pretrained(run, dtype="float32", batch_size=3)
    explanation = classifier.explain(TEXTS[0])
    found = faithfulness.integrated_gradients(classifier, explanation, 30)
    assert found.shape == (4,)
    odds = np.log(explanation.probability) - np.log1p(-explanation.probability)
    model, encoder = classifier.scorer.model, classifier.scorer.encoder
    changed = torch.tensor([token < 0 for token in encoder.fit([-1] * len(encoder.whole_ids(TEXTS[0])))])
    ids = torch.tensor(encoder.encode(TEXTS[0])).masked_fill(
        changed, encoder.tokenizer("\n", add_special_tokens=False)["input_ids"][-1]
    )
    with torch.no_grad():
        start = faithfulness.log_odds(classifier, explanation.label)(model.backbone.get_input_embeddings()(ids[None]))
    assert found.sum() == pytest.approx(odds - float(start), rel=0.02)
    assert np.abs(found).min() > 1e-5


def test_integrated_gradients_are_those_of_captum(run):
    attr = pytest.importorskip("captum.attr")
    classifier = TextClassifier.from_pretrained(run, dtype="float32", batch_size=4)
    explanation = classifier.explain(TEXTS[0])
    ids = classifier.scorer.encoder.encode(TEXTS[0])
    changed = np.arange(len(ids)) > 1
    found = faithfulness.token_gradients(classifier, ids, changed, explanation, 10)
    embed = classifier.scorer.model.backbone.get_input_embeddings()
    reference = torch.tensor(ids)
    reference[torch.from_numpy(changed)] = classifier.scorer.encoder.tokenizer("\n", add_special_tokens=False)[
        "input_ids"
    ][-1]
    inputs, baselines = (embed(each[None]).detach() for each in (torch.tensor(ids), reference))
    gradients = attr.IntegratedGradients(faithfulness.log_odds(classifier, explanation.label))
    expected = gradients.attribute(inputs, baselines=baselines, n_steps=10, internal_batch_size=5)
    np.testing.assert_allclose(found, expected.sum(dim=-1)[0].numpy(), atol=1e-4)
    assert np.abs(found).max() > 0.01
