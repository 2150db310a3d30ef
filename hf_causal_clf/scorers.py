"""A saved run's scorer: what gives its logits, for each kind of run of one model. Calibrates nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedTokenizerBase

from .backbone.loading import load_causal_lm, load_tokenizer
from .backbone.weights import BaseWeights
from .embedding.loading import load_with_head
from .embedding.scorer import HeadScorer
from .instruction.scorer import LabelScorer
from .runs.files import find_file
from .runs.run import Run
from .runs.schema import KINDS
from .task.documents import DocumentEncoder
from .task.prompts import PromptEncoder
from .task.scorer import Scorer

AUTO = "auto"


def load_scorer(
    source: str,
    run: Run,
    hub_kwargs: dict[str, Any],
    *,
    batch_size: int,
    dtype: str | torch.dtype,
    quantization_config: BitsAndBytesConfig | str | None,
    **options: Any,
) -> Scorer:
    """Load what gives the logits of a run of one model; its settings are those of `TextClassifier.from_pretrained`."""
    if isinstance(quantization_config, str):
        settings = run.base_model.quantization
        quantization_config = None if settings is None else BitsAndBytesConfig(**settings)
    dtype = run.base_model.dtype if dtype == AUTO else dtype  # type: ignore[assignment]
    weights = BaseWeights(dtype=dtype, quantization_config=quantization_config, **options)
    return _LOADERS[run.approach](source, run, weights, hub_kwargs, batch_size)


def _load_head(source: str, run: Run, weights: BaseWeights, hub_kwargs: dict[str, Any], batch_size: int) -> HeadScorer:
    tokenizer = load_tokenizer(source, **hub_kwargs)
    model = load_with_head(source, weights, tokenizer=tokenizer, **hub_kwargs)
    return HeadScorer(model, tokenizer, _encoder_of_head(run, tokenizer), batch_size=batch_size)


def load_onnx_scorer(
    source: str, run: Run, hub_kwargs: dict[str, Any], batch_size: int, options: dict[str, Any]
) -> Scorer:
    """Load an exported run's `model.onnx`; `options` are other settings, none of which may be changed."""
    from .embedding.onnx_scorer import OnnxScorer
    from .sharing.onnx import ONNX_FILE

    fixed = {"dtype": (AUTO, "float32", torch.float32), "quantization_config": (AUTO, None)}
    if changed := [name for name, value in options.items() if value not in fixed.get(name, (None,))]:
        raise ValueError(f"backend 'onnx' runs a file in float32 on the CPU: leave {' and '.join(changed)} out.")
    if run.approach not in ("embedding", "encoder"):
        known = "the embedding-based approach and encoders"
        raise ValueError(f"backend 'onnx' is for {known}; {source!r} is a {KINDS[run.approach]}.")
    path = find_file(source, ONNX_FILE, **hub_kwargs)
    if path is None:
        raise FileNotFoundError(
            f"{source!r} has no {ONNX_FILE}. Write one, beside a checkpoint, with: hf-causal-clf export "
            f"--model_name_or_path {source} --output_dir exported --onnx true"
        )
    find_file(source, f"{ONNX_FILE}.data", **hub_kwargs)  # large weights, which ONNX Runtime looks for beside it
    tokenizer = load_tokenizer(source, **hub_kwargs)
    options = {"approach": run.approach, "batch_size": batch_size}
    return OnnxScorer(path, tokenizer, chunk_reader(run, tokenizer), len(run.label_space), **options)


def chunk_reader(run: Run, tokenizer: PreTrainedTokenizerBase) -> Callable[[str], list[list[int]]]:
    """Return what turns a document into the token ids of its chunks, as the run's model reads them."""
    if run.approach != "encoder":
        return _encoder_of_head(run, tokenizer).chunks
    from .baselines.encoder import token_ids

    return lambda text: [token_ids(text, tokenizer, run.truncation.max_length)["input_ids"]]


def _encoder_of_head(run: Run, tokenizer: PreTrainedTokenizerBase) -> DocumentEncoder | PromptEncoder:
    if run.prompt is not None:
        return run.prompt.bind(tokenizer)
    limits = run.truncation
    return DocumentEncoder(
        tokenizer, limits.max_length, limits.side, suffix=run.document_suffix, long_documents=limits.long_documents
    )


def _load_label_scorer(
    source: str, run: Run, weights: BaseWeights, hub_kwargs: dict[str, Any], batch_size: int
) -> LabelScorer:
    tokenizer = load_tokenizer(source, **hub_kwargs)
    assert run.prompt is not None
    template, verbalizer = run.prompt.template, run.prompt.verbalizer
    model = load_causal_lm(source, weights, tokenizer=tokenizer, **hub_kwargs)
    return LabelScorer(model, tokenizer, template=template, verbalizer=verbalizer, batch_size=batch_size)


def _load_tfidf(source: str, run: Run, weights: BaseWeights, hub_kwargs: dict[str, Any], batch_size: int) -> Scorer:
    from .baselines.tfidf import TfidfScorer

    return TfidfScorer.load(source, len(run.label_space), batch_size=batch_size, **hub_kwargs)


def _load_frozen(source: str, run: Run, weights: BaseWeights, hub_kwargs: dict[str, Any], batch_size: int) -> Scorer:
    from .baselines.frozen import FrozenScorer

    return FrozenScorer.load(source, run, weights, batch_size=batch_size, **hub_kwargs)


def _load_encoder(source: str, run: Run, weights: BaseWeights, hub_kwargs: dict[str, Any], batch_size: int) -> Scorer:
    from .baselines.encoder import EncoderScorer

    return EncoderScorer.load(source, run, weights, batch_size=batch_size, **hub_kwargs)


_LOADERS: dict[str, Callable[[str, Run, BaseWeights, dict[str, Any], int], Scorer]] = {
    "embedding": _load_head,
    "instruction": _load_label_scorer,
    "tfidf": _load_tfidf,
    "frozen": _load_frozen,
    "encoder": _load_encoder,
}
