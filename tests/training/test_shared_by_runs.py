"""What the runs of a comparison share: nothing but time changes, and only what is the same is shared."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from conftest import make_rows, write_jsonl
from test_frozen_training import TRAINING

from hf_causal_clf.backbone.cache import cached, remove_own, shared_by_runs, shared_folder
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.splits import load_data
from hf_causal_clf.embedding import reading
from hf_causal_clf.embedding import trainer as embedding
from hf_causal_clf.embedding.arguments import EmbeddingModelArguments, EmbeddingTrainingArguments, HeadArguments
from hf_causal_clf.task.documents import DocumentEncoder
from hf_causal_clf.training import frozen
from hf_causal_clf.training.arguments import RunArguments

SHORT = {**TRAINING, "num_train_epochs": 1, "max_steps": 2, "eval_strategy": "no", "disable_tqdm": True}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    sizes = {"train": 45, "validation": 12, "test": 6}
    files = {f"{name}_file": write_jsonl(folder / f"{name}.jsonl", make_rows(size)) for name, size in sizes.items()}
    return load_data(DataArguments(**files))


@pytest.fixture(scope="module")
def model(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return tiny.save_checkpoint(folder, "llama", tokenizer, num_hidden_layers=4)


@pytest.fixture
def computed(monkeypatch):
    """What frozen layers were run for."""
    found = []

    def noting(name, function):
        def call(*args, **kwargs):
            found.append(name)
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(reading, "pooled_features", noting("reading", reading.pooled_features))
    monkeypatch.setattr(embedding, "features_of", noting("probe", embedding.features_of))
    compute = noting("states", frozen.FrozenLayers.compute)

    def computing(self, sequences, batch_size):
        return compute(self, sequences, batch_size) if sequences else iter(())

    monkeypatch.setattr(frozen.FrozenLayers, "compute", computing)
    return found


def run(data, model, tokenizer, output, seed, *, suffix="auto", length=48, **changes):
    """Train as `embed.py` does, and return all trained weights and what an evaluation says."""
    settings = {"dtype": "float32", "lora_r": 4, "lora_dropout": 0.0, "lora_layers": 2, "cache_frozen_layers": True}
    arguments = EmbeddingModelArguments(model_name_or_path=model, **settings | changes)
    limits = {"max_length": length, "truncation": "tail"}
    candidates = reading.readings("auto", suffix)
    chosen = reading.choose_reading(data, tokenizer, arguments, candidates, **limits, batch_size=4)
    training = EmbeddingTrainingArguments(
        output_dir=str(output), seed=seed, per_device_eval_batch_size=4, max_length=length, **SHORT
    )
    trainer = embedding.embedding_trainer(
        data,
        tokenizer,
        DocumentEncoder(tokenizer, length, suffix=chosen.suffix),
        arguments,
        training,
        HeadArguments(pooling=chosen.pooling),
        RunArguments(early_stopping_patience=0),
    )
    trainer.train()
    weights = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    return weights, trainer.predict(trainer.eval_dataset).predictions


def check_equal(found, expected):
    assert all(torch.equal(found[0][name], weight) for name, weight in expected[0].items())
    np.testing.assert_array_equal(found[1], expected[1])


def test_seeds_share_what_is_frozen_and_train_to_the_same_weights(data, model, tokenizer, tmp_path, computed):
    alone = [run(data, model, tokenizer, tmp_path / f"alone-{seed}", seed) for seed in (1, 2)]
    assert [computed.count(each) for each in ("reading", "probe", "states")] == [8, 2, 2]  # a pass for each suffix
    assert not torch.equal(*(weights["base_model.model.score.modules_to_save.default.weight"] for weights, _ in alone))
    computed.clear()
    with shared_by_runs(tmp_path / "shared"):
        check_equal(run(data, model, tokenizer, tmp_path / "first", 1), alone[0])
        assert [computed.count(each) for each in ("reading", "probe", "states")] == [4, 1, 1]
        check_equal(run(data, model, tokenizer, tmp_path / "second", 2), alone[1])
        assert len(computed) == 6
    assert not (tmp_path / "shared").exists()


def test_what_is_not_the_same_is_not_shared(data, model, tokenizer, tmp_path, computed):
    other = tiny.save_checkpoint(tmp_path / "other", "llama", tokenizer, num_hidden_layers=4, initializer_range=0.2)
    some = replace(data, splits={**data.splits, "train": data.splits["train"].select(range(42))})
    options = [
        ({}, {}),
        ({"suffix": "\n\nAbout:"}, {}),
        ({"length": 8}, {}),
        ({"dtype": "bfloat16"}, {}),
        ({"lora_layers": 1}, {"probe": 0, "reading": 0}),  # these have no adapter
        ({"attn_implementation": "eager"}, {}),
    ]
    with shared_by_runs(tmp_path / "shared"):
        for number, (given, differently) in enumerate(options):
            computed.clear()
            run(data, model, tokenizer, tmp_path / str(number), 1, **given)
            for name in ("probe", "states"):
                assert (computed.count(name) > 0) == bool(differently.get(name, 1)), (given, name)
        for number, (documents, path) in enumerate([(data, other), (some, model)]):
            computed.clear()
            run(documents, path, tokenizer, tmp_path / f"other-{number}", 1)
            assert set(computed) == {"reading", "probe", "states"}


def test_damaged_files_are_made_again(data, model, tokenizer, tmp_path, computed, caplog):
    expected = run(data, model, tokenizer, tmp_path / "alone", 1)
    with caplog.at_level(logging.WARNING), shared_by_runs(tmp_path / "shared"):
        run(data, model, tokenizer, tmp_path / "first", 1)
        files = sorted((tmp_path / "shared").rglob("*.safetensors"))
        assert len(files) == 3
        for number, path in enumerate(files):
            path.write_bytes([b"", b"nothing", path.read_bytes()[:-8]][number])
        computed.clear()
        check_equal(run(data, model, tokenizer, tmp_path / "second", 1), expected)
    assert set(computed) == {"reading", "probe", "states"}
    assert caplog.text.count("is damaged") == 3


def test_files_of_others_stay(tmp_path):
    foreign = ["notes.txt", "mine/model.safetensors", f"{'0' * 16}/weights.safetensors", "model.safetensors"]
    own = ["a" * 32 + ".safetensors", f"{'0' * 16}/{'b' * 32}.safetensors", "." + "c" * 32 + ".safetensors.123"]
    with shared_by_runs(tmp_path / "shared"):
        for name in (*foreign, *own):
            path = shared_folder() / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
    left = {
        path.relative_to(tmp_path / "shared").as_posix() for path in (tmp_path / "shared").rglob("*") if path.is_file()
    }
    assert left == set(foreign)


def test_an_error_leaves_what_is_there_for_the_next_start(tmp_path):
    def interrupted():
        with shared_by_runs(tmp_path / "shared"):
            cached(shared_folder(), {"a": 1}, lambda: None, lambda model: {"a": np.arange(3)})
            raise SystemExit

    with pytest.raises(SystemExit):
        interrupted()
    assert shared_folder() is None
    assert len(list((tmp_path / "shared").iterdir())) == 1
    remove_own(tmp_path / "shared")
    assert not (tmp_path / "shared").exists()


def test_several_processes_share_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with shared_by_runs(tmp_path / "shared"):
        assert shared_folder() is None


def test_states_of_earlier_runs_make_room(data, model, tokenizer, tmp_path, computed):
    with shared_by_runs(tmp_path / "shared"):
        run(data, model, tokenizer, tmp_path / "0", 1, lora_layers=1)
        first = next((tmp_path / "shared").glob("*/"))
        room = 1.5e-9 * sum(path.stat().st_size for path in first.iterdir())
        for layers in (2, 1):
            run(data, model, tokenizer, tmp_path / str(layers), 1, lora_layers=layers, frozen_cache_gb=room)
            assert len(list((tmp_path / "shared").glob("*/"))) == 1
            assert first.exists() == (layers == 1)
    assert computed.count("states") == 3
