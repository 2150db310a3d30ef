"""A head that starts from a logistic regression on frozen features."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SUBJECTS, write_jsonl
from scipy.special import expit, logit, softmax
from sklearn.linear_model import LogisticRegression
from test_head_rate import weights
from test_recipes import arguments as command
from test_recipes import run as run_recipe
from test_recipes import run_two
from test_train import RUN_FILES, embedding_arguments

from hf_causal_clf import TextClassifier
from hf_causal_clf.backbone.loading import load_backbone
from hf_causal_clf.backbone.settings import base_weights
from hf_causal_clf.embedding import probe
from hf_causal_clf.embedding import trainer as trainers
from hf_causal_clf.embedding.arguments import HeadArguments
from hf_causal_clf.embedding.features import features_of, pooled_features
from hf_causal_clf.embedding.head_init import read_output_embeddings, suffix_head
from hf_causal_clf.embedding.probe import probe_head
from hf_causal_clf.embedding.scorer import HeadScorer
from hf_causal_clf.embedding.trainer import embedding_trainer
from hf_causal_clf.evaluation.calibration import fit_temperature, to_probabilities
from hf_causal_clf.evaluation.metrics import negative_log_likelihood
from hf_causal_clf.task.documents import DocumentEncoder
from hf_causal_clf.training import train as training_module
from hf_causal_clf.training.arguments import RunArguments
from hf_causal_clf.training.train import prepare, train

SUFFIX = "\n\nTopic:"


def cloud(count=90, labels=3, width=40):
    """Features around a common mean, as hidden states are, some of them large, and labels that they tell in part."""
    draw = np.random.default_rng(0)
    gold = np.arange(count) % labels
    centres = draw.normal(size=(labels, width))
    features = 0.35 * centres[gold] + draw.normal(size=(count, width)) + 3.0
    return (features * np.where(np.arange(width) < 3, 200.0, 1.0)).astype(np.float32), gold


def several(gold, labels=3):
    """0/1 labels, some documents with none or two of them."""
    has = np.eye(labels, dtype=np.int64)[gold]
    has[::7] = 0
    has[::5, 0] = 1
    return has


def probabilities(features, weight, gold):
    logits = features.astype(np.float64) @ weight.T
    return expit(logits) if gold.ndim == 2 else softmax(logits, axis=1)


@pytest.mark.parametrize("kind", ["single", "two labels", "multi"])
def test_the_head_is_the_regression(kind, monkeypatch):
    monkeypatch.setattr(probe, "STRENGTHS", (0.3,))
    features, gold = cloud(labels=2 if kind == "two labels" else 3)
    gold = several(gold) if kind == "multi" else gold
    labels = gold.shape[1] if kind == "multi" else gold.max() + 1
    scaled = features / features.std(axis=0)

    def fitted(target):
        strength = 0.6 if kind == "two labels" else 0.3  # one row there stands for two, of half its length each
        return LogisticRegression(C=strength, fit_intercept=False, max_iter=5000, tol=1e-8).fit(scaled, target)

    if kind == "multi":
        expected = np.stack([fitted(column).predict_proba(scaled)[:, 1] for column in gold.T], axis=1)
    else:
        expected = fitted(gold).predict_proba(scaled)
    weight = probe_head(features, gold, labels)
    assert weight.dtype == np.float32
    logits = features @ weight.T
    varying = logits if kind == "multi" else logits - logits.mean(axis=1, keepdims=True)
    assert varying.std() == pytest.approx(probe.SPREAD, rel=1e-3)
    whole = logit(expected) if kind == "multi" else np.log(expected) - np.log(expected).mean(axis=1, keepdims=True)
    np.testing.assert_allclose(varying * whole.std() / probe.SPREAD, whole, atol=0.05)  # but for its length


def test_the_strength_is_that_for_documents_that_were_not_seen():
    features, gold = cloud(count=240)
    seen, unseen = np.arange(240) < 60, np.arange(240) >= 60

    def best(weight):
        logits = features[unseen].astype(np.float64) @ weight.T
        tempered = to_probabilities(logits, multi_label=False, temperature=fit_temperature(gold[unseen], logits))
        return negative_log_likelihood(gold[unseen], tempered)

    scaled = features / features[seen].std(axis=0)
    loose = LogisticRegression(C=10.0, fit_intercept=False, max_iter=5000).fit(scaled[seen], gold[seen])
    assert best(probe_head(features[seen], gold[seen], 3)) < best(loose.coef_ / features[seen].std(axis=0)) - 0.05


HARD = {
    "a label with one document": np.array([0] * 10 + [1] * 10 + [2]),
    "a label without documents": np.array([0, 1] * 10),
    "two documents": np.array([0, 2]),
    "one label": np.array([1] * 8),
    "several, one for all and one for none": np.array([[1, 0, 1], [1, 0, 0]] * 6),
    "several, one document": np.array([[0, 0, 1]]),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", HARD)
def test_labels_that_are_hard_to_fit(case):
    gold = HARD[case]
    features, _ = cloud(count=len(gold))
    features[:, 5] = 7.0  # the same for all
    weight = probe_head(features, gold, 3)
    assert weight.shape == (3, 40)
    assert np.isfinite(weight).all()
    assert np.abs(features @ weight.T).max() < 100
    unseen = ~gold.any(axis=0) if gold.ndim == 2 else ~np.isin(np.arange(3), gold)
    assert (probabilities(features, weight, gold)[:, unseen] <= (0.5 if gold.ndim == 2 else 1 / 3)).all()


@pytest.mark.parametrize("multi", [False, True])
def test_what_the_language_model_knows_is_worth_documents(multi):
    features, gold = cloud(count=1200)
    gold = several(gold) if multi else gold
    few, unseen = np.arange(1200) < 15, np.arange(1200) >= 600
    knows = probe_head(features[~unseen], gold[~unseen], 3)

    def score(answers):
        logits = features[unseen].astype(np.float64) @ probe_head(features[few], gold[few], 3, answers=answers).T
        temperature = fit_temperature(gold[unseen], logits)
        tempered = to_probabilities(logits, multi_label=multi, temperature=temperature)
        return negative_log_likelihood(gold[unseen], tempered)

    assert score(10 * knows) < score(None) - 0.04
    astray = np.random.default_rng(1).normal(size=knows.shape) * np.abs(knows).mean()
    assert score(astray) < score(None) + 0.05  # the documents say what the answers are worth


def test_a_regression_without_documents_to_speak_of_is_the_answers(monkeypatch):
    monkeypatch.setattr(probe, "STRENGTHS", (1e-12,))
    monkeypatch.setattr(probe, "SHARES", (0.5,))
    features, gold = cloud()
    answers = np.random.default_rng(0).normal(size=(3, 40))
    weight = probe_head(features, gold, 3, answers=answers)
    np.testing.assert_allclose(weight / np.linalg.norm(weight), answers / np.linalg.norm(answers), atol=1e-4)


def untrained(checkpoint, folder, files, pooling="last", suffix=None, head_init="probe", model=None, **training):
    data, model_arguments, arguments = embedding_arguments(checkpoint, folder, files, **training)
    for name, value in (model or {}).items():
        setattr(model_arguments, name, value)
    tokenizer = prepare(model_arguments, arguments)
    encoder = DocumentEncoder(tokenizer, 32, suffix=suffix)
    head, run = HeadArguments(pooling=pooling, head_init=head_init), RunArguments()
    return embedding_trainer(data, tokenizer, encoder, model_arguments, arguments, head, run), data, encoder


def scores(trainer, encoder, data, split="test"):
    scorer = HeadScorer(trainer.accelerator.unwrap_model(trainer.model), trainer.processing_class, encoder)
    logits = scorer.logits(data.texts(split))
    predicted = logits > 0 if data.label_space.multi_label else logits.argmax(axis=1)
    return logits, (predicted == data.gold(split)).mean()


@pytest.fixture(scope="module", params=[False, True], ids=["single", "multi"])
def told(request, tmp_path_factory):
    """Splits of documents whose end tells their label, so that a model with random weights tells it too."""
    folder, names = tmp_path_factory.mktemp("told"), list(SUBJECTS)
    rows = []
    for index in range(90):
        label, other = names[index % 3], names[(index + 1) % 3]
        both = request.param and index % 2
        text = f"{index} the cat {SUBJECTS[other][1] if both else ''} {SUBJECTS[label][index // 3 % 3]}"
        rows.append({"text": text, "label": ([label, other] if both else [label]) if request.param else label})
    parts = {"train": rows[:48], "validation": rows[48:60], "test": rows[60:]}
    files = {f"{split}_file": write_jsonl(folder / f"{split}.jsonl", part) for split, part in parts.items()}
    return {**files, "multi_label": request.param}


@pytest.mark.parametrize(
    ("pooling", "suffix", "model"),
    [
        ("last", None, {}),
        ("last", SUFFIX, {}),
        ("mean", None, {"use_peft": False}),
        ("last", None, {"load_in_4bit": True, "dtype": "bfloat16"}),
    ],
)
def test_a_start_is_the_head_on_frozen_features(pooling, suffix, model, told, checkpoint, tmp_path):
    files = told
    trainer, data, encoder = untrained(checkpoint, tmp_path, files, pooling, suffix, model=model)
    _, model_arguments, _ = embedding_arguments(checkpoint, tmp_path, files)
    for name, value in model.items():
        setattr(model_arguments, name, value)
    backbone = load_backbone(checkpoint, base_weights(model_arguments))
    train_features, features = (
        pooled_features(backbone, encoder, data.texts(split), batch_size=8)[pooling] for split in ("train", "test")
    )
    answers = None
    if suffix:
        answers = suffix_head(
            read_output_embeddings(checkpoint), encoder.tokenizer, suffix, data.label_space.names
        ).numpy()
    expected = features @ probe_head(train_features, data.gold("train"), 3, answers=answers, seed=42).T
    logits, right = scores(trainer, encoder, data)
    atol = 0.05 if model.get("load_in_4bit") else 1e-3
    np.testing.assert_allclose(logits, expected, atol=atol)
    assert np.ptp(logits, axis=0).min() > 0.1
    by_chance, _, _ = untrained(checkpoint, tmp_path, files, pooling, suffix, "random", model)
    assert right > 0.6
    assert right > scores(by_chance, encoder, data)[1] + 0.1
    loss, chance = (each.evaluate()["eval_loss"] for each in (trainer, by_chance))
    assert loss < chance - 0.03


def test_documents_beyond_the_limit_are_not_looked_at(checkpoint, files, tmp_path, monkeypatch):
    looked = []

    def noting(backbone, documents, **options):
        looked.extend(documents)
        return features_of(backbone, documents, **options)

    monkeypatch.setattr(trainers, "features_of", noting)
    monkeypatch.setattr(trainers, "DOCUMENTS", 30)
    _, data, encoder = untrained(checkpoint, tmp_path, files)
    assert len(looked) == 30
    known = [encoder.chunks(text) for text in data.texts("train")]
    assert all(document in known for document in looked)


def test_a_resumed_run_looks_at_nothing_and_ends_as_the_uninterrupted_one(checkpoint, files, tmp_path, monkeypatch):
    options = {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 6, "eval_steps": 6}
    options |= {"num_train_epochs": 2, "head_learning_rate": 1e-3, "load_best_model_at_end": False}
    whole, _, _ = untrained(checkpoint, tmp_path, files, **options)
    train(whole)
    monkeypatch.setattr(trainers, "features_of", lambda *args, **kwargs: pytest.fail("computed again"))
    resumed, _, _ = untrained(
        checkpoint, tmp_path, files, **options, resume_from_checkpoint=str(tmp_path / "checkpoint-6")
    )
    train(resumed)
    torch.testing.assert_close(weights(resumed), weights(whole), rtol=0.0, atol=0.0)


def test_sharded_weights_are_refused_before_the_model_is_loaded(checkpoint, files, tmp_path, monkeypatch):
    monkeypatch.setattr(trainers, "sharding", lambda arguments: "FSDP")
    monkeypatch.setattr(trainers, "load_with_head", lambda *args, **kwargs: pytest.fail("loaded"))
    with pytest.raises(ValueError, match="head_init probe is not possible with FSDP"):
        untrained(checkpoint, tmp_path, files)


def options(**extra):
    return {"head_init": "probe", "pooling": "last", "document_suffix": "none", "num_train_epochs": "1", **extra}


def test_a_saved_run_predicts_as_the_model_that_was_trained(checkpoint, files, tmp_path, monkeypatch):
    trained = {}

    def train_and_keep(trainer, settings):
        metrics = train(trainer, settings)
        logits = trainer.predict(trainer.eval_dataset).predictions
        trained["logits"] = logits[np.argsort(trainer.compute_metrics.order)]
        return metrics

    monkeypatch.setattr(training_module, "train", train_and_keep)
    run_recipe("embed", command("embed", checkpoint, files, tmp_path / "run", **options()), monkeypatch)
    assert {path.name for path in (tmp_path / "run").iterdir()} == RUN_FILES
    saved = json.loads((tmp_path / "run" / "classification.json").read_text())
    assert (saved["head_init"], saved["pooling"], saved["prompt_template"]) == ("probe", "last", None)
    classifier = TextClassifier.from_pretrained(tmp_path / "run", calibrated=False)
    texts = [json.loads(line)["text"] for line in Path(files["validation_file"]).read_text().splitlines()]
    np.testing.assert_allclose(classifier.predict_proba(texts), softmax(trained["logits"], axis=1), atol=1e-4)
    assert "AutoPeftModelForSequenceClassification" in (tmp_path / "run" / "README.md").read_text()


def test_two_processes_start_and_end_as_one(checkpoint, files, tmp_path, monkeypatch):
    run_recipe("embed", command("embed", checkpoint, files, tmp_path / "one", **options()), monkeypatch)
    half = options(per_device_train_batch_size="4")
    done = run_two("embed", command("embed", checkpoint, files, tmp_path / "two", **half))
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    for split in ("validation", "test"):
        assert two[split] == pytest.approx(one[split], abs=5e-3)


def test_the_default_start_is_a_probe_unless_the_model_is_sharded(checkpoint, files, tmp_path, monkeypatch):
    by_default = untrained(checkpoint, tmp_path, files, suffix=SUFFIX, head_init="auto")[0]
    asked_for = untrained(checkpoint, tmp_path, files, suffix=SUFFIX, head_init="probe")[0]
    by_chance = untrained(checkpoint, tmp_path, files, suffix=SUFFIX, head_init="random")[0]
    found = [head_of(each) for each in (by_default, asked_for, by_chance)]
    torch.testing.assert_close(found[0], found[1], rtol=0.0, atol=0.0)
    assert not torch.allclose(found[0], found[2])
    arguments = by_default.args
    assert HeadArguments().start(arguments) == "probe"
    monkeypatch.setattr("hf_causal_clf.embedding.arguments.sharding", lambda arguments: "FSDP")
    assert HeadArguments().start(arguments) == "random"
    assert HeadArguments(head_init="verbalizer").start(arguments) == "verbalizer"


def head_of(trainer):
    return trainer.model.base_model.model.score.modules_to_save["default"].weight.detach()
