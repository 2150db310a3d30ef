"""Export a finished run as a stock checkpoint that plain transformers loads and that servers take.

    hf-causal-clf export --model_name_or_path runs/quickstart/embed --output_dir exported

The adapter is merged into the full-precision base model. An embedding-based run becomes a checkpoint of the stock
…ForSequenceClassification class, with label names, problem type and thresholds; an instruction-based run one of
…ForCausalLM; an encoder stays what it is, and gets its temperature or ONNX. The written checkpoint is loaded again, and
its logits of a padded batch of documents are compared, before success is reported. With `--onnx true` the folder also
holds `model.onnx`, compared in the same way.
"""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hf_causal_clf.cli.logs import hide_by_name

hide_by_name()

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.utils import logging

from hf_causal_clf import CausalLMForLastTokenClassification
from hf_causal_clf.backbone.batching import pad, padding_id
from hf_causal_clf.backbone.loading import (
    LM_HEADS,
    find_adapter,
    load_causal_lm,
    load_tokenizer,
    misfit_named,
    read_base,
)
from hf_causal_clf.backbone.weights import BaseWeights
from hf_causal_clf.cli.logs import expected_weights
from hf_causal_clf.cli.mistakes import report
from hf_causal_clf.cli.parsing import parse_arguments
from hf_causal_clf.cli.sources import missing_folder
from hf_causal_clf.cli.starting import run_script
from hf_causal_clf.embedding.loading import load_with_head
from hf_causal_clf.evaluation.calibration import to_probabilities
from hf_causal_clf.runs.disk import folder_written_aside
from hf_causal_clf.runs.run import Run
from hf_causal_clf.runs.schema import APPROACHES, KINDS
from hf_causal_clf.sharing.onnx import ONNX_FILE, export_onnx, onnx_logits, open_onnx, quantize_onnx, require_onnx
from hf_causal_clf.sharing.stock import THRESHOLDS, left_to_the_caller, own_thresholds

logger = logging.get_logger(__name__)

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.25, "float16": 0.05}  # of logits, which differ by the order of additions
ENCODER = "encoder"
FULL_PRECISION = BaseWeights(dtype=torch.float32)
DOCUMENTS = (  # that are compared, as one batch
    "ok",
    "The second document is longer than the first, and ends in a question, doesn't it?",
    "This one has two lines,\nof which the second has a number: 1,234.5",
    "Größe, 価格, цена",
    "An unknown character, where the tokenizer has any: \U00013000",
)
ONNX_SAMPLES = ((3, 20), (4, 24))  # for ONNX: another batch size and length, and a batch with padding
PADDED = ((0, 24), (0, 17), (0, 9), (12, 24))  # first token of each padded row and the end of its tokens
Batch = tuple[torch.Tensor, torch.Tensor]  # token ids and attention mask, (batch, length)


@dataclass
class ExportArguments:
    """What to export, and where to."""

    model_name_or_path: str = field(metadata={"help": "Finished run: its output_dir, or its Hub repository."})
    output_dir: str = field(metadata={"help": "Folder of the checkpoint; it has to be empty or new."})
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the repository."})
    dtype: str = field(
        default="float32", metadata={"help": "Data type of the written weights.", "choices": list(TOLERANCE)}
    )
    fold_temperature: bool = field(
        default=False,
        metadata={
            "help": "Whether to divide the head's rows by the fitted temperatures, so that the stock model's "
            "probabilities are the calibrated ones (not instruction-based)."
        },
    )
    onnx: bool = field(
        default=False,
        metadata={
            "help": f"Whether to write {ONNX_FILE} too: from input_ids and attention_mask, padded at either side, to "
            "logits. Those of an instruction-based run are of all positions, without past key values. float32 only."
        },
    )
    int8: bool = field(
        default=False,
        metadata={
            "help": f"With onnx: whether to quantise the weights in {ONNX_FILE} to 8 bits: faster on a CPU and not "
            "exact; it says by how much."
        },
    )

    def __post_init__(self) -> None:
        report(self._mistakes())

    def _mistakes(self) -> Iterator[str]:
        if (missing := missing_folder(self.model_name_or_path)) is not None:
            yield missing
        if self.dtype not in TOLERANCE:
            yield f"dtype must be one of {list(TOLERANCE)}, got {self.dtype!r}."
        if self.onnx and self.dtype != "float32":
            yield f"onnx is written in float32 only, got dtype {self.dtype!r}. Leave one of the two out."
        if self.int8 and not self.onnx:
            yield f"int8 quantises {ONNX_FILE}: set onnx to true, or leave int8 out."
        output = Path(self.output_dir)
        if output.exists() and not (output.is_dir() and not any(output.iterdir())):
            yield f"{self.output_dir!r} is not an empty folder. Choose another output_dir."


def main() -> None:
    (arguments,) = parse_arguments((ExportArguments,), __doc__)
    if arguments.onnx:
        require_onnx()
    source, hub_kwargs = arguments.model_name_or_path, {"revision": arguments.model_revision}
    run = Run.read(source, **hub_kwargs)
    if run.approach not in (*APPROACHES, ENCODER):
        reason = "no stock class has what it reads. Load it with TextClassifier.from_pretrained."
        raise SystemExit(f"{source!r} is a {KINDS[run.approach]}: {reason}")
    if run.approach == "embedding" and run.pooling != "last":
        raise SystemExit(
            f"{source!r} has {run.pooling} pooling; stock classes read the last token only, and so does what serves "
            f"them. Serve it with: hf-causal-clf serve --model_name_or_path {source}"
        )
    if run.approach == "instruction" and (arguments.fold_temperature or arguments.int8):
        raise SystemExit("fold_temperature and int8 are not for the instruction-based approach: leave them out.")
    tokenizer = load_tokenizer(source, **hub_kwargs)
    stock = merged(source, run, hub_kwargs)
    embeddings = stock.get_input_embeddings().num_embeddings
    if run.approach == "embedding":
        set_padding(tokenizer, run, embeddings)
        stock.config.pad_token_id = tokenizer.pad_token_id  # by which stock classes find the last token
    batches = [document_batch(tokenizer, run)]
    if arguments.onnx:  # an encoder is padded at the right
        batches += random_batches(embeddings)[: -1 if run.approach == ENCODER else None]
    expected = reference_logits(source, run, hub_kwargs, batches)
    if arguments.fold_temperature:
        run, scale = fold_temperature(stock, run)
        expected = [each / scale for each in expected]
    run = replace(run, base_model=replace(run.base_model, dtype=arguments.dtype, quantization=None))
    output = Path(arguments.output_dir).resolve()  # the folder itself where a link is given
    with folder_written_aside(output) as aside:
        write(stock.to(getattr(torch, arguments.dtype)), tokenizer, run, aside)
        kind = type(stock).__name__
        del stock
        gap = check_checkpoint(aside, run, expected[0], TOLERANCE[arguments.dtype])
        onnx_gap = check_onnx(aside, run.approach, batches, expected) if arguments.onnx else None
        moved = quantised(aside, run, batches[0], expected[0]) if arguments.int8 else None
    print(f"{output} is a {kind} checkpoint; its logits are the run's within {gap:.1e}.")
    if onnx_gap is not None:
        print(f"{output / ONNX_FILE} gives the run's logits within {onnx_gap:.1e} in ONNX Runtime, padded or not.")
    if moved is not None:
        print(f"Then quantised to 8 bits: probabilities of {len(DOCUMENTS)} texts move by up to {moved:.2g}.")
    if (left := left_to_the_caller(run)) is not None:
        print(left)


def merged(source: str, run: Run, hub_kwargs: dict[str, Any]) -> Any:
    """Return the stock model in float32, with the adapter merged into it."""
    from peft import PeftModel

    if run.approach == ENCODER:
        return AutoModelForSequenceClassification.from_pretrained(source, dtype=torch.float32, **hub_kwargs).eval()
    auto: Any = AutoModelForCausalLM
    label_kwargs: dict[str, Any] = {}
    if run.approach == "embedding":
        auto, space = AutoModelForSequenceClassification, run.label_space
        label_kwargs = {
            "num_labels": len(space),
            "id2label": space.id2label,
            "label2id": space.label2id,
            "problem_type": space.problem_type,
        }
    adapter = find_adapter(source, **hub_kwargs)
    if adapter is not None:
        base, revision = read_base(adapter)
        with expected_weights(missing=("score.",), unused=LM_HEADS):
            model = auto.from_pretrained(base, revision=revision, dtype=torch.float32, **label_kwargs)
        with misfit_named(source):
            return PeftModel.from_pretrained(model, source, **hub_kwargs).merge_and_unload().eval()
    if run.approach == "instruction":
        return auto.from_pretrained(source, dtype=torch.float32, **hub_kwargs).eval()
    ours = load_with_head(source, FULL_PRECISION, place=False, **hub_kwargs)
    config = ours.config.text_config
    for name, value in label_kwargs.items():
        setattr(config, name, value)
    model = auto.from_config(config, dtype=torch.float32)
    model.load_state_dict(ours.state_dict())
    return model.eval()


def set_padding(tokenizer: Any, run: Run, embeddings: int) -> None:
    """Let a tokenizer pad at the right, with a token that ends no document: stock classes know padding by its id.

    A tokenizer whose padding token is also the one that it ends documents with is given another of its special tokens,
    one that no document has.

    Raises:
        SystemExit: If it has none.
    """
    tokenizer.padding_side = "right"  # stock classes count positions from the left, padding or not
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(padding_id(tokenizer))
    ids, mask = document_batch(tokenizer, run)
    documents = [row[kept.bool()].tolist() for row, kept in zip(ids, mask, strict=True)]
    if all(document[-1] != tokenizer.pad_token_id for document in documents):
        return
    used = {index for document in documents for index in document}
    unused = [
        ("pad" not in token.content.lower(), index, token.content)
        for index, token in tokenizer.added_tokens_decoder.items()
        if token.special and index < embeddings and index not in used
    ]
    if not unused:
        raise SystemExit(
            f"The run's tokenizer ends documents with its padding token {tokenizer.pad_token!r}, which stock classes "
            "do not read, and has no special token left to pad with. Give the base model's tokenizer a pad_token of "
            "its own, resize the model's embeddings to it, and train again; or use TextClassifier, which needs none."
        )
    tokenizer.pad_token = min(unused)[-1]
    logger.warning(
        f"The tokenizer ends documents with its padding token, which stock classes do not read: the exported one pads "
        f"with {tokenizer.pad_token!r}."
    )


def document_batch(tokenizer: Any, run: Run) -> Batch:
    """Documents as the stock pipeline reads them, padded; behind a prompt if the run has one, an encoder's cut."""
    if run.approach == "embedding" and run.prompt is not None:
        encoder = run.prompt.bind(tokenizer)
        batch: Any = pad([encoder.encode(text) for text in DOCUMENTS], tokenizer.pad_token_id)
    else:
        cut = {"truncation": True, "max_length": run.truncation.max_length} if run.approach == ENCODER else {}
        rows = [tokenizer(text, **cut)["input_ids"] for text in DOCUMENTS]
        batch = pad(rows, padding_id(tokenizer))
    return batch["input_ids"], batch["attention_mask"]


def random_batches(vocabulary: int) -> list[Batch]:
    """Batches of other shapes for ONNX, the last with padding at both sides, whose ids are any token's."""
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(0, vocabulary, shape, generator=generator) for shape in ONNX_SAMPLES]
    batches = [(each, torch.ones_like(each)) for each in ids]
    mask = batches[-1][1].zero_()
    for row, (start, end) in enumerate(PADDED):
        mask[row, start:end] = 1
    return batches


def reference_logits(source: str, run: Run, hub_kwargs: dict[str, Any], batches: list[Batch]) -> list[torch.Tensor]:
    """Return the logits of the run itself in float32, its adapter not merged."""
    if run.approach == ENCODER:
        model = merged(source, run, hub_kwargs)
    else:
        load = load_with_head if run.approach == "embedding" else load_causal_lm
        model = load(source, FULL_PRECISION, place=False, **hub_kwargs)
    return [logits(model, batch) for batch in batches]


@torch.no_grad()
def logits(model: Any, batch: Batch) -> torch.Tensor:
    """Return float32 logits of the sequences, or of all their tokens in a row; each is read alone, without padding."""
    parts = [row[kept.bool()][None] for row, kept in zip(*batch, strict=True)]
    found = [model.eval()(input_ids=part, **uncached(model)).logits.float() for part in parts]
    return torch.cat([each.flatten(0, -2) for each in found])


def uncached(model: Any) -> dict[str, bool]:
    """What keeps a decoder from returning its cache; an encoder has none."""
    return {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}


def fold_temperature(stock: Any, run: Run) -> tuple[Run, torch.Tensor]:
    """Divide the head's rows by the temperatures; return the run without them, and the divisors.

    The head is the last linear layer, under whatever name, of as many outputs as there are labels.
    """
    temperature = run.calibration.temperature
    scale = torch.tensor(1.0 if temperature is None else temperature)
    linear = [module for module in stock.modules() if isinstance(module, torch.nn.Linear)]
    head = [layer for layer in linear if layer.out_features == len(run.label_space)][-1]
    head.weight.data /= scale.reshape(-1, 1)
    if head.bias is not None:
        head.bias.data /= scale
    conformal = run.conformal if temperature is None else None  # its scores are of the logits as they were
    return replace(run, calibration=replace(run.calibration, temperature=None), conformal=conformal), scale


def write(stock: Any, tokenizer: Any, run: Run, folder: Path) -> None:
    if (thresholds := own_thresholds(run)) is not None and run.approach != "instruction":
        setattr(stock.config, THRESHOLDS, thresholds)
    stock.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    run.write(folder)


@torch.no_grad()
def check_checkpoint(folder: Path, run: Run, expected: torch.Tensor, tolerance: float) -> float:
    """Compare the written checkpoint, loaded anew, with the run on documents; return the largest difference.

    The stock classifier reads them as one padded batch.
    """
    batch = document_batch(load_tokenizer(folder), run)
    if run.approach != "instruction":
        ids, mask = batch
        stock: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype="auto").eval()
        found = stock(input_ids=ids, attention_mask=mask, **uncached(stock)).logits.float()
    else:
        found = logits(AutoModelForCausalLM.from_pretrained(folder, dtype="auto"), batch)
    return largest_difference("checkpoint", found, expected, tolerance)


def check_onnx(folder: Path, approach: str, batches: list[Batch], expected: list[torch.Tensor]) -> float:
    """Write `model.onnx` from the written checkpoint and compare it with the run; return the largest difference.

    The class of an embedding-based one is ours, not the stock one, so that the mask alone says where the last token is.
    """
    classes = {"embedding": CausalLMForLastTokenClassification, ENCODER: AutoModelForSequenceClassification}
    auto: Any = classes.get(approach, AutoModelForCausalLM)
    model = auto.from_pretrained(folder, dtype=torch.float32)
    session = open_onnx(export_onnx(model, folder, encoder=approach == ENCODER))
    gaps = []
    for (ids, mask), reference in zip(batches, expected, strict=True):
        found = onnx_logits(session, ids, mask)
        found = found if found.ndim == 2 else found[mask.bool()]
        gaps.append(largest_difference(ONNX_FILE, found, reference, TOLERANCE["float32"]))
    return max(gaps)


def quantised(folder: Path, run: Run, batch: Batch, expected: torch.Tensor) -> float:
    """Quantise `model.onnx` to 8 bits; return the largest difference of a probability before calibration."""
    quantize_onnx(folder / ONNX_FILE)
    found = onnx_logits(open_onnx(folder / ONNX_FILE), *batch)
    pair = [to_probabilities(each.numpy(), multi_label=run.label_space.multi_label) for each in (found, expected)]
    return float(abs(pair[0] - pair[1]).max())


def largest_difference(what: str, found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> float:
    """Return the largest difference between two sets of logits.

    Raises:
        SystemExit: If it is not within the tolerance.
    """
    gap = float((found - expected).abs().max())
    scale = max(1.0, float(expected.abs().max()))
    if not gap <= tolerance * scale:
        raise SystemExit(f"The logits of the {what} differ from the run's by up to {gap:.2g}: nothing was written.")
    return gap


if __name__ == "__main__":
    run_script(main)
