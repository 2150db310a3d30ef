"""Runs that an earlier version trained, kept in tests/golden/runs; make_runs.py there says how they were made."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from hf_causal_clf import TextClassifier
from hf_causal_clf.sharing.card import render_card

GOLDEN = Path(__file__).parent.parent / "golden" / "runs"
NAMES = ("embedding", "embedding_verbalizer", "instruction")


@pytest.fixture
def earlier(monkeypatch):
    """The folder of the runs, as the working folder: the path of their base model is relative to it."""
    monkeypatch.chdir(GOLDEN)
    return json.loads((GOLDEN / "expected.json").read_text())


@pytest.mark.parametrize("kind", ["calibrated", "uncalibrated"])
@pytest.mark.parametrize("name", NAMES)
def test_an_earlier_run_predicts_the_same(name, kind, earlier):
    classifier = TextClassifier.from_pretrained(name, calibrated=kind == "calibrated")
    assert classifier.labels == ["business", "sport", "tech"]
    found = classifier.predict_proba(earlier["texts"])
    np.testing.assert_allclose(found, earlier[kind][name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_an_earlier_run_has_a_card(name, earlier, tmp_path):
    shutil.copytree(name, tmp_path / "run")
    card = render_card(tmp_path / "run")
    assert card.data.pipeline_tag == "text-classification"
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    assert f"| Macro F1 | {metrics['f1_macro']:.3f} |" in str(card)
