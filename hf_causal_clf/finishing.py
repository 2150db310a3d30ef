"""A model that was trained elsewhere becomes a run: its description is written beside what `save_model` left.

Knows a model in memory and what reads its documents; how it was trained makes no difference.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from transformers import BitsAndBytesConfig, PreTrainedModel

from .adapters import ADAPTER_WEIGHTS_FILE
from .checkpoints import ADAPTER_CONFIG_FILE
from .collators import DocumentEncoder
from .labels import LabelSpace
from .modeling import CausalLMForLastTokenClassification
from .presets import bitsandbytes_settings, commit_of
from .prompts import PromptEncoder
from .run_files import CLASSIFICATION_FILE, METRICS_FILE, PREDICTIONS_FILE, read_json, write_json
from .runs import embedding, instruction, run_description


def save_description(
    folder: str | PathLike[str], model: PreTrainedModel, encoder: DocumentEncoder | PromptEncoder
) -> Path:
    """Write `classification.json` and the tokenizer beside a saved model, so that `TextClassifier` loads the folder.

    Call it after `trainer.save_model(folder)` of any `Trainer`, in one process. Labels, pooling, base model, data type
    and quantisation are read from the model. The base model's commit is that of the adapter's `revision`, by default
    of its main branch, and is written into `adapter_config.json` where that has none. Probabilities are as the model
    gives them: nothing is calibrated.

    Args:
        folder: Where the model was saved.
        model: `CausalLMForLastTokenClassification`, or for the instruction-based approach any causal language model;
            as it is or in a PEFT model.
        encoder: What read the documents in training: `DocumentEncoder(tokenizer, max_length, truncation)`, or with a
            prompt `template.bind(tokenizer, verbalizer)`, which `VerbalizerCollator` has as its `encoder`.

    Returns:
        The path of `classification.json`.

    Raises:
        FileNotFoundError: If the model has not been saved in the folder.
        ValueError: If encoder and model do not fit each other, the adapter lacks its base model's name or its head, or
            the folder has the results of another run.
    """
    folder = Path(folder)
    _check_folder(folder, adapter=hasattr(model, "get_base_model"))
    description = _describe(model, encoder)
    if hasattr(model, "get_base_model"):
        settings = read_json(folder / ADAPTER_CONFIG_FILE)
        if settings.get("revision") is None and description["base_model"]["revision"]:
            write_json(folder / ADAPTER_CONFIG_FILE, settings | {"revision": description["base_model"]["revision"]})
    encoder.tokenizer.save_pretrained(folder)
    write_json(folder / CLASSIFICATION_FILE, description)
    return folder / CLASSIFICATION_FILE


def _check_folder(folder: Path, *, adapter: bool) -> None:
    saved = [folder / ADAPTER_WEIGHTS_FILE] if adapter else list(folder.glob("model*.safetensors"))
    if not saved or not saved[0].is_file():
        raise FileNotFoundError(f"{str(folder)!r} has no weights of the model. Call trainer.save_model(…) on it first.")
    results = [name for name in (METRICS_FILE, PREDICTIONS_FILE) if (folder / name).exists()]
    if results:
        raise ValueError(f"{str(folder)!r} has {results} of another run. Save the model into a folder of its own.")


def _describe(model: Any, encoder: DocumentEncoder | PromptEncoder) -> dict[str, Any]:
    peft_config = model.peft_config[model.active_adapter] if hasattr(model, "get_base_model") else None
    plain = model.get_base_model() if peft_config is not None else model
    source = plain.name_or_path if peft_config is None else peft_config.base_model_name_or_path
    if peft_config is not None and not source:
        raise ValueError("The adapter does not know its base model's name. Load the base model with from_pretrained.")
    limits = encoder.template if isinstance(encoder, PromptEncoder) else encoder
    label_space, approach = _approach(plain, peft_config, encoder)
    settings = getattr(plain.config, "quantization_config", None)
    return run_description(
        label_space,
        {
            "name_or_path": source,
            "revision": commit_of(source, getattr(peft_config, "revision", None)),
            "dtype": str(plain.get_input_embeddings().weight.dtype).removeprefix("torch."),
            "quantization": bitsandbytes_settings(settings) if isinstance(settings, BitsAndBytesConfig) else None,
        },
        max_length=limits.max_length,
        truncation=limits.truncation,
        **approach,
    )


def _approach(
    plain: Any, peft_config: Any, encoder: DocumentEncoder | PromptEncoder
) -> tuple[LabelSpace, dict[str, Any]]:
    """Label space, and the part of `classification.json` that is the approach's own."""
    if not isinstance(plain, CausalLMForLastTokenClassification):
        if not isinstance(encoder, PromptEncoder):
            raise ValueError(
                f"{type(plain).__name__} has no classification head, so it answers a prompt. Give as encoder "
                "template.bind(tokenizer, verbalizer), or the encoder of its VerbalizerCollator."
            )
        return encoder.verbalizer.labels, instruction(encoder.template, encoder.verbalizer)
    label_space = plain.config.label_space
    if isinstance(encoder, PromptEncoder) and encoder.verbalizer.labels != label_space:
        raise ValueError(
            f"The model has the labels {list(label_space.names)}, the verbalizer "
            f"{list(encoder.verbalizer.labels.names)}. Give both the same label space."
        )
    if peft_config is not None and "score" not in (peft_config.modules_to_save or ()):
        raise ValueError('The adapter was saved without its head. Train it with LoraConfig(task_type="SEQ_CLS", …).')
    return label_space, embedding(plain.config.pooling, encoder)
