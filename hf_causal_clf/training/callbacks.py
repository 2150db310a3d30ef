"""What is added to both trainers: checkpoints of one's own, a clock, and metrics of an evaluation."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from transformers import (
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import ExportableState

from ..cli.telling import tell
from ..evaluation.calibration import best_threshold
from ..evaluation.metrics import classification_metrics, decide
from ..runs.files import UNFINISHED_FOLDER
from .checkpoints import checkpoint_step, note_checkpoint, own_checkpoints, remove_checkpoint
from .memory import peak_memory_bytes

_ESTIMATED_ON = 10  # steps
_WORTH_TELLING = 60.0  # seconds


def evaluation_metrics(gold: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Metrics of an evaluation during training, by which checkpoints are chosen.

    As in the results of a run, multi-label decisions are not at 0.5, which an early checkpoint may reach nowhere: they
    are at the one threshold for all labels that gives the best F1 on these documents.

    Args:
        gold: Label ids `(n,)`, or 0/1 `(n, labels)` for a multi-label task.
        probabilities: Uncalibrated probabilities, `(n, labels)`.
    """
    predicted = None
    if gold.ndim == 2:
        threshold = best_threshold(gold.ravel(), probabilities.ravel())
        predicted = decide(probabilities, multi_label=True, thresholds=threshold)
    return classification_metrics(gold, probabilities, predicted)


class RunCheckpoints(TrainerCallback):
    """Keeps the newest checkpoints of a run, and logs the loss up to each of them.

    The stock rotation would remove any folder called `checkpoint-…`, a user's `checkpoint-best` too. The loss of steps
    that are not logged yet would be missing in a run that goes on from a checkpoint.
    """

    def __init__(self, trainer: Trainer, settings: dict[str, Any] | None = None) -> None:
        self.trainer = trainer
        self.settings = settings
        self.limit = trainer.args.save_total_limit
        trainer.args.save_total_limit = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Mark the output folder, and make a state that is gone on from fit this start."""
        if state.is_world_process_zero:
            (Path(args.output_dir) / UNFINISHED_FOLDER).mkdir(parents=True, exist_ok=True)
        best = Path(args.output_dir) / f"checkpoint-{state.best_global_step}"
        if best.is_dir():  # the folder may have been moved, or named in another way
            state.best_model_checkpoint = str(best)
        for callback in self.trainer.callback_handler.callbacks:
            if isinstance(callback, ExportableState):  # saving fails with one that the checkpoint does not know
                state.stateful_callbacks.setdefault(type(callback).__name__, callback.state())

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask for the loss where a checkpoint, an evaluation or the end comes, and note that the checkpoint is ours."""
        if control.should_save and state.is_world_process_zero:
            note_checkpoint(args.output_dir, state.global_step, self.settings)
        if control.should_save or control.should_evaluate or control.should_training_stop:
            control.should_log = True

    on_epoch_end = on_step_end

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Remove the oldest checkpoints beyond `save_total_limit`; never the best and the one just saved."""
        if not state.is_world_process_zero:
            return
        note_checkpoint(args.output_dir, state.global_step, self.settings)  # an evaluation may have asked for it
        if not self.limit or self.limit < 1:
            return
        found = own_checkpoints(args.output_dir)
        ahead = [path for path in found if checkpoint_step(path) > state.global_step]  # of a start that went further
        spare = [path for path in found if checkpoint_step(path) < state.global_step]
        spare = [*ahead, *(path for path in spare if checkpoint_step(path) != state.best_global_step)]
        for path in spare[: max(0, len(found) - self.limit)]:
            remove_checkpoint(path)


class EarlyStopping(EarlyStoppingCallback):
    """Stops without progress, but counts no evaluation before the model has learned anything.

    Args:
        patience: Evaluations without a better `metric_for_best_model` that end the training.
        untrained: That metric of always answering the most frequent label: below it, nothing is counted.
    """

    def __init__(self, patience: int, untrained: float) -> None:
        super().__init__(early_stopping_patience=patience)
        self.untrained = untrained

    def check_metric_value(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metric_value: float
    ) -> None:
        """Count an evaluation that is no better than the best so far."""
        super().check_metric_value(args, state, control, metric_value)
        reached = metric_value if state.best_metric is None else state.best_metric
        if not (reached > self.untrained if args.greater_is_better else reached < self.untrained):
            self.early_stopping_patience_counter = 0


class TimeEstimate(TrainerCallback):
    """Tells after the first steps how long a training takes, and the memory it takes; a short one needs no telling."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measure from the end of this start's first step, which is slower than the others."""
        if self._first is None:
            self._first = (state.global_step, time.perf_counter())
        step, begun = self._first
        if state.global_step != step + _ESTIMATED_ON:
            return
        left = (state.max_steps - state.global_step) * (time.perf_counter() - begun) / _ESTIMATED_ON
        if left >= _WORTH_TELLING:
            memory = peak_memory_bytes() / 2**30
            tell(
                f"The {state.max_steps - state.global_step:,} steps that are left take about {in_words(left)}, by the "
                f"last {_ESTIMATED_ON}; evaluations come on top. Memory: {memory:.1f} GiB at its peak so far."
            )


def in_words(seconds: float) -> str:
    """Return a time in minutes, or in hours where it is long."""
    minutes = max(1, round(seconds / 60))
    return f"{minutes} minute{'s' * (minutes > 1)}" if minutes < 120 else f"{seconds / 3600:.1f} hours"


class TrainingClock(TrainerCallback, ExportableState):
    """Counts the time spent in training steps, without evaluation and saving; a resumed run goes on counting."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.first_epoch = 0.0
        self._start = 0.0

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"args": {}, "attributes": {"seconds": self.seconds, "first_epoch": self.first_epoch}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remember where a run starts, or goes on from a checkpoint that has no clock."""
        if not self.seconds:
            self.first_epoch = float(state.epoch or 0.0)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop the clock."""
        self.seconds += time.perf_counter() - self._start

    def samples_per_second(self, trainer: Trainer) -> float:
        """Documents a second over all processes."""
        epochs = float(trainer.state.epoch or 0.0) - self.first_epoch
        return epochs * len(trainer.train_dataset) / self.seconds if self.seconds else 0.0
