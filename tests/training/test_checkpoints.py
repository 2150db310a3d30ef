"""Checkpoints of a run: which are its own, what is never touched, and going on from one as if nothing had happened."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from test_train import run_embedding, run_instruction
from transformers import Trainer, TrainerCallback
from transformers.utils import logging

from hf_causal_clf.training.arguments import RunArguments
from hf_causal_clf.training.callbacks import TrainingClock
from hf_causal_clf.training.checkpoints import whole_checkpoints


def content(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


def somebodys_checkpoints(folder):
    """Folders that no run of ours wrote: one as a trainer would leave it, but for its name, and a backup."""
    for name in ("checkpoint-best", "checkpoint-final", "checkpoint-3-backup"):
        (folder / name).mkdir(parents=True)
        (folder / name / "model.safetensors").write_text(name)
    (folder / "checkpoint-final" / "trainer_state.json").write_text("{}")
    return content(folder)


@pytest.fixture
def warnings(monkeypatch):
    found = []
    monkeypatch.setattr(logging.get_logger("hf_causal_clf.training.checkpoints"), "warning_once", found.append)
    return found


def test_looking_for_checkpoints_changes_nothing(tmp_path, warnings):
    before = somebodys_checkpoints(tmp_path)
    for step, state in ((20, "{}"), (3, "{}"), (100, "{"), (7, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    (tmp_path / "checkpoint-5").write_text("a file")
    everything = content(tmp_path)
    assert [path.name for path in whole_checkpoints(tmp_path)] == ["checkpoint-3", "checkpoint-20"]
    assert content(tmp_path) == everything
    assert before.items() <= everything.items()
    assert (tmp_path / "checkpoint-7").is_dir()
    passed_over = {"7", "100", "5", "best", "final", "3-backup"}
    assert {Path(line.split(" ")[0]).name for line in warnings} == {f"checkpoint-{each}" for each in passed_over}


@pytest.mark.parametrize(("approach", "limit"), [(run_embedding, 1), (run_embedding, 2), (run_instruction, 1)])
def test_a_run_leaves_somebodys_checkpoints_alone(checkpoint, files, tmp_path, approach, limit):
    """At the start, in each rotation and at the end."""
    before = somebodys_checkpoints(tmp_path / "run")
    options = {"max_steps": 6, "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    approach(checkpoint, tmp_path / "run", files, save_total_limit=limit, **options)
    assert content(tmp_path / "run").items() >= before.items()
    names = {path.name for path in (tmp_path / "run").glob("checkpoint-*")}
    assert names == {"checkpoint-best", "checkpoint-final", "checkpoint-3-backup"}


def test_a_checkpoint_that_appears_while_a_run_goes_on_is_left_alone(checkpoint, files, tmp_path, monkeypatch):
    """Of the name that a trainer gives, and beyond the limit of checkpoints to keep."""
    theirs = tmp_path / "run" / "checkpoint-500" / "mine.txt"

    def appear(self, *args, **kwargs):
        if not theirs.parent.exists():
            theirs.parent.mkdir()
            theirs.write_text("mine")
        return begin(self, *args, **kwargs)

    begin = TrainingClock.on_step_begin
    monkeypatch.setattr(TrainingClock, "on_step_begin", appear)
    options = {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    run_embedding(checkpoint, tmp_path / "run", files, save_total_limit=1, **options)
    assert theirs.read_text() == "mine"
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-500"]


def test_what_may_be_half_a_checkpoint_of_somebody_is_not_written_into(checkpoint, files, tmp_path):
    (tmp_path / "run" / "checkpoint-6").mkdir(parents=True)
    (tmp_path / "run" / "checkpoint-6" / "model.safetensors").write_text("somebody's")
    before = content(tmp_path)
    with pytest.raises(
        ValueError, match=r"has checkpoint-6 without a whole trainer_state.json.*Move it away, or choose"
    ):
        run_embedding(checkpoint, tmp_path / "run", files)
    assert content(tmp_path) == before


class Stop(Exception):
    pass


def interrupted(approach, at, *args, monkeypatch, event="on_step_begin", **options):
    """Run until a step, and be gone."""

    def stop(self, arguments, state, control, **kwargs):
        if state.global_step >= at:
            raise Stop

    kill = type("Kill", (TrainerCallback,), {event: stop})
    original = Trainer.train
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train", lambda self, **kwargs: (self.add_callback(kill()), original(self, **kwargs))[1])
        with pytest.raises(Stop):
            approach(*args, **options)


def test_the_newest_and_the_best_checkpoints_are_kept(checkpoint, files, tmp_path, monkeypatch):
    options = {"max_steps": 12, "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    options |= {"save_total_limit": 2, "learning_rate": 3e-2, "run": RunArguments(early_stopping_patience=0)}
    output = tmp_path / "run"
    interrupted(run_embedding, 12, checkpoint, output, files, monkeypatch=monkeypatch, event="on_train_end", **options)
    best = json.loads((output / "checkpoint-12" / "trainer_state.json").read_text())["best_global_step"]
    assert best < 10
    assert [path.name for path in whole_checkpoints(output)] == [f"checkpoint-{best}", "checkpoint-12"]


def facts(state):
    """What training has logged, but for times."""
    timed = ("runtime", "per_second", "num_tokens")  # TRL counts the tokens of one start
    return [
        {name: value for name, value in entry.items() if not name.endswith(timed)}
        for entry in state.log_history
        if "train_runtime" not in entry
    ]


def as_uninterrupted(whole, resumed):
    (_, wanted, state), (_, found, again) = whole, resumed
    for name in ("epochs", "steps", "train_loss", "best_f1_macro"):
        assert found["training"][name] == pytest.approx(wanted["training"][name], rel=1e-5), name
    assert found["test"] == pytest.approx(wanted["test"], abs=1e-4)
    assert found["validation"] == pytest.approx(wanted["validation"], abs=1e-4)
    assert found["training"]["train_samples_per_second"] > 0
    assert len(facts(again)) == len(facts(state))
    for one, other in zip(facts(again), facts(state), strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    ("approach", "at"),
    [
        (run_embedding, "before it stops"),
        (run_embedding, "after it has stopped"),
        (run_instruction, "after it has stopped"),
    ],
)
def test_early_stopping_goes_on_where_it_was(checkpoint, files, tmp_path, monkeypatch, approach, at):
    """An interrupted run ends at the same epoch, with the same log and results, as an uninterrupted one."""
    run = RunArguments(early_stopping_patience=2)
    rate = {"learning_rate": 3e-2, "num_train_epochs": 12, "logging_steps": 5}
    options = {**rate, "run": run}
    whole = approach(checkpoint, tmp_path / "whole", files, **options)
    steps = whole[1]["training"]["steps"]
    assert 12 < steps < 72  # it stopped early, after two evaluations without a better one
    event, at = ("on_step_begin", steps - 6) if at == "before it stops" else ("on_train_end", steps)
    output = tmp_path / "run"
    interrupted(approach, at, checkpoint, output, files, monkeypatch=monkeypatch, event=event, **options)
    moved = tmp_path / "moved"  # the best checkpoint is not where it was
    shutil.move(output, moved)
    as_uninterrupted(whole, approach(checkpoint, moved, files, resume_from_checkpoint="true", **options))


@pytest.mark.parametrize("killed", [4, 8])
def test_a_run_of_so_many_steps_goes_on_within_an_epoch(checkpoint, files, tmp_path, monkeypatch, killed):
    """Also one that was killed after its last step, which is within an epoch: no step more is trained."""
    options = {"max_steps": 8, "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    whole = run_embedding(checkpoint, tmp_path / "whole", files, **options)
    event = "on_step_begin" if killed < 8 else "on_train_end"
    output = tmp_path / "run"
    interrupted(run_embedding, killed, checkpoint, output, files, monkeypatch=monkeypatch, event=event, **options)
    as_uninterrupted(whole, run_embedding(checkpoint, output, files, resume_from_checkpoint="true", **options))


def test_early_stopping_can_be_turned_on_and_its_patience_raised(checkpoint, files, tmp_path, monkeypatch):
    """The settings are those given now; a checkpoint that knows nothing of a callback can be gone on from."""
    options = {"num_train_epochs": 3, "run": RunArguments(early_stopping_patience=0)}
    interrupted(run_embedding, 6, checkpoint, tmp_path / "run", files, monkeypatch=monkeypatch, **options)
    options["run"] = RunArguments(early_stopping_patience=2)
    _, metrics, _ = run_embedding(checkpoint, tmp_path / "run", files, resume_from_checkpoint="true", **options)
    assert metrics["training"]["steps"] == 18


def test_checkpoints_of_another_run_in_the_output_folder_are_not_taken_for_its_own(
    checkpoint, files, tmp_path, monkeypatch
):
    for name in ("one", "two"):
        interrupted(run_embedding, 6, checkpoint, tmp_path / name, files, monkeypatch=monkeypatch, num_train_epochs=2)
    before = content(tmp_path)
    last = str(tmp_path / "one" / "checkpoint-6")
    with pytest.raises(ValueError, match=r"two' has checkpoints of a run that did not finish"):
        run_embedding(checkpoint, tmp_path / "two", files, num_train_epochs=2, resume_from_checkpoint=last)
    assert content(tmp_path) == before
