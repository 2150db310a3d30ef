"""What evaluations in training said of the validation documents: the weights that are kept are not evaluated again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .processes import sharding

if TYPE_CHECKING:
    from trl import ModelConfig

# With these, an evaluation in training is rounded otherwise than a finished run, which computes without them
_OTHERWISE = ("bf16", "fp16", "bf16_full_eval", "fp16_full_eval", "torch_compile", "use_liger_kernel")


class EvaluatedLogits(TrainerCallback):
    """Keeps the logits of the newest and of the best evaluation of a training.

    Args:
        arguments: Those of the trainer.
        model_arguments: Those of the model. Where a finished run computes otherwise than an evaluation in training
            (mixed precision, attention that was asked for, compiled or sharded weights), nothing is kept.
    """

    def __init__(self, arguments: TrainingArguments, model_arguments: ModelConfig) -> None:
        self._same = (
            model_arguments.attn_implementation is None
            and sharding(arguments) is None
            and not any(getattr(arguments, name, None) for name in _OTHERWISE)
        )
        self._noted: np.ndarray | None = None
        self._kept: dict[int, np.ndarray] = {}

    def note(self, logits: np.ndarray) -> None:
        """Take the logits of the evaluation that goes on, float32 `(n, labels)`, in the order of the documents."""
        self._noted = logits if self._same else None

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keep them, with their step."""
        self._kept = {step: logits for step, logits in self._kept.items() if step == state.best_global_step}
        if self._noted is not None:
            self._kept[state.global_step] = self._noted
        self._noted = None

    def at(self, step: int) -> np.ndarray | None:
        """Return the logits of the evaluation after so many steps; `None` where they are not kept."""
        return self._kept.get(step)


def evaluated_logits(trainer: Trainer) -> np.ndarray | None:
    """Return the logits of the validation documents by the very weights that a trainer has after training.

    Returns:
        Float32 `(n, labels)`, the numbers that the finished run gives; `None` where no evaluation of this start was of
        these weights, or where it computed otherwise.
    """
    state, step = trainer.state, trainer.state.global_step
    if trainer.args.load_best_model_at_end:
        best = state.best_model_checkpoint
        if best is None or not Path(best).is_dir():  # there was none to load: the weights are the last ones
            return None
        step = int(state.best_global_step or 0)
    kept = [each for each in trainer.callback_handler.callbacks if isinstance(each, EvaluatedLogits)]
    return kept[0].at(step) if kept else None
