"""The standard `Trainer` of the embedding-based approach."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments
from transformers.trainer_utils import set_seed
from transformers.utils import logging

from ..backbone.adapters import compute_in_bfloat16
from ..backbone.batching import padding_id
from ..backbone.cache import cached, computing_versions, shared_folder
from ..backbone.context import sees_backward_only
from ..backbone.settings import base_weights, model_identity, peft_config
from ..data.rows import parts_of, to_dataset, values_of, write_table
from ..data.sampling import stratified_sample
from ..data.splits import ClassificationData
from ..task.documents import DocumentEncoder
from ..task.labels import LabelSpace
from ..task.prompts import PromptEncoder
from ..task.tokens import warn_of_unknown
from ..training.arguments import RunArguments
from ..training.evaluated import EvaluatedLogits
from ..training.frozen import cache_frozen_layers
from ..training.length import settle_length
from ..training.outline import tell_outline
from ..training.processes import over_processes, sharding
from ..training.pushing import publish_runs
from ..training.train import early_stopping
from .answer_loss import AnswerLoss
from .arguments import EmbeddingModelArguments, EmbeddingTrainingArguments, HeadArguments
from .collator import ClassificationCollator, sequences_of
from .evaluation import HeadEvaluation
from .features import features_of
from .head_init import read_output_embeddings, suffix_head, verbalizer_head
from .head_rate import set_head_learning_rate
from .loading import load_with_head
from .model import CausalLMForLastTokenClassification
from .probe import DOCUMENTS, probe_head

if TYPE_CHECKING:
    import pyarrow as pa
    from trl import ModelConfig


def embedding_trainer(
    data: ClassificationData,
    tokenizer: PreTrainedTokenizerBase,
    encoder: DocumentEncoder | PromptEncoder,
    model_arguments: EmbeddingModelArguments,
    training_arguments: EmbeddingTrainingArguments,
    head_arguments: HeadArguments,
    run_arguments: RunArguments,
) -> Trainer:
    """Build the standard `Trainer` of the embedding-based approach.

    With a `PromptEncoder`, the head starts from its answers, whatever `head_arguments` say.
    """
    warn_of_unknown(tokenizer, data.splits["train"]["text"])
    label_space, in_chunks = data.label_space, encoder.long_documents == "chunks"
    probes = head_arguments.start(training_arguments) == "probe" and isinstance(encoder, DocumentEncoder)
    _check(label_space, training_arguments, in_chunks=in_chunks, probes=probes)
    answer_weight = head_arguments.answer_weight(in_chunks=in_chunks) if isinstance(encoder, PromptEncoder) else 0.0
    encoded = {
        "train": _encode(data, "train", encoder, in_chunks, answers=answer_weight > 0),
        "validation": _encode(data, "validation", encoder, in_chunks),
    }
    lengths = np.fromiter(values_of(encoded["train"], "whole_length"), dtype=np.int64)
    settle_length(training_arguments, len(lengths), len(encoded["validation"]))
    tell_outline(data, lengths, encoder.document_budget, training_arguments, in_chunks=in_chunks)
    model = _new_model(
        data, encoder, model_arguments, training_arguments, head_arguments, run_arguments, encoded, answer_weight
    )
    training_arguments.label_smoothing_factor = 0.0  # the model's own loss does it, normalised
    evaluated = EvaluatedLogits(training_arguments, model_arguments)
    # The documents that a finished run runs together, through all layers
    together = training_arguments.world_size == 1 and not in_chunks and not model_arguments.cache_frozen_layers
    evaluation = HeadEvaluation(
        encoded["validation"], multi_label=label_space.multi_label, evaluated=evaluated if together else None
    )
    trainer = Trainer(
        model=model,
        args=training_arguments,
        train_dataset=encoded["train"],
        eval_dataset=evaluation.rows,
        processing_class=tokenizer,
        data_collator=ClassificationCollator(label_space, padding_id(tokenizer)),
        compute_metrics=evaluation,
        callbacks=[evaluated, *early_stopping(run_arguments, training_arguments, data)],
    )
    if training_arguments.head_learning_rate is not None:
        set_head_learning_rate(trainer, training_arguments.head_learning_rate)
    cache_frozen_layers(trainer, model_arguments, sequences_of(encoded.values(), in_chunks))
    publish_runs(trainer, run_arguments)
    return trainer


def _new_model(
    data: ClassificationData,
    encoder: DocumentEncoder | PromptEncoder,
    model_arguments: EmbeddingModelArguments,
    arguments: EmbeddingTrainingArguments,
    head: HeadArguments,
    run: RunArguments,
    encoded: dict[str, Any],
    answer_weight: float,
) -> Any:
    """The model with its head as it starts and, if there is to be one, a new adapter."""
    weight = lm_head = None
    if isinstance(encoder, PromptEncoder):
        lm_head = _lm_head(model_arguments)
        weight = verbalizer_head(lm_head, encoder.answer_ids, end_tokens=len(encoder.end_ids))
    set_seed(arguments.seed)  # the head is random, and has to be the same in all processes
    model: Any = load_with_head(
        model_arguments.model_name_or_path,
        base_weights(model_arguments),
        label_space=data.label_space,
        pooling=head.pooling,
        label_smoothing=arguments.label_smoothing_factor,
        **(data.balanced_weights() if run.class_weight == "balanced" else {}),
        tokenizer=encoder.tokenizer,
        place=False,
        revision=model_arguments.model_revision,
    )
    model.length_groups = _groups_lengths(arguments)
    if lm_head is not None and answer_weight:
        if not sees_backward_only(model.backbone):
            raise ValueError(
                f"In {model_arguments.model_name_or_path!r} a token sees those after it, so that the head would see "
                "the answer in training. Set answer_loss_weight to 0, or head_init to probe."
            )
        model.answer_loss = AnswerLoss(lm_head, answer_weight, model.config.text_config)
    resumed = arguments.resume_from_checkpoint is not None  # a checkpoint has the head
    if isinstance(encoder, DocumentEncoder) and head.start(arguments) == "probe" and not resumed:
        weight = _probe_weight(model, encoder, data, encoded["train"], model_arguments, arguments)
    if weight is not None:
        model.score.weight.data.copy_(weight)
    config = peft_config(model_arguments, model, model_arguments.lora_layers)
    return model if config is None else _add_adapter(model, config, arguments)


def _check(label_space: LabelSpace, arguments: EmbeddingTrainingArguments, *, in_chunks: bool, probes: bool) -> None:
    """Raise a `ValueError` for settings that do not go together, before a model is loaded."""
    if label_space.multi_label and arguments.label_smoothing_factor:
        raise ValueError("label_smoothing_factor is for single-label tasks. Leave it out.")
    if probes and (found := sharding(arguments)):
        raise ValueError(f"head_init probe is not possible with {found}, which shards the model. Set it to random.")
    if in_chunks and (obstacle := _calls_obstacle(arguments)):
        raise ValueError(
            f"long_documents chunks is not possible with {obstacle} in the embedding-based approach: a step calls the "
            "model as often as its documents need. Leave one of the two out."
        )


def _encode(
    data: ClassificationData,
    split: str,
    encoder: DocumentEncoder | PromptEncoder,
    in_chunks: bool,
    *,
    answers: bool = False,
) -> Any:
    """Token ids, encoded labels and whole lengths of a split, as a data set; with the answers behind the prompts."""
    import pyarrow as pa

    rows = data.splits[split]
    encode_label = data.label_space.encode
    fit: Any = encoder.fit_chunks if in_chunks else encoder.fit
    kind = pa.list_(pa.list_(pa.int32())) if in_chunks else pa.list_(pa.int32())

    def batches() -> Iterator[pa.RecordBatch]:
        for part in parts_of(rows, "text", "label"):
            found: list[tuple[Any, int, int]] = []
            for text, label in zip(part["text"], part["label"], strict=True):  # one by one: whole documents may be long
                ids = encoder.whole_ids(text)
                if answers and isinstance(encoder, PromptEncoder):
                    answer = encoder.target_ids(label)
                    found.append((encoder.fit(ids, answer_tokens=len(answer)) + answer, len(ids), len(answer)))
                else:
                    found.append((fit(ids), len(ids), 0))
            input_ids, lengths, answer_tokens = zip(*found, strict=True)
            columns = {"input_ids": pa.array(input_ids, kind), "labels": pa.array(map(encode_label, part["label"]))}
            columns |= {"whole_length": pa.array(lengths)}
            columns |= {"answer_tokens": pa.array(answer_tokens)} if answers else {}
            progress.update(len(found))
            yield pa.record_batch(list(columns.values()), list(columns))

    with logging.tqdm(total=len(rows), desc=f"Tokenizing {split}", unit="doc", delay=2.0) as progress:
        return to_dataset(write_table(batches()))


def _lm_head(model_arguments: ModelConfig) -> torch.Tensor:
    output_embeddings = _output_embeddings(model_arguments)
    if output_embeddings is None:
        raise ValueError(
            f"{model_arguments.model_name_or_path!r} has no language-modelling head to start from. Use another "
            "checkpoint, or set head_init to random or probe."
        )
    return output_embeddings


def _output_embeddings(model_arguments: ModelConfig) -> torch.Tensor | None:
    source, revision = model_arguments.model_name_or_path, model_arguments.model_revision
    return read_output_embeddings(source, revision=revision, dtype=model_arguments.dtype)


def _probe_weight(
    model: CausalLMForLastTokenClassification,
    encoder: DocumentEncoder,
    data: ClassificationData,
    encoded: Any,
    model_arguments: ModelConfig,
    arguments: EmbeddingTrainingArguments,
) -> torch.Tensor:
    """Weight of a head that starts from frozen features of the training documents; the same in all processes."""
    if not getattr(model, "is_quantized", False):
        model.to(arguments.device)  # where the trainer puts it too; quantised weights are there
    gold = data.gold("train")
    if len(encoded) > DOCUMENTS:
        rows = stratified_sample(gold, DOCUMENTS, arguments.seed)
        encoded, gold = encoded.select(rows), gold[rows]
    documents = encoded["input_ids"][:]
    if encoder.long_documents != "chunks":
        documents = [[ids] for ids in documents]
    pooling, batch_size = model.config.pooling, arguments.per_device_eval_batch_size

    def features(share: Sequence[list[list[int]]]) -> np.ndarray:
        return features_of(model.backbone, share, batch_size=batch_size, poolings=[pooling])[pooling]

    content = {
        "features": [pooling, documents],
        "model": [model_identity(model_arguments), model_arguments.attn_implementation],
        "computed": [batch_size, str(arguments.device), computing_versions()],
    }
    known, _ = cached(
        shared_folder(), content, lambda: features, lambda run: {"features": over_processes(run, documents)}
    )

    answers: torch.Tensor | None = None
    if pooling == "last" and encoder.suffix and (lm_head := _output_embeddings(model_arguments)) is not None:
        answers = suffix_head(lm_head, encoder.tokenizer, encoder.suffix, data.label_space.names)
    start = probe_head(
        known["features"],
        gold,
        len(data.label_space),
        answers=None if answers is None else answers.numpy(),
        seed=arguments.seed,
    )
    return torch.from_numpy(start)


def _groups_lengths(arguments: EmbeddingTrainingArguments) -> bool:
    """Whether to run rows of similar length together: sharded weights want the same calls in all processes."""
    safe = _calls_obstacle(arguments) is None
    if arguments.length_groups and not safe:
        raise ValueError("length_groups is not possible with FSDP, DeepSpeed or torch_compile. Leave it out.")
    return safe if arguments.length_groups is None else arguments.length_groups


def _calls_obstacle(arguments: EmbeddingTrainingArguments) -> str | None:
    """What keeps a step from calling the backbone as often as it likes; `None` if nothing does."""
    return sharding(arguments) or ("torch_compile" if arguments.torch_compile else None)


def _add_adapter(model: PreTrainedModel, config: Any, arguments: TrainingArguments) -> Any:
    from peft import get_peft_model

    peft_model = get_peft_model(model, config)
    compute_in_bfloat16(peft_model)
    if arguments.activation_checkpointing:
        peft_model.enable_input_require_grads()
    return peft_model
