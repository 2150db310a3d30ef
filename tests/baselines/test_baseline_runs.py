"""Baselines as finished runs: saved without a pickle, loaded again with the same probabilities."""

import json
import pickle
import pickletools
import shutil
import subprocess
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
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from tiny import save_encoder
from transformers import pipeline

from hf_causal_clf import TextClassifier
from hf_causal_clf.backbone.identity import identify_run
from hf_causal_clf.baselines import fitting
from hf_causal_clf.baselines.linear import LinearHead
from hf_causal_clf.comparison.arguments import ComparisonArguments
from hf_causal_clf.comparison.registry import BASELINES, Job
from hf_causal_clf.comparison.running import write_baseline
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.splits import load_data
from hf_causal_clf.evaluation.calibration import to_probabilities
from hf_causal_clf.runs.files import MANIFEST_FILE
from hf_causal_clf.runs.results import read_results
from hf_causal_clf.runs.run import Run
from hf_causal_clf.sharing.hub import push_run
from hf_causal_clf.training.arguments import PromptArguments

ROOT = Path(__file__).parents[2]
KINDS = ("tfidf", "frozen", "encoder")
WEIGHTS = {
    "tfidf": {"head.safetensors", "vocabulary.json"},
    "frozen": {"head.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"},
    "encoder": {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"},
}
BATCH = 4
SIZES = {"train": (48, 0), "validation": (60, 100), "test": (17, 200)}


def documents(folder: Path, multi_label: bool):
    """Enough validation documents to calibrate on."""
    paths = {
        f"{split}_file": write_jsonl(folder / f"{split}.jsonl", make_rows(*size, multi_label))
        for split, size in SIZES.items()
    }
    return load_data(DataArguments(**paths, multi_label=multi_label))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return {multi_label: documents(tmp_path_factory.mktemp("documents"), multi_label) for multi_label in (False, True)}


@pytest.fixture(scope="module")
def write(checkpoint, tokenizer, tmp_path_factory):
    """Writes the run of a baseline on documents into a folder."""
    bert = save_encoder(tmp_path_factory.mktemp("bert"), tokenizer)

    def write(kind, data, folder, parameters=None, **changes):
        arguments = ComparisonArguments(
            output_dir=str(folder),
            model_name_or_path=checkpoint,
            encoder_name_or_path=bert,
            encoder_learning_rate=5e-3,
            encoder_num_train_epochs=1,
            max_length=24,
            per_device_eval_batch_size=BATCH,
            cache_dir=str(folder / "cache"),
            **changes,
        )
        seed = 42 if kind == "encoder" else None
        write_baseline(BASELINES[kind], Job(data, arguments, PromptArguments(), seed, folder / kind, parameters or {}))
        return folder / kind

    return write


@pytest.fixture(scope="module")
def runs(data, write, tmp_path_factory):
    """The folder of each kind of run, on single-label and on multi-label documents."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        (kind, multi_label): write(kind, data[multi_label], folder / str(multi_label))
        for kind in KINDS
        for multi_label in (False, True)
    }


each = pytest.mark.parametrize("multi_label", [False, True], ids=["single", "multi"])
kinds = pytest.mark.parametrize("kind", KINDS)


@each
@kinds
def test_a_loaded_run_gives_the_saved_predictions(kind, multi_label, runs, data):
    """The language model of the frozen one is in bfloat16."""
    folder, documents = runs[kind, multi_label], data[multi_label]
    results = read_results(folder, documents.label_space)
    classifier = TextClassifier.from_pretrained(folder, batch_size=16 if kind == "encoder" else BATCH)
    texts = documents.texts("test")
    found = classifier.predict_proba(texts)
    np.testing.assert_allclose(found, results.probabilities, atol=1e-6)
    decided = documents.label_space.encode_batch(classifier.predict(texts))
    np.testing.assert_array_equal(decided, results.predicted)
    assert classifier.approach == kind
    assert classifier.calibration.temperature is not None
    assert (classifier.calibration.thresholds is None) != multi_label
    plain = TextClassifier.from_pretrained(folder, calibrated=False).predict_proba(texts)
    assert np.abs(plain - found).max() > 1e-4


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("tfidf", {"longest_ngram": 3, "min_df": 2, "sublinear_tf": False, "strength": 30.0}),
        ("tfidf", {"longest_ngram": 1}),
        ("frozen", {"pooling": "last", "document_suffix": "\n\nTopic:", "strength": 3.0}),
        ("frozen", {"pooling": "mean", "document_suffix": "\n\nTopic:"}),
        ("frozen", {"pooling": "mean", "document_suffix": None}),
    ],
)
def test_a_tuned_baseline_is_loaded_with_what_was_tuned(kind, parameters, data, write, tmp_path):
    folder, documents = write(kind, data[False], tmp_path, parameters), data[False]
    classifier = TextClassifier.from_pretrained(folder, batch_size=BATCH)
    found = classifier.predict_proba(documents.texts("test"))
    np.testing.assert_allclose(found, read_results(folder, documents.label_space).probabilities, atol=1e-6)
    if kind == "frozen":
        run = Run.read(folder)
        assert (run.pooling, run.document_suffix) == (parameters["pooling"], parameters["document_suffix"])


@each
@kinds
def test_order_and_batch_change_nothing(kind, multi_label, runs, data):
    texts = data[multi_label].texts("test")
    whole, single = (
        TextClassifier.from_pretrained(runs[kind, multi_label], batch_size=size, dtype="float32") for size in (16, 1)
    )
    expected = whole.predict_proba(texts)
    np.testing.assert_allclose(single.predict_proba(texts[::-1])[::-1], expected, atol=1e-5)
    np.testing.assert_allclose(single.predict_proba(texts[3]), expected[3], atol=1e-5)
    assert whole.predict_proba([]).shape == (0, 3)
    with pytest.raises(ValueError, match="a list of texts"):
        whole.scorer.logits("one text")


@each
@kinds
def test_the_files_of_a_run(kind, multi_label, runs):
    folder = runs[kind, multi_label]
    files = {path.name for path in folder.iterdir() if path.is_file()}
    assert files == WEIGHTS[kind] | {
        *("report.html", "classification.json", "metrics.json", "predictions.parquet", "README.md", "manifest.json")
    }
    assert (folder / "figures" / "reliability_diagram.png").is_file()
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"figures"}
    assert not [path for path in folder.rglob("*") if path.is_file() and is_pickle(path.read_bytes())]
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in folder.rglob("*") if path.is_file())
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics.keys() == {"validation", "test", "calibration", "majority", "training"}


def is_pickle(content: bytes) -> bool:
    try:
        return bool(list(pickletools.genops(content))) or content[:2] == b"PK"  # as torch has it
    except Exception:  # of the parser, of any kind
        return content[:2] == b"PK"


def test_a_pickle_is_known():
    assert is_pickle(pickle.dumps({"a": np.zeros(2)}))
    assert not is_pickle(b'{"a": 1}')


@each
def test_tfidf_is_scikit_learns_exactly(multi_label, runs, data):
    documents = data[multi_label]
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    features = vectorizer.fit_transform(documents.texts("train"))
    folder = runs["tfidf", multi_label]
    scorer = TextClassifier.from_pretrained(folder).scorer
    texts = [*documents.texts("test"), "Größe, 価格 — THE THE the match", "no_word_of_these"]
    expected = vectorizer.transform(texts)
    found = scorer.vectorizer.transform(texts)
    assert (found != expected).nnz == 0
    likely = []
    for strength in fitting.STRENGTHS:
        head = LogisticRegression(C=strength, max_iter=1000)
        head = OneVsRestClassifier(head) if multi_label else head
        head.fit(features, documents.gold("train"))
        likely.append(np.abs(head.decision_function(expected) - scorer.logits(texts)).max())
    assert min(likely) < 1e-6
    assert sorted(likely)[1] > 1e-2  # with another C it is another head


@pytest.mark.parametrize("gold", ["two", "three of four", "several", "constant"])
def test_a_linear_head_is_the_classifier_it_was_taken_from(gold, tmp_path):
    draw = np.random.default_rng(0)
    features = (draw.normal(size=(60, 5)) * 40 + 1000 * np.arange(5)).astype(np.float32)
    mean, spread = features.mean(axis=0), features.std(axis=0)
    scaled = (features - mean) / spread
    labels = draw.integers(0, {"two": 2}.get(gold, 3), size=60)
    classifier = LogisticRegression(max_iter=2000)
    if gold in ("several", "constant"):
        marks = np.eye(3, dtype=int)[labels]
        if gold == "constant":
            marks = np.stack([marks[:, 0], np.zeros(60, dtype=int), np.ones(60, dtype=int)], axis=1)
        classifier = OneVsRestClassifier(classifier).fit(scaled, marks)
        expected = np.stack([part.predict_proba(scaled)[:, 1] for part in classifier.estimators_], axis=1)
        number = 3
    else:
        labels = labels + (labels > 0) if gold == "three of four" else labels  # label 1 has no document
        number = int(labels.max()) + 1
        classifier.fit(scaled, labels)
        expected = np.zeros((60, number))
        expected[:, classifier.classes_] = classifier.predict_proba(scaled)
    head = LinearHead.of(classifier, number)
    (tmp_path / "run").mkdir()
    head.of_unscaled(mean, spread).save(tmp_path / "run", more=np.arange(3))
    loaded, others = LinearHead.load(str(tmp_path / "run"), number)
    multi_label = gold in ("several", "constant")
    for each_head, given in ((head, scaled), (loaded, features)):
        logits = each_head.logits(given)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(to_probabilities(logits, multi_label=multi_label), expected, atol=1e-6)
    assert list(others) == ["more"]
    fitted = {"two": 1, "three of four": 3, "several": 3, "constant": 1}[gold]
    assert head.parameters == fitted * 6


@each
def test_labels_that_training_lacks_are_kept(multi_label, data, write, tmp_path):
    documents = data[multi_label]
    rows = [row for row, labels in enumerate(documents.splits["train"]["label"]) if "sport" not in labels]
    fewer = replace(documents, splits={**documents.splits, "train": documents.splits["train"].select(rows)})
    sport = documents.label_space.index("sport")
    for kind in ("tfidf", "frozen"):
        folder = write(kind, fewer, tmp_path, dtype="float32")
        found = TextClassifier.from_pretrained(folder, batch_size=BATCH).predict_proba(documents.texts("test"))
        np.testing.assert_allclose(found, read_results(folder, documents.label_space).probabilities, atol=1e-6)
        assert (found[:, sport] == 0).all()
        assert "It saw no training document with `sport`." in (folder / "README.md").read_text()


def test_two_labels(write, tmp_path):
    rows = {split: [row for row in make_rows(*size) if row["label"] != "sport"] for split, size in SIZES.items()}
    paths = {f"{split}_file": write_jsonl(tmp_path / f"{split}.jsonl", part) for split, part in rows.items()}
    two = load_data(DataArguments(**paths))
    assert len(two.label_space) == 2
    for kind in KINDS:
        folder = write(kind, two, tmp_path)
        found = TextClassifier.from_pretrained(folder, batch_size=16 if kind == "encoder" else BATCH)
        saved = read_results(folder, two.label_space).probabilities
        np.testing.assert_allclose(found.predict_proba(two.texts("test")), saved, atol=1e-6)
        assert saved.shape == (len(two.splits["test"]), 2)


@kinds
def test_a_pushed_run_is_loaded_from_the_hub(kind, runs, data, checkpoint, tmp_path, monkeypatch):
    """With the language model of a frozen one on the Hub too, and nothing of the documents but a vocabulary."""
    texts = data[False].texts("test")
    folder = Path(shutil.copytree(runs[kind, False], tmp_path / "run"))
    expected = TextClassifier.from_pretrained(folder, batch_size=BATCH).predict_proba(texts)
    with HubServer() as server, hub_client.using(server, tmp_path / "home", server.token):
        HfApi().create_repo("alice/base")
        HfApi().upload_folder(repo_id="alice/base", folder_path=checkpoint)
        options = {}
        if kind == "frozen":
            with pytest.raises(ValueError, match="The base model is a local folder"):
                push_run(folder, "alice/mine")
            options["base_model"] = "alice/base"
        assert TextClassifier.from_pretrained(folder).push_to_hub("alice/mine", **options) == "alice/mine"
        shutil.rmtree(folder)
        loaded = TextClassifier.from_pretrained("alice/mine", batch_size=BATCH)
        np.testing.assert_allclose(loaded.predict_proba(texts), expected, atol=1e-6)
        files = server.files("alice/mine")
        assert {name for name in files if "/" not in name} == WEIGHTS[kind] | {
            *("classification.json", "metrics.json", "README.md")
        }
        for secret in (str(tmp_path), checkpoint, *texts):
            assert not server.find(secret), secret
        assert ("base_model: alice/base" in files["README.md"].decode()) == (kind == "frozen")
        identity = identify_run("alice/mine")
        assert identity.keys() == ({"base model", "commit"} if kind == "frozen" else {"commit"})


@kinds
def test_predict_py(kind, runs, data, tmp_path, monkeypatch, capsys):
    rows = make_rows(11, 300)
    options = {
        "model_name_or_path": str(runs[kind, False]),
        "test_file": write_jsonl(tmp_path / "documents.jsonl", rows),
        "output_dir": str(tmp_path / "out"),
        "shard_size": "5",
        "per_device_eval_batch_size": "5",
    }
    words = [part for name, value in options.items() for part in (f"--{name}", value)]
    monkeypatch.setattr(sys, "argv", ["predict.py", *words])
    run_as_main(ROOT / "recipes" / "predict.py")
    assert "11 documents are classified" in capsys.readouterr().out
    shards = [parquet.read_table(path).to_pylist() for path in sorted((tmp_path / "out").glob("shard-*.parquet"))]
    classifier = TextClassifier.from_pretrained(runs[kind, False], batch_size=5)
    for shard in range(3):
        texts = [row["text"] for row in rows[5 * shard : 5 * shard + 5]]
        expected = classifier.predict_proba(texts)
        found = [list(row["probabilities"].values()) for row in shards[shard]]
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert [row["predicted"] for row in shards[shard]] == classifier.predict(texts)


def test_another_language_model_in_its_place_is_another_run(data, write, checkpoint, tmp_path):
    """Predictions that were begun with one are not gone on with another."""
    model = Path(shutil.copytree(checkpoint, tmp_path / "model"))
    folder = write("frozen", data[False], tmp_path / "out")
    run = Run.read(folder)
    replace(run, base_model=replace(run.base_model, name_or_path=str(model))).write(folder)
    before = identify_run(folder)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    changed = identify_run(folder)
    assert [name for name in before if before[name] != changed[name]] == ["base model: config.json"]


@pytest.mark.parametrize("kind", ["tfidf", "frozen"])
def test_export_refuses_it(kind, runs, tmp_path, monkeypatch):
    words = ["--model_name_or_path", str(runs[kind, False]), "--output_dir", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["export.py", *words])
    wanted = {
        "tfidf": r"is a TF-IDF and logistic regression: no stock class.*TextClassifier\.from_pretrained",
        "frozen": r"is a frozen language model with a head: no stock class.*TextClassifier\.from_pretrained",
    }
    with pytest.raises(SystemExit, match=wanted[kind]):
        run_as_main(ROOT / "recipes" / "export.py")
    assert not (tmp_path / "out").exists()


@kinds
def test_what_it_prints(kind, runs):
    words = {
        "tfidf": "TF-IDF and logistic regression",
        "frozen": "frozen language model with a head",
        "encoder": "fine-tuned encoder",
    }
    classifier = TextClassifier.from_pretrained(runs[kind, True])
    lines = repr(classifier).splitlines()
    assert lines[0] == f"TextClassifier from {str(runs[kind, True])!r}, {words[kind]}, multi-label"
    assert ("base model" in lines[-1]) == (kind != "tfidf")
    with pytest.raises(ValueError, match="Only the instruction-based approach generates"):
        classifier.generate(["a text"])


@each
def test_the_encoder_is_a_stock_checkpoint(multi_label, runs, data):
    """Its card's snippet, with a pipeline."""
    folder, texts = runs["encoder", multi_label], data[multi_label].texts("test")
    classify = pipeline("text-classification", str(folder), top_k=None)
    expected = TextClassifier.from_pretrained(folder, calibrated=False).predict_proba(texts)
    for found, row in zip(classify(texts, truncation=True, max_length=24), expected, strict=True):
        scores = {each["label"]: each["score"] for each in found}
        np.testing.assert_allclose([scores[name] for name in data[multi_label].label_space.names], row, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "damage", "message"),
    [
        ("tfidf", lambda run: (run / "head.safetensors").unlink(), r"has no head\.safetensors\. Train or download it"),
        ("tfidf", lambda run: (run / "vocabulary.json").unlink(), r"has no vocabulary\.json\. Train or download it"),
        ("tfidf", lambda run: cut(run / "head.safetensors"), r"head\.safetensors is damaged"),
        ("tfidf", lambda run: edit(run, terms=["a", "b"]), r"vocabulary\.json does not fit its run"),
        ("tfidf", lambda run: edit(run, ngram_range=3), r"vocabulary\.json does not fit its run"),
        ("tfidf", lambda run: change(run, bias=np.zeros(4)), "does not fit the 3 labels of its run"),
        ("frozen", lambda run: change(run, bias=np.zeros(4)), "does not fit the 3 labels of its run"),
        (
            "frozen",
            lambda run: change(run, weight=np.zeros((3, 7))),
            r"for 7 hidden units, but .* has 32.*put that back",
        ),
        ("frozen", lambda run: base(run, None), "base model None of .* is not there"),
        ("frozen", lambda run: base(run, "/nowhere/model"), "base model '/nowhere/model' of .* is not there"),
        ("encoder", lambda run: cut(run / "model.safetensors"), r"model\.safetensors is damaged"),
        ("encoder", lambda run: (run / "model.safetensors").unlink(), "but no weights"),
    ],
)
def test_damaged_files_are_named(kind, damage, message, runs, tmp_path):
    run = Path(shutil.copytree(runs[kind, False], tmp_path / "run"))
    damage(run)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        TextClassifier.from_pretrained(run)


def cut(path):
    path.write_bytes(path.read_bytes()[:-50])


def edit(run, **changes):
    path = run / "vocabulary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change(run, **arrays):
    save_file({**load_file(run / "head.safetensors"), **arrays}, run / "head.safetensors")


def base(run, name):
    described = Run.read(run)
    replace(described, base_model=replace(described.base_model, name_or_path=name)).write(run)


def test_a_folder_of_an_earlier_version_is_replaced(data, write, tmp_path):
    """It had results only, without a manifest; somebody's own file there stays."""
    folder = write("tfidf", data[False], tmp_path)
    for path in folder.iterdir():
        if path.name not in ("metrics.json", "predictions.parquet", "figures"):
            path.unlink()
    (folder / "metrics.json").write_text("{}")
    (folder / "notes.txt").write_text("mine")
    write("tfidf", data[False], tmp_path)
    assert TextClassifier.from_pretrained(folder).labels == ["business", "sport", "tech"]
    assert (folder / "notes.txt").read_text() == "mine"
    written = json.loads((folder / MANIFEST_FILE).read_text())["files"]
    assert {"metrics.json", "head.safetensors", "figures/label_f1.png"} <= set(written)
    assert write("majority", data[False], tmp_path).name == "majority"
    assert not (tmp_path / "majority" / "classification.json").exists()


def test_predicting_loads_nothing_of_training(runs):
    code = (
        "import sys\n"
        "from hf_causal_clf import TextClassifier\n"
        "assert not any(name.startswith('hf_causal_clf.baselines') for name in sys.modules)\n"
        "assert 'sklearn' not in sys.modules\n"
        "heavy = ('trl', 'matplotlib', 'datasets', 'evaluate', 'sklearn')\n"
        "for folder in sys.argv[1:]:\n"
        "    TextClassifier.from_pretrained(folder).predict(['the cat', 'a football match'])\n"
        "    print([name for name in heavy if name in sys.modules])"
    )
    folders = [runs[kind, False] for kind in ("frozen", "encoder", "tfidf")]
    done = subprocess.run([sys.executable, "-c", code, *folders], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == ["[]", "[]", "['sklearn']"]
