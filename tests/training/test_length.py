"""How long a training is where nobody says it, and when early stopping may end it."""

import pytest
from test_recipes import arguments as command
from test_recipes import run as run_recipe
from test_train import run_embedding
from transformers import TrainerControl, TrainerState, TrainingArguments

from hf_causal_clf.embedding.arguments import EmbeddingTrainingArguments
from hf_causal_clf.instruction.arguments import InstructionTrainingArguments
from hf_causal_clf.training.arguments import RunArguments
from hf_causal_clf.training.callbacks import EarlyStopping
from hf_causal_clf.training.length import LEAST_STEPS, chosen_steps, settle_length

KINDS = [EmbeddingTrainingArguments, InstructionTrainingArguments]


def arguments(tmp_path, kind=EmbeddingTrainingArguments, **given):
    return kind(str(tmp_path), report_to="none", **given)


@pytest.mark.parametrize("batch", [1, 4, 8, 64])
def test_more_documents_are_read_more_often_in_all_and_less_often_each(batch):
    sizes = [1, 10, 40, 160, 1000, 10_000, 100_000, 1_000_000]
    steps = [chosen_steps(size, batch) for size in sizes]
    assert steps == sorted(steps)
    assert min(steps) >= LEAST_STEPS
    epochs = [count * batch / size for count, size in zip(steps, sizes, strict=True)]
    assert epochs == sorted(epochs, reverse=True)
    assert epochs[2] >= 15  # 40 documents
    assert epochs[-2] < 1.1  # 100,000 documents: once


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("documents", "validation"), [(3, 1), (40, 10), (1000, 111), (100_000, 11_111)])
def test_evaluations_end_with_the_last_step(tmp_path, kind, documents, validation):
    given = arguments(tmp_path, kind, per_device_train_batch_size=8)
    assert settle_length(given, documents, validation)
    assert given.max_steps % given.eval_steps == 0
    assert given.eval_steps == given.save_steps
    assert str(given.eval_strategy.value) == str(given.save_strategy.value) == "steps"
    evaluations = given.max_steps / given.eval_steps
    assert 1 <= evaluations <= 5
    assert evaluations * validation <= given.max_steps * 8
    assert given.num_train_epochs == pytest.approx(given.max_steps * 8 / documents)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", [{"num_train_epochs": 2}, {"max_steps": 7}, {"num_train_epochs": 2, "max_steps": 7}])
def test_a_length_that_is_given_stays(tmp_path, kind, given):
    found = arguments(tmp_path, kind, **given)
    assert not settle_length(found, 40, 10)
    assert found.max_steps == given.get("max_steps", -1)
    assert found.eval_strategy == found.save_strategy == "epoch"
    if "num_train_epochs" in given:
        assert found.num_train_epochs == 2


def test_evaluations_that_are_asked_for_stay(tmp_path):
    given = arguments(tmp_path, eval_strategy="steps", eval_steps=5, save_strategy="steps", save_steps=10)
    assert settle_length(given, 40, 10)
    assert (given.eval_steps, given.save_steps) == (5, 10)
    none = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    given = arguments(tmp_path, **none)
    assert settle_length(given, 40, 10)
    assert given.eval_strategy == given.save_strategy == "no"


def test_a_wrong_number_of_epochs_is_named(tmp_path):
    with pytest.raises(ValueError, match="num_train_epochs must be above 0, got 0; or set max_steps, or leave both"):
        arguments(tmp_path, num_train_epochs=0)
    with pytest.raises(ValueError, match="early_stopping_patience must be 0"):
        RunArguments(early_stopping_patience=-1)


def stopped_after(values, *, patience, untrained, greater=True):
    """Number of evaluations until the training ends, `None` if it goes on."""
    callback = EarlyStopping(patience, untrained)
    settings = TrainingArguments("unused", metric_for_best_model="m", greater_is_better=greater, report_to="none")
    state, better = TrainerState(), max if greater else min
    for count, value in enumerate(values, 1):
        control = TrainerControl()
        callback.on_evaluate(settings, state, control, metrics={"eval_m": value})
        state.best_metric = value if state.best_metric is None else better(state.best_metric, value)
        if control.should_training_stop:
            return count
    return None


def test_early_stopping_waits_for_the_model_to_learn():
    flat = [0.1] * 6
    assert stopped_after(flat, patience=2, untrained=0.1) is None
    assert stopped_after(flat, patience=2, untrained=0.05) == 3
    assert stopped_after([*flat, 0.4, 0.3, 0.3], patience=2, untrained=0.1) == 9
    assert stopped_after([*flat, 0.4, 0.3, 0.5, 0.3], patience=2, untrained=0.1) is None
    assert stopped_after([2.3] * 6, patience=2, untrained=2.0, greater=False) is None
    assert stopped_after([2.3, 1.9, 2.1, 2.1], patience=2, untrained=2.0, greater=False) == 4


def test_a_run_without_a_length_has_one_and_is_evaluated_at_its_end(checkpoint, files, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_causal_clf.training.length.LEAST_STEPS", 20)
    monkeypatch.setattr("hf_causal_clf.training.length.DOCUMENTS_PER_ROOT", 1)
    run = RunArguments(early_stopping_patience=0)
    _, metrics, state = run_embedding(checkpoint, tmp_path / "run", files, run=run, num_train_epochs=None)
    evaluated = [entry["step"] for entry in state.log_history if "eval_f1_macro" in entry]
    assert metrics["training"]["steps"] == state.max_steps == evaluated[-1] == 20
    assert len(evaluated) == 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_chosen_length_keeps_the_last_step_and_a_given_one_the_best(tmp_path, kind):
    assert not arguments(tmp_path, kind).load_best_model_at_end
    assert arguments(tmp_path, kind, num_train_epochs=2).load_best_model_at_end
    assert arguments(tmp_path, kind, max_steps=9).load_best_model_at_end
    assert arguments(tmp_path, kind, load_best_model_at_end=True).load_best_model_at_end
    assert not arguments(tmp_path, kind, max_steps=9, load_best_model_at_end=False).load_best_model_at_end


@pytest.mark.parametrize("recipe", ["embed", "instruct"])
def test_early_stopping_without_a_best_checkpoint_is_an_error(recipe, checkpoint, files, tmp_path, monkeypatch):
    options = {"early_stopping_patience": "2", "load_best_model_at_end": "false"}
    with pytest.raises(ValueError, match=r"early_stopping_patience 2 is for .*: set load_best_model_at_end to true"):
        run_recipe(recipe, command(recipe, checkpoint, files, tmp_path / "run", **options), monkeypatch)
    assert not (tmp_path / "run").exists()
