"""One ONNX file of a model, and its logits in ONNX Runtime. The packages for ONNX are imported where they are used."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..cli.packages import missing_packages

ONNX_FILE = "model.onnx"
INPUTS = ("input_ids", "attention_mask")
_SILENT = ("ORT_DISABLE_TELEMETRY", "1")  # importing it reports to its maker otherwise. Seen with 1.32


class LogitsOfMaskedTokens(nn.Module):
    """The logits of a batch padded at either side, from token ids and attention mask alone.

    Positions are counted over the mask, so that padding changes nothing about the tokens, whatever id it has.

    Args:
        model: `CausalLMForLastTokenClassification`, or a causal language model.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.takes_position_ids = "position_ids" in inspect.signature(model.forward).parameters

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return logits: `(batch, labels)` of a classifier, `(batch, length, vocabulary)` of a language model."""
        kwargs = {}
        if self.takes_position_ids:
            kwargs["position_ids"] = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **kwargs).logits


class LogitsOfPaddedDocuments(nn.Module):
    """The logits of an encoder, from token ids and attention mask of a batch that is padded at the right.

    Args:
        model: A stock sequence classifier.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return logits `(batch, labels)`."""
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


def require_onnx() -> None:
    """Import the packages that an export needs.

    Raises:
        SystemExit: If one of them is missing.
    """
    os.environ.setdefault(*_SILENT)
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise SystemExit(f"ONNX needs the package {name} ({error}): pip install 'hf_causal_clf[onnx]'") from error


def export_onnx(model: nn.Module, folder: Path, *, encoder: bool = False) -> Path:
    """Write `model.onnx`, with its weights in a file beside it if they are too large for one.

    Args:
        model: Model in float32, as for `LogitsOfMaskedTokens`.
        folder: Existing folder to write to.
        encoder: Whether the model is as for `LogitsOfPaddedDocuments`.

    Returns:
        The path of the file. Its inputs are int64 `input_ids` and `attention_mask` of any batch size and length; its
        output is float32 `logits`.

    Raises:
        SystemExit: If torch's exporter cannot translate the model, with the exporter's reason; or if the model has
            LongRoPE.
    """
    if "longrope" in _rope_types(model):
        raise SystemExit(
            f"{type(model).__name__} has LongRoPE, which takes other frequencies for long texts. torch's exporter "
            "keeps those of short texts only: the ONNX file would be wrong for long ones. Leave onnx out."
        )
    ids = torch.tensor([[3, 4, 5, 6, 7], [4, 5, 6, 7, 8]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    axes = {0: "batch", 1: "sequence"}
    path = folder / ONNX_FILE
    try:
        with _quiet_exporter():
            program: Any = torch.onnx.export(
                (LogitsOfPaddedDocuments if encoder else LogitsOfMaskedTokens)(model).eval(),
                (ids, mask),
                dynamo=True,
                verbose=False,
                input_names=INPUTS,
                output_names=("logits",),
                dynamic_shapes=dict.fromkeys(INPUTS, axes),
            )
            program.save(path)
    except Exception as error:  # the exporter and what it traces raise errors of any kind
        raise SystemExit(f"torch.onnx cannot export {type(model).__name__}: {_reason(error)}") from error
    return path


def quantize_onnx(path: Path) -> None:
    """Quantise the weights of a file to 8 bits, and what they are multiplied with as it comes (dynamic quantisation).

    Raises:
        SystemExit: If ONNX Runtime cannot quantise it, with its reason.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    aside = path.with_name(f".{path.name}")
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # it advises to preprocess, and warns of each embedding that it leaves
    try:
        quantize_dynamic(path, aside, weight_type=QuantType.QInt8)
    except Exception as error:  # of many kinds
        raise SystemExit(f"ONNX Runtime cannot quantise {path.name}: {_reason(error)}") from error
    finally:
        logging.getLogger().setLevel(level)
    os.replace(aside, path)


def open_onnx(path: Path) -> Any:
    """Open a file in ONNX Runtime, on the CPU, with as many threads as torch has in this process.

    Raises:
        ImportError: If ONNX Runtime is not installed.
        ValueError: If ONNX Runtime refuses the file, with its reason.
    """
    os.environ.setdefault(*_SILENT)
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(next(missing_packages(["onnxruntime"], "ONNX"), str(error))) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common class but this
        raise ValueError(f"ONNX Runtime cannot open {path}: {_reason(error)}") from error


def onnx_logits(session: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the logits of a padded batch in ONNX Runtime."""
    (logits,) = session.run(["logits"], {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    return torch.from_numpy(logits)


def _rope_types(model: Any) -> set[str | None]:
    """The kinds of rotary position embeddings of a model, whose layers may differ in them."""
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    parts = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    return {part.get("rope_type") for part in parts}


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep the exporter's notes on optional packages and deprecations out of the log for a while."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """The first line of the error that the others were raised from, and the line of code that torch blames for it."""
    while error.__cause__ is not None:
        error = error.__cause__
    message = str(error).strip()
    first, _, rest = message.partition("\n")
    _, _, blamed = rest.partition("The following call raised this error:\n")
    where = " ".join(line.strip() for line in blamed.splitlines()[:2])
    return f"{type(error).__name__}: {first}" + (f" ({where})" if where else "")
