"""TRL's `SFTTrainer` of the instruction-based approach, evaluated by label scoring."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import set_seed
from transformers.utils import logging

from ..backbone.adapters import compute_in_bfloat16
from ..backbone.context import sees_backward_only
from ..backbone.loading import load_causal_lm
from ..backbone.settings import base_weights, peft_config
from ..data.splits import WEIGHT, ClassificationData
from ..evaluation.calibration import to_probabilities
from ..task.prompts import PromptTemplate
from ..task.tokens import warn_of_unknown
from ..task.verbalizer import Verbalizer
from ..training.arguments import RunArguments
from ..training.callbacks import evaluation_metrics
from ..training.evaluated import EvaluatedLogits
from ..training.frozen import cache_frozen_layers
from ..training.length import settle_length
from ..training.outline import sampled_lengths, tell_outline
from ..training.processes import is_sharded, over_processes
from ..training.pushing import publish_runs
from ..training.train import early_stopping
from .arguments import InstructionModelArguments, InstructionTrainingArguments
from .collator import VerbalizerCollator
from .frozen_scorer import FrozenLabelScorer
from .scorer import LabelScorer
from .weighting import check_weighting, weigh_documents

if TYPE_CHECKING:
    from trl import SFTTrainer

logger = logging.get_logger(__name__)


class LabelScoringCallback(TrainerCallback):
    """Adds the metrics of label scoring on the validation documents to every evaluation of a trainer.

    Add it before `EarlyStoppingCallback`, which reads them, and before `evaluated`, which takes the logits.
    """

    def __init__(
        self,
        trainer: Trainer,
        scorer: LabelScorer,
        texts: Sequence[str],
        gold: np.ndarray,
        evaluated: EvaluatedLogits | None = None,
    ) -> None:
        self.trainer = trainer
        self.scorer = scorer
        self.documents = scorer.encode(texts)
        self.gold = gold
        self.evaluated = evaluated

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Score the documents, shared out over the processes; with sharded weights, all in every process."""
        score = self.scorer.logits_of
        logits = score(self.documents) if is_sharded(self.trainer) else over_processes(score, self.documents)
        if self.evaluated is not None:
            self.evaluated.note(logits)
        probabilities = to_probabilities(logits, multi_label=self.gold.ndim == 2)
        found = {f"eval_{name}": value for name, value in evaluation_metrics(self.gold, probabilities).items()}
        kwargs["metrics"].update(found)  # the trainer picks the best checkpoint from this same dictionary
        self.trainer.log(found)


class EpochOfDraws(TrainerCallback):
    """Tells a collator the epoch, by which it draws chunks: the same in any number of processes, and after a stop."""

    def __init__(self, collator: VerbalizerCollator) -> None:
        self.collator = collator

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note the epoch."""
        self.collator.epoch = int(state.epoch or 0)


def instruction_trainer(
    data: ClassificationData,
    tokenizer: PreTrainedTokenizerBase,
    template: PromptTemplate,
    verbalizer: Verbalizer,
    model_arguments: InstructionModelArguments,
    training_arguments: InstructionTrainingArguments,
    run_arguments: RunArguments,
) -> SFTTrainer:
    """Build TRL's `SFTTrainer` of the instruction-based approach, evaluated by label scoring.

    Raises:
        ValueError: If `share_prefix` is set and the model or the arguments do not allow it, or `class_weight` with
            another loss than the tokens' negative log-likelihood; or if a token sees those after it in the model.
    """
    weighted = run_arguments.class_weight == "balanced"
    if weighted:
        check_weighting(training_arguments)
    _project_answers_only()
    texts = data.splits["train"]["text"]
    warn_of_unknown(tokenizer, texts)
    collator = VerbalizerCollator(tokenizer, template, verbalizer, weight_column=WEIGHT if weighted else None)
    settle_length(training_arguments, len(texts), len(data.splits["validation"]))
    tell_outline(
        data,
        sampled_lengths(collator.encoder, texts),
        collator.encoder.document_budget,
        training_arguments,
        in_chunks=template.long_documents == "chunks",
    )
    trainer = _new_trainer(data, tokenizer, collator, model_arguments, training_arguments, weighted=weighted)
    if not sees_backward_only(trainer.model):
        raise ValueError(
            f"In {model_arguments.model_name_or_path!r} a token sees those after it: what it would have to write it "
            "would know. Train a head on it, with embed.py, or take another model."
        )
    _evaluate_by_scoring(trainer, collator, data, template, verbalizer, model_arguments)
    for callback in early_stopping(run_arguments, training_arguments, data):
        trainer.add_callback(callback)
    if not training_arguments.dataloader_persistent_workers:  # their copies of the collator would not be told
        trainer.add_callback(EpochOfDraws(collator))
    publish_runs(trainer, run_arguments)
    return trainer


def _new_trainer(
    data: ClassificationData,
    tokenizer: PreTrainedTokenizerBase,
    collator: VerbalizerCollator,
    model_arguments: InstructionModelArguments,
    training_arguments: InstructionTrainingArguments,
    *,
    weighted: bool,
) -> SFTTrainer:
    """The trainer with its model and, if there is to be one, a new adapter."""
    set_seed(training_arguments.seed)
    model: Any = load_causal_lm(
        model_arguments.model_name_or_path,
        base_weights(model_arguments),
        tokenizer=tokenizer,
        place=False,
        revision=model_arguments.model_revision,
    )
    config = peft_config(model_arguments, model, model_arguments.lora_layers)
    rows = data.weighted if weighted else data.splits.__getitem__
    trainer = _sft_trainer_class(model, training_arguments)(
        model=model,
        args=training_arguments,
        train_dataset=rows("train"),
        eval_dataset=rows("validation"),
        processing_class=tokenizer,
        data_collator=collator,
        peft_config=config,
    )
    if weighted:
        weigh_documents(trainer)
    if config is not None:
        # TRL casts the adapter of a quantised model to bfloat16, where small updates are lost
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        compute_in_bfloat16(trainer.model)
    return trainer


def _evaluate_by_scoring(
    trainer: SFTTrainer,
    collator: VerbalizerCollator,
    data: ClassificationData,
    template: PromptTemplate,
    verbalizer: Verbalizer,
    model_arguments: InstructionModelArguments,
) -> None:
    """Add label scoring to each evaluation, above the frozen layers if they are run once."""
    sequences = chain.from_iterable(collator.sequences(data.splits[split]) for split in ("train", "validation"))
    frozen = cache_frozen_layers(trainer, model_arguments, sequences)
    options: dict[str, Any] = {"template": template, "verbalizer": verbalizer}
    options["batch_size"] = trainer.args.per_device_eval_batch_size
    tokenizer = trainer.processing_class
    if frozen is None:
        scorer = LabelScorer(trainer.model, tokenizer, **options)
    else:
        scorer = FrozenLabelScorer(trainer.model, tokenizer, frozen=frozen, **options)
    evaluated = EvaluatedLogits(trainer.args, model_arguments)
    together = trainer.args.world_size == 1 and frozen is None  # as a finished run: all documents, through all layers
    validation = (data.texts("validation"), data.gold("validation"))
    trainer.add_callback(LabelScoringCallback(trainer, scorer, *validation, evaluated if together else None))
    trainer.add_callback(evaluated)


def _project_answers_only() -> None:
    """Let TRL's fused LM head project the answers' positions only, on a CPU too.

    TRL leaves out the positions without a label on GPUs; elsewhere it projects every position of the prompt to the
    vocabulary and masks the results, which more than doubles a training step there. Seen with TRL 1.16.
    """
    from trl.trainer import utils

    if hasattr(utils, "_use_triton"):  # what decides it, and nothing else
        utils._use_triton = lambda device: True


def _sft_trainer_class(model: PreTrainedModel, arguments: InstructionTrainingArguments) -> type[SFTTrainer]:
    """The trainer that `share_prefix` asks for; by default, the one that shares the prefix wherever it can."""
    from trl import SFTTrainer

    from .shared_prefix import SharedPrefixSFTTrainer, sharing_obstacle

    obstacle = None if arguments.share_prefix is False else sharing_obstacle(model, arguments)
    if obstacle is not None and arguments.share_prefix:
        raise ValueError(f"share_prefix is set, but {obstacle}. Leave it out to train the ordinary way.")
    if obstacle is not None:
        logger.info(f"The instruction is run for each document, not once a batch: {obstacle}.")
    return SFTTrainer if obstacle is not None or arguments.share_prefix is False else SharedPrefixSFTTrainer
