"""The benchmark: its helpers, and the recipe on a tiny model."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import write_splits

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "recipes"))

from benchmarks import scoring, timing, utilisation, whole_runs  # noqa: E402
from benchmarks.setting import Setting, label_names, mixed_texts  # noqa: E402

FIELDS = {"ratio", "target", "direction", "met", "pairs", "spread", "seconds", "work"}


@pytest.fixture(scope="module")
def news(tmp_path_factory):
    folder = tmp_path_factory.mktemp("news")
    for name, file in write_splits(folder, multi_label=False).items():
        os.replace(file, folder / f"{name.removesuffix('_file')}.jsonl")
    return folder


@pytest.fixture
def setting(checkpoint, news, tmp_path):
    return Setting(checkpoint, news, tmp_path, documents=4, batch_size=3, dtype="float32")


def test_sides_run_in_turn_after_a_warm_up():
    calls = []
    found = timing.interleave(lambda pair: calls.append(("a", pair)), lambda pair: calls.append(("b", pair)), 3)
    pairs = [("a", None), ("b", None), ("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert calls == pairs
    assert len(found.ours) == len(found.other) == 3


def test_ratio_is_the_median_of_the_pairs():
    found = timing.Measurement([1.0, 1.0, 2.0], [20.0, 30.0, 50.0])
    result = timing.row("S1", found, documents=3)
    assert result["ratio"] == 25.0  # of 20, 30 and 25; the ratio of the medians is 30
    assert result["met"]
    assert result["spread"] == [20.0, 30.0]
    cost = timing.row("S3", timing.Measurement([1.4, 1.0, 1.2], [1.0, 1.0, 1.0]))
    assert cost["ratio"] == 1.2
    assert cost["met"]
    assert not timing.reached(1.31, 1.3, "at most")
    assert not timing.reached(19.9, 20.0, "at least")


def test_label_names():
    names = label_names(1000)
    assert len(set(names)) == 1000
    assert names[:20] == label_names(20)
    assert len({name.split()[0] for name in names[:100]}) == 100
    with pytest.raises(ValueError, match="1000 label names"):
        label_names(1001)


def test_mixed_texts_without_the_shared_folder(setting):
    texts, source = mixed_texts(setting, 40)
    assert len(texts) == 40
    assert source.startswith("pieces")
    assert texts == mixed_texts(setting, 40)[0]


def test_one_forward_a_label_is_label_scoring(setting):
    documents = scoring.texts(setting, 5)
    scorer = scoring.label_scorer(setting, 6, 12)
    np.testing.assert_allclose(scoring.forward_a_label(scorer, documents), scorer.log_probs(documents), atol=1e-3)


def test_documents_are_cut_at_the_length_of_the_row(setting):
    scorer = scoring.label_scorer(setting, 6, 12)
    assert scorer.encoder.document_budget == 12


def test_whole_runs_are_judged_on_documents_that_neither_side_saw(setting):
    found = whole_runs.whole_run(replace(setting, pairs=1))
    assert found["pairs"] == 1
    assert found["work"]["held_out"] > 0
    scores = found["work"]["f1_macro"]
    assert found["work"]["difference"]["value"] == pytest.approx(scores["ours"]["value"] - scores["other"]["value"])


def test_operations_are_grouped():
    assert utilisation.group_of("addmm") == "matrix products"
    assert utilisation.group_of("mul_") == "norms and activations"
    assert utilisation.group_of("_scaled_dot_product_flash_attention_for_cpu_backward") == "attention"
    shares = utilisation.group_shares({"aten::mm": 3.0, "Optimizer.step": 1.0})
    assert shares["matrix products"] == 0.75
    assert sum(shares.values()) == 1.0


def run(*options):
    command = [sys.executable, "recipes/benchmark.py", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_recipe_writes_table_and_json(checkpoint, news, tmp_path):
    output = tmp_path / "results.json"
    options = {
        "only": "S1,S2,S9,S13",
        "model_name_or_path": checkpoint,
        "news": news,
        "output": output,
        "documents": 2,
        "pairs": 1,
        "threads": 1,
        "dtype": "float32",
    }
    found = run(*[part for name, value in options.items() for part in (f"--{name}", str(value))])
    assert found.returncode == 0, found.stderr
    results = json.loads(output.read_text())
    assert set(results) == {"about", "S1", "S2", "S9", "S13"}
    for name in ("S1", "S2", "S9", "S13"):
        assert set(results[name]) == FIELDS
        assert results[name]["ratio"] > 0
        assert f"| {name} |" in found.stdout
    assert results["S1"]["work"]["largest_difference"] < 1e-3
    assert {"date", "versions", "threads", "model"} <= set(results["about"])


def test_recipe_says_what_is_missing(tmp_path):
    found = run("--news", str(tmp_path), "--only", "S1")
    assert found.returncode != 0
    assert "recipes/quickstart.py --prepare_only" in found.stderr
    assert "unknown rows" in run("--only", "S99").stderr


def test_growth_is_measured_and_drawn(setting, tmp_path, monkeypatch):
    from benchmarks import growth

    monkeypatch.setattr(growth, "LENGTHS", (16, 32))
    monkeypatch.setattr(growth, "COUNTS", (2, 4))
    monkeypatch.setattr(growth, "LABELS", (2, 6))
    monkeypatch.setattr(growth, "BATCHES", (1, 2))
    monkeypatch.setattr(utilisation, "SIZES", (64,))
    found = dict(growth.measure_growth(setting, tmp_path / "figures"))
    assert [point["size"] for point in found["document_length"]["training"]] == [16, 32]
    assert all(point["seconds"] > 0 for kinds in found["labels"].values() for point in kinds)
    for work in found["utilisation"]["work"].values():
        assert work["share_of_peak"] > 0
        assert sum(work["shares"].values()) == pytest.approx(1)
    for name in ("growth", "utilisation"):
        assert (tmp_path / "figures" / f"{name}.png").is_file()
        assert (tmp_path / "figures" / f"{name}.svg").is_file()
