"""Export a finished run as a stock checkpoint that plain transformers loads and that servers take.

    python recipes/export.py --model_name_or_path runs/quickstart/embed --output_dir exported

The adapter is merged into the full-precision base model. An embedding-based run becomes a checkpoint of the stock
…ForSequenceClassification class, with label names and problem type; an instruction-based run one of …ForCausalLM. The
written checkpoint is loaded again and its logits are compared before success is reported.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from hf_causal_clf import CausalLMForLastTokenClassification, LabelSpace
from hf_causal_clf.adapters import find_adapter, load_adapter, read_base
from hf_causal_clf.arguments import parse_arguments
from hf_causal_clf.calibration import Calibration
from hf_causal_clf.collators import padding_id
from hf_causal_clf.run_files import CLASSIFICATION_FILE, read_run, write_json

logger = logging.get_logger(__name__)

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.25, "float16": 0.05}  # of logits, which differ by the order of additions
SAMPLES = (8, 33)  # token sequences that are compared, and their length


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
            "probabilities are the calibrated ones (embedding-based only)."
        },
    )

    def __post_init__(self) -> None:
        if self.dtype not in TOLERANCE:
            raise ValueError(f"dtype must be one of {list(TOLERANCE)}, got {self.dtype!r}.")
        if Path(self.output_dir).exists() and any(Path(self.output_dir).iterdir()):
            raise ValueError(f"{self.output_dir!r} is not empty. Choose another output_dir.")


def main() -> None:
    (arguments,) = parse_arguments((ExportArguments,), __doc__)
    source, hub_kwargs = arguments.model_name_or_path, {"revision": arguments.model_revision}
    run = read_run(source, **hub_kwargs)
    if run["approach"] == "embedding" and run["pooling"] != "last":
        raise SystemExit(f"{source!r} has {run['pooling']} pooling; stock classes read the last token only.")
    if arguments.fold_temperature and run["approach"] != "embedding":
        raise SystemExit("fold_temperature is for the embedding-based approach: leave it out.")
    tokenizer = AutoTokenizer.from_pretrained(source, **hub_kwargs)
    stock = merged(source, run, hub_kwargs)
    padding = padding_id(tokenizer)
    expected = reference_logits(source, run, hub_kwargs, padding)
    if arguments.fold_temperature:
        run, scale = fold_temperature(stock, run)
        expected = expected / scale
    if run["approach"] == "embedding":
        stock.config.pad_token_id = padding  # by which stock classes find the last token
    run = {**run, "base_model": {**run["base_model"], "dtype": arguments.dtype, "quantization": None}}
    write(stock.to(getattr(torch, arguments.dtype)), tokenizer, run, Path(arguments.output_dir))
    check(type(stock), Path(arguments.output_dir), expected, padding, TOLERANCE[arguments.dtype])


def merged(source: str, run: dict[str, Any], hub_kwargs: dict[str, Any]) -> Any:
    """Return the stock model in float32, with the adapter merged into it."""
    from peft import PeftModel

    auto: Any = AutoModelForCausalLM
    label_kwargs: dict[str, Any] = {}
    if run["approach"] == "embedding":
        auto, space = AutoModelForSequenceClassification, LabelSpace.from_dict(run["label_space"])
        label_kwargs = {
            "num_labels": len(space),
            "id2label": space.id2label,
            "label2id": space.label2id,
            "problem_type": space.problem_type,
        }
    adapter = find_adapter(source, **hub_kwargs)
    if adapter is not None:
        base, revision = read_base(adapter)
        model = auto.from_pretrained(base, revision=revision, dtype=torch.float32, **label_kwargs)
        return PeftModel.from_pretrained(model, source, **hub_kwargs).merge_and_unload().eval()
    if run["approach"] == "instruction":
        return auto.from_pretrained(source, dtype=torch.float32, **hub_kwargs).eval()
    ours = CausalLMForLastTokenClassification.from_pretrained(source, dtype=torch.float32, **hub_kwargs)
    config = ours.config.text_config
    for name, value in label_kwargs.items():
        setattr(config, name, value)
    model = auto.from_config(config, dtype=torch.float32)
    model.load_state_dict(ours.state_dict())
    return model.eval()


def sample_ids(vocabulary: int, padding: int) -> torch.Tensor:
    """Token ids to compare on, none of them the padding token, which stock classes do not read."""
    ids = torch.randint(0, vocabulary - 1, SAMPLES, generator=torch.Generator().manual_seed(0))
    return ids + (ids >= padding)


def reference_logits(source: str, run: dict[str, Any], hub_kwargs: dict[str, Any], padding: int) -> torch.Tensor:
    """Return the logits of the run itself in float32, its adapter not merged."""
    if run["approach"] == "embedding":
        model = CausalLMForLastTokenClassification.from_pretrained(source, dtype=torch.float32, **hub_kwargs)
    else:
        adapter = find_adapter(source, **hub_kwargs)
        base, revision = (source, hub_kwargs["revision"]) if adapter is None else read_base(adapter)
        model = AutoModelForCausalLM.from_pretrained(base, revision=revision, dtype=torch.float32)
        if adapter is not None:
            load_adapter(model, source, **hub_kwargs)
    return logits(model, padding)


@torch.no_grad()
def logits(model: Any, padding: int) -> torch.Tensor:
    ids = sample_ids(model.get_input_embeddings().num_embeddings, padding)
    return model.eval()(input_ids=ids, use_cache=False).logits.float()


def fold_temperature(stock: Any, run: dict[str, Any]) -> tuple[dict[str, Any], torch.Tensor]:
    """Divide the head's rows by the temperatures; return `classification.json` without them, and the divisors."""
    calibration = Calibration.from_dict(run)
    scale = torch.tensor(1.0 if calibration.temperature is None else calibration.temperature)
    head = stock.score if hasattr(stock, "score") else stock.classifier
    head.weight.data /= scale.reshape(-1, 1)
    return {**run, **Calibration(None, calibration.thresholds).to_dict()}, scale


def write(stock: Any, tokenizer: Any, run: dict[str, Any], output: Path) -> None:
    """Write the checkpoint aside, and move it in when it is whole."""
    aside = output.with_name(f".{output.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    stock.save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    write_json(aside / CLASSIFICATION_FILE, run)
    if output.exists():
        output.rmdir()
    aside.rename(output)


def check(kind: type, output: Path, expected: torch.Tensor, padding: int, tolerance: float) -> None:
    """Compare the written checkpoint, loaded anew, with the run.

    Raises:
        SystemExit: If their logits differ.
    """
    auto = AutoModelForSequenceClassification if expected.ndim == 2 else AutoModelForCausalLM
    found = logits(auto.from_pretrained(output, dtype="auto"), padding)
    gap = float((found - expected).abs().max())
    scale = max(1.0, float(expected.abs().max()))
    if not gap <= tolerance * scale:
        raise SystemExit(f"The logits of {output} differ from the run's by up to {gap:.2g}: do not use it.")
    print(f"{output} is a {kind.__name__} checkpoint; its logits are the run's within {gap:.1e}.")


if __name__ == "__main__":
    main()
