"""A combination as a finished run: of both approaches and of baselines, moved, pushed, and predicted with."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import hub_client
import numpy as np
import pytest
from conftest import make_rows, run_as_main, write_jsonl
from hub_server import HubServer
from huggingface_hub import HfApi
from pyarrow import parquet
from safetensors.numpy import load_file, save_file
from test_classifier import save_folder
from tiny import save_encoder

from hf_causal_clf import TextClassifier, combining
from hf_causal_clf.backbone.identity import identify_run
from hf_causal_clf.combining import Candidate, Job, combine_runs
from hf_causal_clf.comparison import registry
from hf_causal_clf.comparison.arguments import ComparisonArguments
from hf_causal_clf.comparison.running import write_baseline
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.splits import load_data
from hf_causal_clf.evaluation.combination import Verdict, member_scores
from hf_causal_clf.evaluation.significance import Interval
from hf_causal_clf.runs.files import read_json
from hf_causal_clf.runs.results import read_results
from hf_causal_clf.runs.run import Run
from hf_causal_clf.sharing.hub import push_run
from hf_causal_clf.training.arguments import PromptArguments

ROOT = Path(__file__).parents[1]
SIZES = {"train": (48, 0), "validation": (60, 100), "test": (17, 200)}
WEIGHTS = {"embedding": 0.5, "instruction": 0.25, "frozen": 0.75, "tfidf": 0.125}  # encoder: 0
TITLES = {"tfidf": "TF-IDF + logistic regression"}
BASE, REPO = "alice/tiny-base", "alice/many"
BETTER = Verdict(Interval(-0.2, -0.3, -0.1), 0.9, 0.8)


def documents(folder: Path, multi_label: bool):
    paths = {
        f"{split}_file": write_jsonl(folder / f"{split}.jsonl", make_rows(*size, multi_label))
        for split, size in SIZES.items()
    }
    return load_data(DataArguments(**paths, multi_label=multi_label))


def candidates(folder: Path, data, checkpoint: str, bert: str) -> list[Candidate]:
    """A run of each kind: the two approaches with random adapters, baselines fitted to the documents."""
    arguments = ComparisonArguments(
        output_dir=str(folder),
        model_name_or_path=checkpoint,
        encoder_name_or_path=bert,
        encoder_num_train_epochs=1,
        dtype="float32",
        max_length=24,
        cache_dir=str(folder / "cache"),
    )
    for kind in ("tfidf", "frozen", "encoder"):
        seed = 42 if kind == "encoder" else None
        job = registry.Job(data, arguments, PromptArguments(), seed, folder / kind)
        write_baseline(registry.BASELINES[kind], job)
    for kind in ("embedding", "instruction"):
        save_folder(folder / kind, checkpoint, kind, data.label_space)
        cost = {"trainable_parameters": 7}
        (folder / kind / "metrics.json").write_text(json.dumps({"training": cost}))
    return [Candidate(TITLES.get(kind, kind), kind, folder / kind) for kind in (*WEIGHTS, "encoder")]


@pytest.fixture(scope="module")
def made(checkpoint, tokenizer, tmp_path_factory):
    """For single-label and multi-label documents: the documents, the members' folder and that of the combination."""
    bert, found = save_encoder(tmp_path_factory.mktemp("bert"), tokenizer), {}
    for multi_label in (False, True):
        folder = tmp_path_factory.mktemp("runs")
        data = documents(folder, multi_label)
        runs = candidates(folder, data, checkpoint, bert)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(combining, "judge", lambda *arguments, **options: BETTER)
            patch.setattr(combining, "fit_weights", lambda *arguments: np.array([*WEIGHTS.values(), 0.0]))
            combine_runs(Job(folder / "all", folder / "all.json", "mark", runs, data, "macro", 4, target_error=0.3))
        found[multi_label] = data, folder, folder / "all"
    return found


each = pytest.mark.parametrize("multi_label", [False, True], ids=["single", "multi"])


@each
def test_it_is_the_weighted_sum_of_its_members(multi_label, made):
    data, folder, combined = made[multi_label]
    texts, expected = data.texts("test"), 0.0
    for name, weight in WEIGHTS.items():
        member = TextClassifier.from_pretrained(folder / name)
        temperature = member.calibration.temperature or 1.0
        scores = member_scores(member.scorer.logits(texts), multi_label=multi_label, temperature=temperature)
        expected = expected + weight * scores
    classifier = TextClassifier.from_pretrained(combined, batch_size=4)
    found = classifier.scorer.logits(texts)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-4)
    results = read_results(combined, data.label_space)
    np.testing.assert_allclose(classifier.predict_proba(texts), results.probabilities, atol=1e-5)
    np.testing.assert_array_equal(data.label_space.encode_batch(classifier.predict(texts)), results.predicted)
    other = TextClassifier.from_pretrained(combined, batch_size=1).predict_proba(texts[::-1])[::-1]
    np.testing.assert_allclose(other, results.probabilities, atol=1e-4)
    assert classifier.predict_proba([]).shape == (0, 3)
    assert classifier.approach == "combination"
    assert (classifier.calibration.thresholds is not None) == multi_label
    with pytest.raises(ValueError, match="Only the instruction-based approach generates"):
        classifier.generate(texts)


@each
def test_its_target_error_holds_through_the_door_that_its_users_take(multi_label, made):
    data, _, combined = made[multi_label]
    found = read_json(combined / "metrics.json")["abstention"]
    answers = TextClassifier.from_pretrained(combined).predict(data.texts("test"), abstain=True)
    sure = np.array([list(each.values()) if multi_label else [each] for each in answers], dtype=object) != np.array(
        None
    )
    np.testing.assert_allclose([each["coverage"] for each in found["test"]], sure.mean(axis=0))
    assert sure.any()
    assert found["found"][0]["documents"] == SIZES["validation"][0]


@each
def test_it_holds_all_that_it_needs(multi_label, made, tmp_path):
    data, folder, combined = made[multi_label]
    expected = read_results(combined, data.label_space).probabilities
    moved = tmp_path / "moved"
    shutil.copytree(combined, moved)
    hidden = folder.rename(folder.with_name(f"{folder.name}-away"))
    try:
        found = TextClassifier.from_pretrained(moved).predict_proba(data.texts("test"))
    finally:
        hidden.rename(folder)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert {path.name for path in (moved / "members").iterdir()} == set(WEIGHTS)  # the encoder has no weight
    files = {path.name for path in (moved / "members").rglob("*") if path.is_file()}
    assert not files & {"metrics.json", "predictions.parquet", "README.md", "report.html", "manifest.json"}
    assert {path.suffix for path in moved.rglob("*") if path.is_file()} <= {
        *(".html", ".json", ".safetensors", ".jinja", ".md", ".parquet", ".png", ".svg")
    }


@each
def test_a_member_that_is_trained_again_leaves_it_as_it_is(multi_label, made, tmp_path):
    """Its files are not those of the member's folder, even where they are the same on disk."""
    _, folder, combined = made[multi_label]
    copied = combined / "members" / "embedding" / "adapter_model.safetensors"
    before = copied.read_bytes()
    own = shutil.copytree(folder / "embedding", tmp_path / "own", copy_function=shutil.copy2)
    weights = load_file(own / "adapter_model.safetensors")
    save_file({name: weight + 1 for name, weight in weights.items()}, own / "new.safetensors")
    (own / "new.safetensors").replace(folder / "embedding" / "adapter_model.safetensors")  # as a run is put in place
    try:
        assert copied.read_bytes() == before
    finally:
        shutil.copy(own / "adapter_model.safetensors", folder / "embedding" / "adapter_model.safetensors")


@each
def test_its_card(multi_label, made):
    _, folder, combined = made[multi_label]
    card = (combined / "README.md").read_text()
    assert "# 4 classifiers of text in one" in card
    rows = [
        line for line in card.splitlines() if line.startswith(("| frozen", "| embedding", "| instruction", "| tfidf"))
    ]
    assert [row.split("|")[1].strip() for row in rows[:4]] == ["frozen", "embedding", "instruction", "tfidf"]
    assert rows[0].split("|")[-2].strip() == "46%"
    assert "a local checkpoint" in rows[1]
    assert "library_name: hf_causal_clf" in card
    assert "- combination" in card
    assert "`vocabulary.json`" in card
    assert str(folder) not in card


def test_what_was_decided_is_noted(made):
    _, folder, _ = made[False]
    decision = read_json(folder / "all.json")
    assert decision["kept"] is True
    assert decision["mark"] == "mark"
    assert decision["weights"] == {"frozen": 0.75, "embedding": 0.5, "instruction": 0.25, TITLES["tfidf"]: 0.125}
    assert decision["documents"] == 60
    metrics = read_json(folder / "all" / "metrics.json")
    assert metrics["training"]["trainable_parameters"] > 14  # those of the adapters, and of the fitted heads
    assert metrics["training"]["predict_samples_per_second"] > 0
    assert metrics.keys() == {"validation", "test", "calibration", "majority", "training", "abstention"}


def test_a_combination_that_is_no_better_is_not_saved(made, tmp_path):
    data, folder, _ = made[False]
    runs = [Candidate(kind, kind, folder / kind) for kind in ("tfidf", "frozen")]  # both make no mistake
    combine_runs(Job(tmp_path / "two", tmp_path / "two.json", "m", runs, data, "macro", 8))
    decision = read_json(tmp_path / "two.json")
    assert decision["kept"] is False
    assert decision["f1"] == decision["best_f1"] == 1.0
    assert not (tmp_path / "two").exists()


def damaged(combined: Path, what: str) -> str:
    member = combined / "members" / "frozen"
    if what == "missing":
        shutil.rmtree(member)
        return "lacks its member 'frozen'"
    if what == "other labels":
        run = Run.read(member)
        space = type(run.label_space)(list(run.label_space.names)[::-1])
        replace(run, label_space=space).write(member)
        return "The member 'frozen' of .* has other labels"
    if what == "itself":
        shutil.copy(combined / "classification.json", member / "classification.json")
        return "lacks its member"
    entries = read_json(combined / "classification.json")
    entries["members"] = {"outside": {"../frozen": 0.5}, "weight": {"frozen": -1}, "none": None}[what]
    (combined / "classification.json").write_text(json.dumps(entries))
    return "members"


@pytest.mark.parametrize("what", ["missing", "other labels", "itself", "outside", "weight", "none"])
def test_a_damaged_combination_is_told_of(what, made, tmp_path):
    combined = shutil.copytree(made[False][2], tmp_path / "combined")
    message = damaged(combined, what)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        TextClassifier.from_pretrained(combined)


def test_documents_are_predicted_with_it(made, tmp_path, monkeypatch):
    data, folder, combined = made[True]
    output = tmp_path / "predicted"
    words = ["--model_name_or_path", combined, "--test_file", folder / "test.jsonl", "--output_dir", output]
    monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, words), "--shard_size", "6"])
    run_as_main(ROOT / "recipes" / "predict.py")
    rows = parquet.read_table(output).to_pylist()
    results = read_results(combined, data.label_space)
    found = np.array([[row["probabilities"][name] for name in data.label_space.names] for row in rows])
    np.testing.assert_allclose(found, results.probabilities, atol=1e-4)


def test_members_are_part_of_what_it_is(made, tmp_path):
    combined = shutil.copytree(made[False][2], tmp_path / "combined")
    before = identify_run(combined)
    assert identify_run(combined) == before
    for name, file in (("embedding", "adapter_model"), ("tfidf", "head")):
        path = combined / "members" / name / f"{file}.safetensors"
        save_file({key: value * 2 for key, value in load_file(path).items()}, path)
        after = identify_run(combined)
        assert after.keys() == before.keys()
        assert {key for key in after if after[key] != before[key]} == {f"{name}: {file}.safetensors"}
        before = after
    assert any("base model" in key for key in before)


def test_it_is_not_exported(made, monkeypatch, tmp_path):
    words = ["--model_name_or_path", made[False][2], "--output_dir", tmp_path / "exported"]
    monkeypatch.setattr(sys, "argv", ["export.py", *map(str, words)])
    with pytest.raises(SystemExit, match="is a combination of runs: no stock class"):
        run_as_main(ROOT / "recipes" / "export.py")


@each
def test_pushed_it_loads_from_the_hub(multi_label, made, checkpoint, tmp_path):
    data, folder, combined = made[multi_label]
    texts = data.texts("test")
    with HubServer() as server, hub_client.using(server, tmp_path / "home", server.token):
        HfApi().create_repo(BASE)
        HfApi().upload_folder(repo_id=BASE, folder_path=checkpoint)
        with pytest.raises(ValueError, match="The base model is a local folder"):
            push_run(combined, REPO)
        assert push_run(combined, REPO, base_model=BASE) == REPO
        shutil.rmtree(tmp_path / "home")
        names = set(server.files(REPO))
        assert {f"members/{name}/classification.json" for name in WEIGHTS} <= names
        for secret in (str(folder), checkpoint, "text_column", server.token):
            assert not server.find(secret), secret
        found = TextClassifier.from_pretrained(REPO).predict_proba(texts)
        np.testing.assert_allclose(found, read_results(combined, data.label_space).probabilities, atol=1e-4)
        assert {"commit", "embedding: base model"} <= identify_run(REPO).keys()
    assert Run.read(combined / "members" / "embedding").base_model.name_or_path == checkpoint
