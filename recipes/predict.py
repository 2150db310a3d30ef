r"""Classify the documents of a file or Hub data set of any size with a finished run.

    hf-causal-clf predict --model_name_or_path runs/quickstart/embed --test_file documents.jsonl \
        --output_dir predictions

Documents are streamed, shared out over the processes, and written as Parquet shards with `id`, `predicted` and
`probabilities`, which has a field for each label: `pandas.read_parquet("predictions")` reads them all. Started again,
it goes on where it stopped: finished shards are kept, no row is repeated or lost. Where the documents or the classifier
have changed meanwhile, it stops with what differs.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: a thread that waits leaves its core to others

from hf_causal_clf.cli.logs import hide_by_name

hide_by_name()

from transformers.utils import logging

from hf_causal_clf import TextClassifier
from hf_causal_clf.backbone.identity import identify_dataset, identify_file, identify_run, pinned
from hf_causal_clf.classifier import BACKENDS
from hf_causal_clf.cli.mistakes import report
from hf_causal_clf.cli.parsing import parse_arguments
from hf_causal_clf.cli.processes import check_processes, process_state
from hf_causal_clf.cli.sources import missing_folder
from hf_causal_clf.cli.starting import run_script
from hf_causal_clf.data.arguments import TEXT_NAMES
from hf_causal_clf.data.columns import ID_COLUMN_HELP, TEXT_COLUMN_HELP, settled_text_column
from hf_causal_clf.data.files import FORMATS, open_dataset, stream_file
from hf_causal_clf.runs.files import read_json
from hf_causal_clf.runs.prior import read_target_prior, target_ratio
from hf_causal_clf.runs.run import Run
from hf_causal_clf.selection import abstention_of
from hf_causal_clf.shards import (
    NOTE_FILE,
    check_content,
    finish_prediction,
    predict_shards,
    progress,
    start_prediction,
)
from hf_causal_clf.task.texts import EMPTY

logger = logging.get_logger(__name__)

# What a folder of shards was started with: what has to be the same to go on, and what is noted beside it
SETTINGS = (
    *("dataset_config", "dataset_split", "text_column", "id_column"),
    *("empty", "shard_size", "dtype", "calibrated", "target_prior"),
)
NAMES = ("model_name_or_path", "model_revision", "test_file", "dataset_name", "dataset_revision")


@dataclass
class PredictArguments:
    """Which classifier, which documents, and where to."""

    model_name_or_path: str = field(metadata={"help": "Finished run: its output_dir, or its Hub repository."})
    output_dir: str = field(metadata={"help": "Folder of the shards."})
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the repository."})
    test_file: str | None = field(default=None, metadata={"help": "Documents: CSV, JSON, JSONL or Parquet."})
    dataset_name: str | None = field(default=None, metadata={"help": "Data set on the Hub, or its folder."})
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the data set."})
    dataset_split: str = field(default="test", metadata={"help": "Split of the data set."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the data set."})
    text_column: str | None = field(default=None, metadata={"help": TEXT_COLUMN_HELP})
    id_column: str | None = field(default=None, metadata={"help": ID_COLUMN_HELP})
    empty: str = field(
        default="keep",
        metadata={
            "help": "A document without text: 'keep' its row, with a null answer, or end with an 'error'.",
            "choices": list(EMPTY),
        },
    )
    per_device_eval_batch_size: int = field(default=16, metadata={"help": "Documents per device and forward pass."})
    shard_size: int = field(
        default=1000,
        metadata={
            "help": "Documents per shard; a kill costs at most one. The size decides which documents share a batch, "
            "and so how bfloat16 rounds."
        },
    )
    dtype: str = field(default="auto", metadata={"help": "Data type of the base model's weights; auto: of training."})
    backend: str = field(
        default="torch",
        metadata={
            "help": "'onnx' runs the model.onnx of an exported run in ONNX Runtime, on the CPU.",
            "choices": list(BACKENDS),
        },
    )
    calibrated: bool = field(default=True, metadata={"help": "Whether to apply the fitted temperature and thresholds."})
    target_prior: str | None = field(
        default=None,
        metadata={
            "help": "Share of each label in these documents, where it is not its share in training: a mapping in YAML "
            "or JSON, or 'uniform'. The probabilities are corrected for it."
        },
    )
    abstain: bool = field(
        default=False,
        metadata={
            "help": "For a run with a target_error: whether to write where it should not answer, as a column "
            "'abstained', true or false, or for a multi-label run its labels."
        },
    )
    explain: bool = field(
        default=False,
        metadata={
            "help": "Whether to write how much the probability of the most probable label falls without each sentence, "
            "as a column 'explanation': start, end and drop. Costs half a prediction for each sentence."
        },
    )

    def __post_init__(self) -> None:
        report(self._mistakes())

    def _mistakes(self) -> Iterator[str]:
        if self.target_prior is not None:
            try:
                self.target_prior: Any = read_target_prior(self.target_prior)
            except ValueError as error:
                yield str(error)
        if (missing := missing_folder(self.model_name_or_path)) is not None:
            yield missing
        if bool(self.test_file) == bool(self.dataset_name):
            yield "Give either test_file or dataset_name."
        if self.test_file and not Path(self.test_file).is_file():
            yield f"There is no file {self.test_file!r}. Check test_file."
        elif self.test_file and Path(self.test_file).suffix not in FORMATS:
            yield f"{self.test_file!r} has an unknown ending; known are {', '.join(FORMATS)}."
        folder = Path(self.dataset_name or "")
        if self.dataset_name and folder.is_dir() and Path(self.output_dir).resolve().is_relative_to(folder.resolve()):
            yield (
                f"output_dir {self.output_dir!r} lies in the folder of the data set, which would have the shards for "
                "documents. Choose another output_dir."
            )
        if self.empty not in EMPTY:
            yield f"empty must be one of {list(EMPTY)}, got {self.empty!r}."
        for name in ("shard_size", "per_device_eval_batch_size"):
            if getattr(self, name) < 1:
                yield f"{name} must be at least 1, got {getattr(self, name)}."


def main() -> None:
    check_processes()
    (arguments,) = parse_arguments((PredictArguments,), __doc__)
    state = process_state()
    output = Path(arguments.output_dir)
    run = Run.read(arguments.model_name_or_path, revision=arguments.model_revision)
    if arguments.target_prior is not None:
        target_ratio(run, arguments.target_prior)  # its mistakes are told before anything is read
    if arguments.abstain:
        abstention_of(run, as_fitted=arguments.calibrated and arguments.target_prior is None)
    total = check_documents(arguments, run.training.get("text_column"))
    with state.main_process_first():
        if state.is_main_process:
            settings = {"labels": list(run.label_space.names), **{name: getattr(arguments, name) for name in SETTINGS}}
            settings["backend"] = (
                None if arguments.backend == "torch" else arguments.backend
            )  # earlier folders have none
            settings["abstain"] = arguments.abstain or None
            settings["explain"] = arguments.explain or None
            start_prediction(output, settings, identify(arguments), {name: getattr(arguments, name) for name in NAMES})
            print(progress(output, total, arguments.shard_size) or f"Predictions go to {output}")
    pin(arguments, output)
    shards = predict_shards(
        lambda: TextClassifier.from_pretrained(
            arguments.model_name_or_path,
            revision=arguments.model_revision,
            calibrated=arguments.calibrated,
            target_prior=arguments.target_prior,
            batch_size=arguments.per_device_eval_batch_size,
            dtype=arguments.dtype,
            backend=arguments.backend,
        ),
        documents(arguments),
        output,
        shard_size=arguments.shard_size,
        process=state.process_index,
        processes=state.num_processes,
        total=total,
        empty=arguments.empty,
        abstain=arguments.abstain,
        explain=arguments.explain,
    )
    state.wait_for_everyone()
    if state.is_main_process:
        check_content(output, identify(arguments))  # a file may have grown meanwhile
        summary = finish_prediction(output, shards, run.label_space)
        print(f"{summary.rows:,} documents are classified in {output}: {summary}")


def identify(arguments: PredictArguments) -> dict[str, dict[str, str]]:
    """What the documents and the classifier are, by content."""
    if arguments.test_file:
        found = identify_file(arguments.test_file)
    else:
        found = identify_dataset(arguments.dataset_name, arguments.dataset_config, arguments.dataset_revision)
    return {"documents": found, "classifier": identify_run(arguments.model_name_or_path, arguments.model_revision)}


def pin(arguments: PredictArguments, output: Path) -> None:
    """Read on from the commits that the main process has noted, in every process, whatever is pushed meanwhile."""
    content = read_json(output / NOTE_FILE)["content"]
    arguments.model_revision = pinned(content["classifier"]) or arguments.model_revision
    arguments.dataset_revision = pinned(content["documents"]) or arguments.dataset_revision


def stream(arguments: PredictArguments, *columns: str | None) -> Any:
    """Open the documents without loading them; `columns` are looked for beside those that are named."""
    if arguments.test_file:
        named = (arguments.text_column, arguments.id_column, *columns)
        return stream_file(Path(arguments.test_file), [name for name in named if name is not None])
    assert arguments.dataset_name is not None
    name, config = arguments.dataset_name, arguments.dataset_config
    revision = arguments.dataset_revision
    return open_dataset(name, config, revision=revision, split=arguments.dataset_split, streaming=True)


def documents(arguments: PredictArguments) -> Iterator[tuple[Any, Any]]:
    """Yield id and text of each document, in the order of the file."""
    for row, example in enumerate(stream(arguments)):
        yield row if arguments.id_column is None else example[arguments.id_column], example[arguments.text_column]


def check_documents(arguments: PredictArguments, trained: str | None) -> int | None:
    """Check that there are documents with the columns that are asked for, before anything is written.

    Args:
        arguments: Which documents. Their `text_column` is filled in.
        trained: Text column of the documents that the run was trained with, if that is known.

    Returns:
        Their number, for the remaining time; `None` where only reading a remote data set would tell.

    Raises:
        ValueError: If they cannot be read, there are none, a column is missing, or it is not clear which is the text.
    """
    source = arguments.test_file or arguments.dataset_name
    try:
        data = stream(arguments, *((trained, *TEXT_NAMES) if arguments.text_column is None else ()))
        first = next(iter(data), None)
        known = (data.info.splits or {}).get(arguments.dataset_split)
        total = known.num_examples if known is not None else None
        total = sum(1 for _ in data) if arguments.test_file and not total else total
    except (ValueError, OSError) as error:
        named = str(error) if repr(source) in str(error) else f"{source!r} cannot be read: {error}"
        raise ValueError(named) from error
    if first is None:
        raise ValueError(f"{source!r} has no documents. Check test_file or dataset_name.")
    columns = {"text_column": arguments.text_column, "id_column": arguments.id_column}
    arguments.text_column = settled_text_column(list(first), source, trained, **columns)
    return total or None


if __name__ == "__main__":
    run_script(main)
