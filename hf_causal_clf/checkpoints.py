"""Checkpoints: what is wrong with the files of a model or its tokenizer, told before anything large is loaded."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from .sources import check_source

ADAPTER_CONFIG_FILE = "adapter_config.json"
_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")


def read_decoder_config(source: str, revision: str | None = None) -> PreTrainedConfig:
    """Read the configuration of a decoder-only model, and check what is there of its weights.

    Raises:
        OSError: If there is no such model.
        ValueError: If it is not decoder-only, or its weights are damaged.
    """
    check_source(source, "config.json", revision=revision)
    try:
        config = AutoConfig.from_pretrained(source, revision=revision)
    except (OSError, ValueError) as error:
        adapter = (Path(source) / ADAPTER_CONFIG_FILE).is_file()
        advice = "It is an adapter: give its base model" if adapter else "Give a Hub id or the path of a folder"
        raise OSError(f"The model {source!r} cannot be read. {advice}. {error}") from error
    if config.is_encoder_decoder or config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        raise ValueError(f"{source!r} is not a decoder-only model, but of type {config.model_type!r}. Use another one.")
    check_weights(source)
    return config


def check_weights(source: str | PathLike[str]) -> None:
    """Check that safetensors files are whole; only their heads are read.

    Args:
        source: A file, or a folder of them. What is not there is not checked.

    Raises:
        ValueError: If one is damaged, or a folder of a model has none.
    """
    path = Path(source)
    if (path / "config.json").is_file() and not any(next(path.glob(pattern), None) for pattern in _WEIGHTS):
        raise ValueError(
            f"The folder {str(path)!r} has a model's configuration, but no weights (model.safetensors). Get them "
            "again, or give the folder that has them."
        )
    for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path][: path.is_file()]:
        try:
            with safe_open(file, framework="pt") as weights:
                weights.keys()
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file} is damaged ({error}). Get it again, or train it again.") from error


def load_tokenizer(source: str | PathLike[str], **hub_kwargs: Any) -> PreTrainedTokenizerBase:
    """Load a tokenizer.

    Raises:
        OSError: If there is none.
        ValueError: If its files are damaged.
    """
    try:
        return AutoTokenizer.from_pretrained(str(source), **hub_kwargs)
    except OSError as error:
        raise OSError(f"There is no tokenizer in {str(source)!r}. {error}") from error
    except Exception as error:  # the tokenizers library raises nothing more special
        raise ValueError(
            f"The tokenizer of {str(source)!r} cannot be read ({error}). Its files are missing or damaged: get them "
            "again."
        ) from error


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, size: Any, source: str) -> None:
    """Check that a model has an embedding for each token of its tokenizer; added tokens may never be used.

    Args:
        tokenizer: The tokenizer.
        size: Number of the model's embeddings; `None` if it is not known.
        source: What both were loaded from.

    Raises:
        ValueError: If it has fewer.
    """
    if size is not None and tokenizer.vocab_size > size:
        raise ValueError(
            f"The tokenizer of {source!r} has {tokenizer.vocab_size} tokens, but the model has embeddings for {size}: "
            "it is the tokenizer of another model. Put the model's own into the folder."
        )
