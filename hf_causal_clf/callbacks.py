"""What is added to the stock trainers: evaluation by label scoring, and honest clocks."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .calibration import to_probabilities
from .distributed import is_sharded, over_processes
from .metrics import classification_metrics
from .scoring import LabelScorer


class LabelScoringCallback(TrainerCallback):
    """Adds the metrics of label scoring on the validation documents to every evaluation of a trainer.

    Add it before `EarlyStoppingCallback`, which reads them.
    """

    def __init__(self, trainer: Trainer, scorer: LabelScorer, texts: Sequence[str], gold: np.ndarray) -> None:
        self.trainer = trainer
        self.scorer = scorer
        self.texts = texts
        self.gold = gold

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Score the documents, shared out over the processes; with sharded weights, all in every process."""
        score = self.scorer.logits
        logits = score(self.texts) if is_sharded(self.trainer) else over_processes(score, self.texts)
        probabilities = to_probabilities(logits, multi_label=self.gold.ndim == 2)
        found = {f"eval_{name}": value for name, value in classification_metrics(self.gold, probabilities).items()}
        kwargs["metrics"].update(found)  # the trainer picks the best checkpoint from this same dictionary
        self.trainer.log(found)


class TrainingClock(TrainerCallback):
    """Counts the time spent in training steps, without evaluation and saving."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._start = 0.0
        self._first_epoch = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remember where a resumed run starts."""
        self._first_epoch = float(state.epoch or 0.0)

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
        epochs = float(trainer.state.epoch or 0.0) - self._first_epoch
        return epochs * len(trainer.train_dataset) / self.seconds if self.seconds else 0.0


def peak_memory_bytes() -> int:
    """Peak memory of this process: allocated on the GPU where there is one, else resident."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
