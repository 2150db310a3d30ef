"""How long to train where nobody says it: update steps that fit the number of training documents."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..cli.telling import tell

if TYPE_CHECKING:
    from transformers import TrainingArguments

LEAST_STEPS = 150  # a floor for the fewest documents, and for large batches
DOCUMENTS_PER_ROOT = 100  # documents that are read in training, for the square root of 1 document
EVALUATIONS = 5
ENCODER_READS = 250  # times √documents: all weights move in smaller steps than an adapter's
ENCODER_LEAST_EPOCHS = 3
SENTENCE = (
    f"Default, without max_steps: as the documents need; {DOCUMENTS_PER_ROOT}·√documents are read, at least "
    f"{LEAST_STEPS} update steps and one epoch, with five evaluations; the last weights are kept."
)


def settle_length(arguments: TrainingArguments, documents: int, validation: int) -> bool:
    """Choose the number of update steps and when to evaluate, where neither epochs nor steps are given.

    The number of times that each document is read falls with the square root of their number. Evaluations (and
    checkpoints with them) are five over the whole training, where `eval_strategy` does not ask for anything but epochs;
    fewer where they would read more documents than the training.

    Args:
        arguments: `max_steps`, `num_train_epochs`, and what belongs to `eval_strategy` and `save_strategy` are filled
            in.
        documents: Number of training documents.
        validation: Number of validation documents.

    Returns:
        Whether the length was chosen here.
    """
    if arguments.num_train_epochs is not None:
        return False
    batch = arguments.train_batch_size * arguments.world_size * arguments.gradient_accumulation_steps
    given = arguments.max_steps > 0
    steps = arguments.max_steps if given else chosen_steps(documents, batch)
    if not given:
        spaced = max(1, min(EVALUATIONS, steps * batch // max(1, validation)))
        every = math.ceil(steps / spaced)
        arguments.max_steps = steps = every * spaced  # the last step is evaluated as well
        tell(f"Neither num_train_epochs nor max_steps is given: {steps:,} update steps fit {documents:,} documents.")
        for kind in ("eval", "save"):
            strategy = getattr(arguments, f"{kind}_strategy")
            if strategy == "epoch":
                setattr(arguments, f"{kind}_strategy", type(strategy)("steps"))
                setattr(arguments, f"{kind}_steps", every)
    arguments.num_train_epochs = steps * batch / max(1, documents)
    return not given


def chosen_steps(documents: int, batch: int) -> int:
    """Return the number of update steps for a number of training documents, with `batch` documents in each.

    A larger batch is no reason for fewer steps than the least: a step is what a weight learns from.
    """
    read = max(DOCUMENTS_PER_ROOT * math.sqrt(documents), documents)
    return max(LEAST_STEPS, math.ceil(read / batch))


def encoder_epochs(documents: int) -> float:
    """Return how often an encoder, trained on all its weights, reads each of its training documents."""
    return max(ENCODER_LEAST_EPOCHS, ENCODER_READS / math.sqrt(documents))
