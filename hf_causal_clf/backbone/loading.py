"""Base models, adapters and tokenizers: what is wrong with them told first, then loaded whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import logging

from ..cli.logs import expected_weights
from ..cli.mistakes import report
from ..cli.packages import missing_packages
from ..cli.sources import check_source
from ..runs.files import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, find_file, read_json
from .adapters import compute_in_bfloat16
from .attention import keep_exact_gradients, take_plain_attention
from .weights import AS_SAVED, BaseWeights, process_device

LM_HEADS = ("lm_head", "embed_out")  # beginnings of the names of weights that a backbone does not have
_OLDER_TOKENIZERS = ("sentencepiece", "tiktoken")  # packages that read what came before tokenizer.json
_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")


def load_causal_lm(
    source: str | PathLike[str],
    weights: BaseWeights = AS_SAVED,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    place: bool = True,
    **hub_kwargs: Any,
) -> PreTrainedModel:
    """Load a causal language model, with an adapter or without.

    Args:
        source: Hub id or folder of a checkpoint, or of an adapter, which names its base model.
        weights: How the base model's weights are loaded.
        tokenizer: Its tokenizer, to check that the model has an embedding for each token.
        place: Whether to move it to this process's device; `False` leaves that to a trainer. Quantised weights, and
            those with a `device_map`, are where they stay.
        hub_kwargs: `revision`, `token`, `cache_dir`, `local_files_only`, `force_download`.

    Returns:
        The model in evaluation mode; an adapter is loaded into it, not merged.

    Raises:
        FileNotFoundError: If an adapter's base model is not there.
        ValueError: If weights are missing or damaged, or tokenizer, adapter and base model do not fit each other.
    """
    adapter = find_adapter(source, **hub_kwargs)
    base, base_kwargs = str(source), hub_kwargs
    if adapter is not None:
        base, revision = read_base(adapter)
        base_kwargs = {**hub_kwargs, "revision": revision}
    model = AutoModelForCausalLM.from_pretrained(base, **weights.kwargs(), **base_kwargs)
    keep_exact_gradients(model)
    if adapter is not None:
        load_adapter(model, source, **hub_kwargs)
    return settle(model, source, weights, tokenizer=tokenizer, place=place)


def load_backbone(source: str, weights: BaseWeights = AS_SAVED, **hub_kwargs: Any) -> PreTrainedModel:
    """Load the decoder of a causal language model, without its LM head; arguments as for `load_causal_lm`."""
    with expected_weights(unused=LM_HEADS):
        model = AutoModel.from_pretrained(source, **weights.kwargs(), **hub_kwargs)
    keep_exact_gradients(model)
    return settle(model, source, weights)


def settle(
    model: Any,
    source: str | PathLike[str],
    weights: BaseWeights,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    place: bool = True,
) -> Any:
    """Check a loaded model's vocabulary, put it on its device and choose its kernels; as for `load_causal_lm`."""
    if tokenizer is not None:
        check_vocabulary(tokenizer, model.get_input_embeddings().num_embeddings, str(source))
    if place and "device_map" not in weights.kwargs():
        model = model.to(process_device())
    if weights.attn_implementation is None:
        take_plain_attention(model)
    return model


def find_adapter(source: str | PathLike[str], **hub_kwargs: Any) -> Path | None:
    """Return the local path of an adapter's configuration, or `None` if `source` is not an adapter.

    Raises:
        ValueError: If the adapter's weights are missing or damaged.
    """
    config = find_file(source, ADAPTER_CONFIG_FILE, **hub_kwargs)
    if config is None:
        return None
    weights = find_file(source, ADAPTER_WEIGHTS_FILE, **hub_kwargs)
    if weights is None:
        raise ValueError(
            f"{str(source)!r} has an {ADAPTER_CONFIG_FILE} but no {ADAPTER_WEIGHTS_FILE}. Train or download it again."
        )
    check_weights(weights)
    return config


def read_base(config: Path) -> tuple[str, str | None]:
    """Return the base model's name or path and its revision from an adapter's configuration.

    Raises:
        FileNotFoundError: If it names a folder that is not there.
        ValueError: If it names none, or one whose weights are damaged.
    """
    data = read_json(config)
    base = data.get("base_model_name_or_path")
    if not base:
        raise ValueError(f"{config} does not name its base model (`base_model_name_or_path`). Write it in.")
    if os.path.isabs(base) and not os.path.isdir(base):
        raise FileNotFoundError(
            f"The base model {base!r} of {config} is not there. Put it back, or write its new folder or its Hub id "
            "into `base_model_name_or_path`."
        )
    check_weights(base)
    return base, data.get("revision")


def load_adapter(model: PreTrainedModel, source: str | PathLike[str], **hub_kwargs: Any) -> None:
    """Load an adapter into its base model, in evaluation mode and not merged.

    Raises:
        ValueError: If weights are missing or have other shapes than the base model asks for.
    """
    with misfit_named(source):
        found = model.load_adapter(str(source), adapter_kwargs=hub_kwargs)
    if found.missing_keys or found.mismatched_keys:
        names = sorted(map(str, [*found.missing_keys, *found.mismatched_keys]))
        raise ValueError(
            f"{ADAPTER_WEIGHTS_FILE} of {str(source)!r} does not fit its base model: {len(names)} weights are missing "
            f"or of another shape, such as {names[0]}. The file is damaged, or the base model is another one."
        )
    _restore_precision(model, source, **hub_kwargs)
    compute_in_bfloat16(model)
    model.eval()


@contextmanager
def misfit_named(source: str | PathLike[str]) -> Iterator[None]:
    """Say what is wrong where PEFT and transformers refuse an adapter for a model: each has its own way."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"The adapter {str(source)!r} does not fit its base model: weights are of another shape, or for layers "
            f"that it does not have. {ADAPTER_WEIGHTS_FILE} is damaged, or base model or labels are not those of "
            "training."
        ) from error


def _restore_precision(model: PreTrainedModel, source: str | PathLike[str], **hub_kwargs: Any) -> None:
    """Put the saved weights back in float32, as PEFT does; transformers rounds them to the base model's data type."""
    weights = load_file(str(find_file(source, ADAPTER_WEIGHTS_FILE, **hub_kwargs)))
    for name, parameter in model.named_parameters():
        saved = weights.get(f"base_model.model.{name.replace('.default', '')}")
        if saved is not None:
            parameter.data = saved.float().to(parameter.device)


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
        ValueError: If its files are damaged, or need a package that is not installed.
    """
    try:
        return AutoTokenizer.from_pretrained(str(source), **hub_kwargs)
    except OSError as error:
        raise OSError(f"There is no tokenizer in {str(source)!r}. {error}") from error
    except Exception as error:  # the tokenizers library raises nothing more special
        if "pip install tiktoken" in str(error):  # said of a file of sentencepiece as well
            report(missing_packages(_OLDER_TOKENIZERS, f"The tokenizer of {str(source)!r}, without a tokenizer.json,"))
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


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' loading reports out of the log for a while."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
