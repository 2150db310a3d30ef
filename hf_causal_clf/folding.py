"""Out-of-fold logits of a run with folds: a training of its approach for each fold, one model at a time."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from .classifier import TextClassifier
from .data.splits import ClassificationData
from .finishing import gives_no_numbers, save_run
from .runs.run import Run
from .training.folds import out_of_fold
from .training.output_folder import Settings
from .training.processes import over_processes
from .training.train import train


def train_folds(
    build: Callable[..., Trainer],
    data: ClassificationData,
    tokenizer: PreTrainedTokenizerBase,
    run: Run,
    arguments: TrainingArguments,
    settings: Settings,
) -> np.ndarray | None:
    """Train once for each fold, and let each training predict the fold that it did not see.

    A trained model is saved and loaded as that of a finished run, and measured as one. No checkpoints are kept: a start
    that is cut off goes on with the first fold that is not done. All processes have to call it.

    Args:
        build: Builds a trainer: `build(data, training_arguments=…)`.
        data: All documents, with their folds.
        tokenizer: The base model's.
        run: Description of the run.
        arguments: Those of the final training; not changed.
        settings: What makes this run another than the next.

    Returns:
        Logits of the labelled documents, float32 `(n, labels)`; `None` for a run without folds.

    Raises:
        ValueError: If a training diverges.
    """
    if data.folds is None:
        return None

    def score(part: ClassificationData, folder: Path) -> np.ndarray:
        own = copy.copy(arguments)
        own.output_dir, own.report_to, own.save_strategy = str(folder), [], SaveStrategy.NO
        own.resume_from_checkpoint = None
        trainer = build(part, training_arguments=own)
        train(trainer)
        saved = save_run(trainer, tokenizer, run)
        classifier = TextClassifier.from_pretrained(
            saved, calibrated=False, batch_size=arguments.per_device_eval_batch_size
        )
        logits = over_processes(classifier.scorer.logits, part.texts("validation"))
        if gives_no_numbers(logits, part):
            raise ValueError("Training diverged without this fold: the model gives no numbers. Lower learning_rate.")
        del trainer, classifier
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return logits

    content = {**settings.to_dict(), "processes": arguments.world_size}
    return out_of_fold(data, Path(str(arguments.output_dir)), content, score)
