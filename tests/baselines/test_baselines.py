"""The baselines of a comparison, against what each is by hand."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_rows, write_jsonl
from sklearn.metrics import f1_score
from tiny import make_causal_lm, save_encoder
from transformers import AutoModelForCausalLM, TrainerCallback

from hf_causal_clf import LabelScorer
from hf_causal_clf.backbone import identity as features
from hf_causal_clf.baselines import encoder_training as encoder
from hf_causal_clf.baselines import fitting as baselines
from hf_causal_clf.baselines.encoder_training import fine_tuned_encoder
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.splits import load_data
from hf_causal_clf.embedding import frozen_features
from hf_causal_clf.embedding.arguments import EmbeddingModelArguments
from hf_causal_clf.embedding.reading import readings
from hf_causal_clf.evaluation.calibration import to_probabilities
from hf_causal_clf.training.arguments import PromptArguments
from hf_causal_clf.training.train import train

EARLY = [{"text": "match football", "label": "film"}] * 2  # its label is the second of four


@pytest.fixture(scope="module")
def single(files):
    return load_data(DataArguments(**files))


@pytest.fixture(scope="module")
def multi(multi_label_files):
    return load_data(DataArguments(**multi_label_files, multi_label=True))


@pytest.fixture
def data(request, single, multi):
    return {"single": single, "multi": multi}[request.param]


both = pytest.mark.parametrize("data", ["single", "multi"], indirect=True)


@pytest.fixture(scope="module")
def without_film(files, tmp_path_factory):
    """Documents of four labels, of which the training documents in use have three."""
    folder = tmp_path_factory.mktemp("film")
    rows = {"train": make_rows(48), "validation": [*make_rows(15, 100), *EARLY], "test": make_rows(17, 200)}
    paths = {f"{split}_file": write_jsonl(folder / f"{split}.jsonl", part) for split, part in rows.items()}
    everything = load_data(
        DataArguments(**{**paths, "train_file": write_jsonl(folder / "all.jsonl", [*rows["train"], *EARLY])})
    )
    everything.splits["train"] = everything.splits["train"].select(range(48))
    assert everything.label_space.names == ("business", "film", "sport", "tech")
    return everything


def model_arguments(checkpoint, **settings):
    return EmbeddingModelArguments(model_name_or_path=checkpoint, dtype="float32", **settings)


def prompt(data):
    arguments = PromptArguments()
    return {"template": arguments.template(128, "tail"), "verbalizer": arguments.verbalizer(data.label_space)}


def forbid(monkeypatch, *names):
    def fail(*args, **kwargs):
        raise AssertionError("computed again")

    for name in names:
        monkeypatch.setattr(f"hf_causal_clf.{name}", fail)


def raw(outcome, data):
    """Uncalibrated probabilities of each split."""
    multi_label = data.label_space.multi_label
    return {split: to_probabilities(matrix, multi_label=multi_label) for split, matrix in outcome.logits.items()}


def check_shape(outcome, data):
    assert set(outcome.logits) == {"validation", "test"}
    for split, matrix in raw(outcome, data).items():
        assert matrix.shape == (len(data.splits[split]), len(data.label_space))
        assert matrix.dtype == np.float32
        assert np.isfinite(matrix).all()
        assert (matrix >= 0).all()
        assert (matrix <= 1).all()
        if not data.label_space.multi_label:
            np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-5)
    assert outcome.training["peak_memory_bytes"] > 0


def right(data, probabilities):
    """Share of test documents whose most probable label is gold."""
    gold, best = data.gold("test"), probabilities.argmax(axis=1)
    return np.mean(gold == best if gold.ndim == 1 else gold[np.arange(len(gold)), best])


@both
def test_majority_gives_the_training_frequencies(data):
    outcome = baselines.majority(data)
    check_shape(outcome, data)
    labels = [label if isinstance(label, list) else [label] for label in data.splits["train"]["label"]]
    shares = [sum(name in each for each in labels) / len(labels) for name in data.label_space.names]
    for matrix in raw(outcome, data).values():
        np.testing.assert_allclose(matrix, np.tile(shares, (len(matrix), 1)), atol=1e-6)
    assert outcome.training["trainable_parameters"] == 0


def test_tfidf_learns_the_task(single):
    outcome = baselines.tfidf(single)
    check_shape(outcome, single)
    assert f1_score(single.gold("test"), outcome.logits["test"].argmax(axis=1), average="macro") > 0.95
    assert outcome.training["trainable_parameters"] % (len(single.label_space)) == 0


def test_tfidf_learns_several_labels(multi):
    outcome = baselines.tfidf(multi)
    check_shape(outcome, multi)
    assert f1_score(multi.gold("test"), outcome.logits["test"] >= 0, average="micro") > 0.7


def test_a_label_without_a_training_document_keeps_its_column(without_film):
    outcome = baselines.tfidf(without_film)
    check_shape(outcome, without_film)
    film = without_film.label_space.index("film")
    for matrix in raw(outcome, without_film).values():
        assert (matrix[:, film] == 0).all()
    assert right(without_film, outcome.logits["test"]) > 0.95
    shares = raw(baselines.majority(without_film), without_film)["test"][0]
    np.testing.assert_allclose(shares, [1 / 3, 0, 1 / 3, 1 / 3], atol=1e-6)


def test_several_labels_of_which_one_has_no_training_document(multi, tmp_path, checkpoint):
    names = multi.label_space.names
    rows = [row for row, labels in enumerate(multi.splits["train"]["label"]) if "sport" not in labels]
    fewer = type(multi)(multi.label_space, {**multi.splits, "train": multi.splits["train"].select(rows)}, {})
    limits = {"max_length": 32, "truncation": "tail", "batch_size": 8, "cache": tmp_path}
    for outcome in (baselines.tfidf(fewer), baselines.frozen(fewer, model_arguments(checkpoint), **limits)):
        check_shape(outcome, fewer)
        found = raw(outcome, fewer)["test"]
        assert (found[:, names.index("sport")] == 0).all()
        assert (found[:, names.index("tech")] > 0).all()


@both
def test_zero_shot_is_the_label_scorer_and_is_computed_once(data, checkpoint, tokenizer, tmp_path, monkeypatch):
    options = {"batch_size": 4, "cache": tmp_path / "cache"}
    outcome = baselines.zero_shot(data, model_arguments(checkpoint), **prompt(data), **options)
    check_shape(outcome, data)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    wording = prompt(data)
    wording["template"] = wording["template"].reserving(tokenizer, wording["verbalizer"], data.splits["train"]["label"])
    scorer = LabelScorer(model, tokenizer, **wording, batch_size=16)
    for split, matrix in raw(outcome, data).items():
        np.testing.assert_allclose(matrix, scorer.probabilities(data.texts(split)), atol=1e-5)

    # Contextual calibration scores the empty document alone, and no document again
    again = baselines.zero_shot(data, model_arguments(checkpoint), **prompt(data), **options, contextual=True)
    check_shape(again, data)
    prior = scorer.probabilities([""]).astype(np.float64)
    found = raw(outcome, data)["test"].astype(np.float64)
    if data.label_space.multi_label:
        odds = found / (1 - found) / (prior / (1 - prior))
        expected = odds / (1 + odds)
    else:
        expected = found / prior / (found / prior).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(raw(again, data)["test"], expected, atol=1e-4)

    forbid(monkeypatch, "embedding.frozen_features.load_backbone", "baselines.fitting.load_causal_lm")
    for contextual, first in ((False, outcome), (True, again)):
        cached = baselines.zero_shot(
            data, model_arguments(checkpoint), **prompt(data), **options, contextual=contextual
        )
        for split in first.logits:
            np.testing.assert_array_equal(cached.logits[split], first.logits[split])
        assert cached.training["predict_samples_per_second"] == outcome.training["predict_samples_per_second"]


def test_another_prompt_is_scored_anew(single, checkpoint, tmp_path, monkeypatch):
    options = {"batch_size": 8, "cache": tmp_path}
    baselines.zero_shot(single, model_arguments(checkpoint), **prompt(single), **options)
    forbid(monkeypatch, "embedding.frozen_features.load_backbone", "baselines.fitting.load_causal_lm")
    others = [
        PromptArguments(instruction="Which subject of {labels}?"),
        PromptArguments(answers='{"tech": "phones"}'),
        PromptArguments(use_chat_template=True),
    ]
    for arguments in others:
        wording = {"template": arguments.template(128, "tail"), "verbalizer": arguments.verbalizer(single.label_space)}
        with pytest.raises(AssertionError, match="computed again"):
            baselines.zero_shot(single, model_arguments(checkpoint), **wording, **options)
    for limits in ((64, "tail"), (128, "head")):
        wording = {**prompt(single), "template": PromptArguments().template(*limits)}
        with pytest.raises(AssertionError, match="computed again"):
            baselines.zero_shot(single, model_arguments(checkpoint), **wording, **options)


@both
def test_frozen_backbone_with_a_head(data, checkpoint, tmp_path, monkeypatch):
    limits = {"max_length": 32, "truncation": "tail", "batch_size": 8, "cache": tmp_path}
    outcome = baselines.frozen(data, model_arguments(checkpoint), **limits)
    check_shape(outcome, data)
    assert right(data, outcome.logits["test"]) > 0.6
    assert outcome.training["trainable_parameters"] == (32 + 1) * len(data.label_space)
    forbid(monkeypatch, "embedding.frozen_features.load_backbone", "baselines.fitting.load_causal_lm")
    again = baselines.frozen(data, model_arguments(checkpoint), **limits)
    for split in outcome.logits:
        np.testing.assert_array_equal(again.logits[split], outcome.logits[split])
    assert again.training["predict_samples_per_second"] == outcome.training["predict_samples_per_second"]


def test_frozen_head_keeps_the_columns(without_film, checkpoint, tmp_path):
    limits = {"max_length": 32, "truncation": "tail", "batch_size": 8, "cache": tmp_path}
    outcome = baselines.frozen(without_film, model_arguments(checkpoint), **limits)
    check_shape(outcome, without_film)
    assert (raw(outcome, without_film)["test"][:, without_film.label_space.index("film")] == 0).all()
    assert right(without_film, outcome.logits["test"]) > 0.6


def test_features_are_cached_by_content(single, checkpoint, tokenizer, files, tmp_path, monkeypatch):
    model = Path(shutil.copytree(checkpoint, tmp_path / "model"))
    limits = {"max_length": 32, "truncation": "tail", "batch_size": 8, "cache": tmp_path / "cache"}
    computed = []
    real = frozen_features.pooled_features

    def counting(backbone, documents, texts, **options):
        computed.append(len(texts))
        return real(backbone, documents, texts, **options)

    monkeypatch.setattr(frozen_features, "pooled_features", counting)

    suffixes = len({reading.suffix for reading in readings("auto", "auto")})  # each has a pass of its own
    whole = [count for count in (48, 15, 17) for _ in range(suffixes)]

    def frozen(data=single, model=model, dtype="float32", **changes):
        computed.clear()
        baselines.frozen(data, EmbeddingModelArguments(model_name_or_path=str(model), dtype=dtype), **limits | changes)
        return list(computed)

    assert frozen() == whole
    assert frozen() == []
    assert frozen(batch_size=3) == []
    assert frozen(max_length=31) == whole
    assert frozen(truncation="head") == whole
    assert frozen(dtype="bfloat16") == whole
    other = write_jsonl(tmp_path / "test.jsonl", [*make_rows(16, 200), {"text": "another", "label": "tech"}])
    assert frozen(load_data(DataArguments(**{**files, "test_file": other}))) == [17] * suffixes
    (model / "model.safetensors").touch()
    assert frozen() == []  # the same content
    moved = Path(shutil.move(model, tmp_path / "moved"))
    assert frozen(model=moved) == []
    changed = make_causal_lm("llama", len(tokenizer))
    with torch.no_grad():
        changed.model.norm.weight += 1
    size = (moved / "model.safetensors").stat().st_size
    changed.save_pretrained(moved)
    assert (moved / "model.safetensors").stat().st_size == size
    assert frozen(model=moved) == whole


def test_fingerprint():
    assert features.fingerprint({"a": 1, "b": [1, 2]}) == features.fingerprint({"b": [1, 2], "a": 1})
    assert features.fingerprint({"a": [1, 2]}) != features.fingerprint({"a": [2, 1]})
    assert features.fingerprint({"a": "1"}) != features.fingerprint({"a": 1})


@pytest.fixture(scope="module")
def bert(tokenizer, tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("bert"), tokenizer)


def train_encoder(data, bert, output, **settings):
    settings = {"max_length": 32, "learning_rate": 5e-3, "num_train_epochs": 6, "batch_size": 8, "seed": 42} | settings
    return fine_tuned_encoder(data, bert, output_dir=output, **settings)


@both
def test_encoder_learns_and_leaves_no_checkpoint(data, bert, tmp_path):
    outcome = train_encoder(data, bert, tmp_path / "run")
    check_shape(outcome, data)
    assert right(data, outcome.logits["test"]) > 0.6
    assert outcome.training["steps"] == 36
    assert outcome.training["trainable_parameters"] == outcome.training["total_parameters"]
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_encoder_is_the_same_with_a_seed_and_another_with_another(single, bert, tmp_path):
    first, same, other = (
        train_encoder(single, bert, tmp_path / f"{index}", seed=seed, num_train_epochs=1).logits["test"]
        for index, seed in enumerate((1, 1, 2))
    )
    np.testing.assert_array_equal(first, same)
    assert not np.allclose(first, other, atol=1e-3)


def test_encoder_reads_no_more_than_it_can(single, bert, tmp_path):
    texts = {**single.splits, "test": single.splits["test"].map(lambda row: {"text": row["text"] + " cat" * 200})}
    long = type(single)(single.label_space, texts, {})
    outcome = train_encoder(long, bert, tmp_path / "run", max_length=512, num_train_epochs=1)
    check_shape(outcome, long)


def test_encoder_goes_on_from_a_checkpoint(single, bert, tmp_path, monkeypatch):
    whole = train_encoder(single, bert, tmp_path / "whole")

    class Interrupt(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            if state.global_step == 12:
                raise KeyboardInterrupt

    def interrupted(trainer):
        trainer.add_callback(Interrupt())
        return train(trainer)

    monkeypatch.setattr(encoder, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_encoder(single, bert, tmp_path / "run")
    assert list((tmp_path / "run").glob("checkpoint-12"))

    started = []

    class Watch(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            started.append(state.global_step)

    def watched(trainer):
        trainer.add_callback(Watch())
        return train(trainer)

    monkeypatch.setattr(encoder, "train", watched)
    outcome = train_encoder(single, bert, tmp_path / "run")
    assert started == [12]
    assert outcome.training["steps"] == whole.training["steps"]
    np.testing.assert_allclose(raw(outcome, single)["test"], raw(whole, single)["test"], atol=1e-4)
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_encoder_that_diverges_is_named(single, bert, tmp_path):
    with pytest.raises(ValueError, match=r"encoder.*diverged.*encoder_learning_rate"):
        train_encoder(single, bert, tmp_path / "run", learning_rate=1e38, num_train_epochs=1)
