"""Trainers that push the whole run instead of their own files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..sharing.hub import COMMIT_MESSAGE, check_base_model, push_run

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments
    from trl import ModelConfig

    from .arguments import RunArguments


def take_over_push(training: TrainingArguments, model: ModelConfig, run: RunArguments) -> bool:
    """Turn the trainer's own pushes off, which would publish checkpoints and pickles, and check that ours can be done.

    Returns:
        Whether the finished run is to be pushed, by the trainer's `push_to_hub()`.

    Raises:
        ValueError: If the base model of an adapter is a folder and no `hub_base_model` is given.
    """
    push = bool(training.push_to_hub)
    training.push_to_hub = False
    if push and model.use_peft:
        check_base_model(model.model_name_or_path, run.hub_base_model)
    return push


def publish(
    training: TrainingArguments,
    run: RunArguments,
    *,
    commit_message: str = COMMIT_MESSAGE,
    token: str | None = None,
    revision: str | None = None,
) -> str | None:
    """Publish the finished run in `output_dir` as the arguments say; return the repository's id in the main process."""
    from accelerate import PartialState

    repo_id = None
    if PartialState().is_main_process:
        repo_id = push_run(
            training.output_dir,
            training.hub_model_id or Path(training.output_dir).resolve().name,
            base_model=run.hub_base_model,
            private=training.hub_private_repo,
            token=token or training.hub_token,
            revision=revision or training.hub_revision,
            commit_message=commit_message,
        )
        print(f"The run is published: TextClassifier.from_pretrained({repo_id!r})")
    PartialState().wait_for_everyone()
    return repo_id


def publish_runs(trainer: Trainer, run: RunArguments) -> None:
    """Make a trainer's `push_to_hub()` publish the finished run in its `output_dir`, as `push_run` does.

    The stock method would upload checkpoints of the trainer's own and `training_args.bin`, a pickle that holds local
    paths and the token. Repository, privacy, token and branch are those of the training arguments. The card is the
    run's own, with its numbers; TRL would put a draft in the place of an earlier run's with each checkpoint.
    """

    def push_to_hub(
        commit_message: str = COMMIT_MESSAGE,
        blocking: bool = True,  # the stock method's; a run is published when this returns, whatever it is
        token: str | None = None,
        revision: str | None = None,
    ) -> str | None:
        """Publish the finished run in `output_dir`; return the id of the repository in the main process."""
        return publish(trainer.args, run, commit_message=commit_message, token=token, revision=revision)

    trainer.push_to_hub = push_to_hub
    trainer.create_model_card = lambda *args, **kwargs: None
