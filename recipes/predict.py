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
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: a thread that waits leaves its core to others

from hf_causal_clf.cli.logs import hide_by_name

hide_by_name()

from accelerate.utils import broadcast_object_list, gather_object
from transformers.utils import logging

from hf_causal_clf import TextClassifier
from hf_causal_clf.backbone.identity import identify_dataset, identify_files, identify_run, pinned
from hf_causal_clf.batches import ON_ERROR, BatchClassifier
from hf_causal_clf.classifier import BACKENDS, check_calibrated
from hf_causal_clf.cli.mistakes import report
from hf_causal_clf.cli.packages import missing_packages
from hf_causal_clf.cli.parsing import parse_arguments
from hf_causal_clf.cli.processes import check_processes, process_state
from hf_causal_clf.cli.sources import missing_folder
from hf_causal_clf.cli.starting import run_script
from hf_causal_clf.data.columns import ID_COLUMN_HELP, TEXT_COLUMN_HELP
from hf_causal_clf.data.files import FORMATS, open_dataset
from hf_causal_clf.data.locations import find_files
from hf_causal_clf.data.pieces import PieceReader
from hf_causal_clf.data.planning import Columns, Documents, plan_files
from hf_causal_clf.ray_data import ActorPool, connected, map_on_ray, predict_on_ray
from hf_causal_clf.runs.files import read_json
from hf_causal_clf.runs.prior import read_target_prior, target_ratio
from hf_causal_clf.runs.run import Run
from hf_causal_clf.selection import abstention_of
from hf_causal_clf.shards import (
    NOTE_FILE,
    ShardRows,
    check_content,
    finish_prediction,
    predict_pieces,
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
OF_ANSWERS = ("empty", "on_error", "abstain", "explain")
ENGINES = ("processes", "ray")
POOL = ("num_gpus", "num_cpus", "min_actors", "max_actors")
NAMES = ("model_name_or_path", "model_revision", "test_file", "dataset_name", "dataset_revision")


@dataclass
class PredictArguments:
    """Which classifier, which documents, and where to."""

    model_name_or_path: str = field(metadata={"help": "Finished run: its output_dir, or its Hub repository."})
    output_dir: str = field(metadata={"help": "Folder of the shards."})
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the repository."})
    test_file: str | None = field(
        default=None,
        metadata={
            "help": "Documents: CSV, JSON, JSONL or Parquet; a file, a folder of them or a pattern ('docs/*.parquet'), "
            "here or as s3://, gs:// or hf://."
        },
    )
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

    on_error: str = field(
        default="stop",
        metadata={
            "help": "A document that cannot be predicted: 'stop', or 'record' it with the reason in _errors-….jsonl "
            "and keep its row, with a null answer.",
            "choices": list(ON_ERROR),
        },
    )
    engine: str = field(
        default="processes",
        metadata={
            "help": "Who works: the 'processes' of accelerate launch, or actors on the machines of a 'ray' cluster, "
            "which have to see the same files, run and output_dir. Either goes on with the other's shards.",
            "choices": list(ENGINES),
        },
    )
    ray_address: str | None = field(
        default=None,
        metadata={
            "help": "With ray: address of the cluster. Default: RAY_ADDRESS, else the one that this machine is part "
            "of, else a new one on this machine alone."
        },
    )
    num_gpus: float | None = field(
        default=None, metadata={"help": "With ray: GPUs an actor. Default: 1 where the cluster has GPUs, else 0."}
    )
    num_cpus: float | None = field(
        default=None, metadata={"help": "With ray: CPUs an actor, which are its threads, too. Default: 1."}
    )
    min_actors: int | None = field(default=None, metadata={"help": "With ray: actors at the least. Default: 1."})
    max_actors: int | None = field(
        default=None, metadata={"help": "With ray: actors at the most. Default: as many as the cluster has room for."}
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
        if self.test_file:
            try:
                self.files = find_files(self.test_file, FORMATS)
            except (ValueError, OSError) as error:
                yield str(error)
        folder = Path(self.dataset_name or self.test_file or "")
        if str(folder) != "." and folder.is_dir() and Path(self.output_dir).resolve().is_relative_to(folder.resolve()):
            what = "data set" if self.dataset_name else "documents"
            yield (
                f"output_dir {self.output_dir!r} lies in the folder of the {what}, which would have the shards for "
                "documents. Choose another output_dir."
            )
        if self.empty not in EMPTY:
            yield f"empty must be one of {list(EMPTY)}, got {self.empty!r}."
        if self.on_error not in ON_ERROR:
            yield f"on_error must be one of {list(ON_ERROR)}, got {self.on_error!r}."
        for name in ("shard_size", "per_device_eval_batch_size"):
            if getattr(self, name) < 1:
                yield f"{name} must be at least 1, got {getattr(self, name)}."
        yield from engine_mistakes(self)


def main() -> None:
    check_processes()
    (arguments,) = parse_arguments((PredictArguments,), __doc__)
    state = process_state()
    if arguments.engine == "ray" and state.num_processes > 1:
        raise ValueError(
            f"The engine ray starts its actors itself, but is asked by {state.num_processes} processes. Set "
            "num_processes to 1; max_actors is for the actors."
        )
    output = Path(arguments.output_dir)
    run = Run.read(arguments.model_name_or_path, revision=arguments.model_revision)
    check_calibrated(run, arguments.model_name_or_path, arguments.calibrated)
    if arguments.target_prior is not None:
        target_ratio(run, arguments.target_prior)  # its mistakes are told before anything is read
    if arguments.abstain:
        abstention_of(run, as_fitted=arguments.calibrated and arguments.target_prior is None)
    with connected(arguments.ray_address) if arguments.engine == "ray" else nullcontext():
        found = None
        if state.is_main_process:
            found = look_through(arguments, run)
            arguments.text_column = found.text_column
            start(arguments, output, run, found)
        found = broadcast_object_list([found])[0]
        arguments.text_column = found.text_column
        pin(arguments, output)
        predict = predict_on_cluster if arguments.engine == "ray" else predict_here
        shards = predict(arguments, output, found, state)
    state.wait_for_everyone()
    if state.is_main_process:
        check_content(output, identify(arguments))  # a file may have grown meanwhile
        summary = finish_prediction(output, shards, run.label_space)
        print(f"{summary.rows:,} documents are classified in {output}: {summary}")


def start(arguments: PredictArguments, output: Path, run: Run, found: Documents) -> None:
    """Note what is predicted, or check that it is what was predicted before, and say so."""
    settings = {"labels": list(run.label_space.names), **{name: getattr(arguments, name) for name in SETTINGS}}
    settings["backend"] = None if arguments.backend == "torch" else arguments.backend  # earlier folders have none
    settings["abstain"] = arguments.abstain or None
    settings["explain"] = arguments.explain or None
    start_prediction(output, settings, identify(arguments), {name: getattr(arguments, name) for name in NAMES})
    firsts = None if found.pieces is None else [piece.first for piece in found.pieces]
    print(progress(output, found.total, arguments.shard_size, firsts) or f"Predictions go to {output}")


def predict_here(arguments: PredictArguments, output: Path, found: Documents, state: Any) -> list[ShardRows]:
    """Predict this process's shards; return the rows of all."""
    options = classifier_options(arguments)
    answers = {name: options.pop(name) for name in OF_ANSWERS}

    def load() -> TextClassifier:
        return TextClassifier.from_pretrained(arguments.model_name_or_path, **options)

    own = {"process": state.process_index, "processes": state.num_processes}
    if found.pieces is None:
        of_stream = {"shard_size": arguments.shard_size, "total": found.total}
        return predict_shards(load, documents(arguments), output, **of_stream, **own, **answers)
    read = PieceReader(found.text_column, arguments.id_column)
    predicted = predict_pieces(
        lambda: BatchClassifier(load(), **answers), found.pieces, read, output, id_type=found.id_type, **own
    )
    return [rows for _, rows in sorted(gather_object(list(predicted.items())))]


def predict_on_cluster(arguments: PredictArguments, output: Path, found: Documents, _: Any) -> list[ShardRows]:
    """Predict all shards on Ray; return their rows."""
    pool = {name: getattr(arguments, name) for name in POOL if getattr(arguments, name) is not None}
    return predict_on_ray(
        arguments.model_name_or_path,
        found.pieces,
        output,
        text_column=found.text_column,
        id_column=arguments.id_column,
        id_type=found.id_type,
        pool=ActorPool(**pool),
        **classifier_options(arguments),
    )


def classifier_options(arguments: PredictArguments) -> dict[str, Any]:
    """What `BatchClassifier` is given beside the run."""
    return {
        **{name: getattr(arguments, name) for name in OF_ANSWERS},
        "revision": arguments.model_revision,
        "calibrated": arguments.calibrated,
        "target_prior": arguments.target_prior,
        "batch_size": arguments.per_device_eval_batch_size,
        "dtype": arguments.dtype,
        "backend": arguments.backend,
    }


def identify(arguments: PredictArguments) -> dict[str, dict[str, str]]:
    """What the documents and the classifier are, by content."""
    if arguments.test_file:
        found = identify_files(arguments.files)
    else:
        found = identify_dataset(arguments.dataset_name, arguments.dataset_config, arguments.dataset_revision)
    return {"documents": found, "classifier": identify_run(arguments.model_name_or_path, arguments.model_revision)}


def pin(arguments: PredictArguments, output: Path) -> None:
    """Read on from the commits that the main process has noted, in every process, whatever is pushed meanwhile."""
    content = read_json(output / NOTE_FILE)["content"]
    arguments.model_revision = pinned(content["classifier"]) or arguments.model_revision
    arguments.dataset_revision = pinned(content["documents"]) or arguments.dataset_revision


def stream(arguments: PredictArguments) -> Any:
    """Open a data set without loading it."""
    assert arguments.dataset_name is not None
    name, config = arguments.dataset_name, arguments.dataset_config
    revision = arguments.dataset_revision
    return open_dataset(name, config, revision=revision, split=arguments.dataset_split, streaming=True)


def documents(arguments: PredictArguments) -> Iterator[tuple[Any, Any]]:
    """Yield id and text of each document of a data set, in its order."""
    for row, example in enumerate(stream(arguments)):
        yield row if arguments.id_column is None else example[arguments.id_column], example[arguments.text_column]


def look_through(arguments: PredictArguments, run: Run) -> Documents:
    """Check that there are documents with the columns that are asked for, before anything is written.

    Raises:
        ValueError: If they cannot be read, there are none, a column is missing, or it is not clear which is the text.
    """
    source = str(arguments.test_file or arguments.dataset_name)
    columns = Columns(arguments.text_column, arguments.id_column, run.training.get("text_column"))
    try:
        if arguments.test_file:
            each = map_on_ray if arguments.engine == "ray" else map
            found = plan_files(arguments.files, arguments.shard_size, columns, each)
        else:
            found = look_through_stream(arguments, source, columns)
    except (ValueError, OSError) as error:
        named = str(error) if repr(source) in str(error) else f"{source!r} cannot be read: {error}"
        raise ValueError(named) from error
    if found is None:
        raise ValueError(f"{source!r} has no documents. Check test_file or dataset_name.")
    return found


def look_through_stream(arguments: PredictArguments, source: str, columns: Columns) -> Documents | None:
    """Check the first document of a data set."""
    data = stream(arguments)
    first = next(iter(data), None)
    if first is None:
        return None
    known = (data.info.splits or {}).get(arguments.dataset_split)
    total = known.num_examples if known is not None else None
    return Documents(columns.find_text(source, list(first)), columns.id_type(first), total or None)


def engine_mistakes(arguments: PredictArguments) -> Iterator[str]:
    """What is wrong with the engine's options."""
    given = [name for name in (*POOL, "ray_address") if getattr(arguments, name) is not None]
    if arguments.engine not in ENGINES:
        yield f"engine must be one of {list(ENGINES)}, got {arguments.engine!r}."
    elif arguments.engine == "processes":
        if given:
            yield f"{' and '.join(given)} are for the engine ray. Set engine to ray, or leave them out."
    else:
        yield from missing_packages(["ray"], "The engine ray")
        if arguments.dataset_name:
            yield (
                "The engine ray reads files: in the place of dataset_name give test_file, such as "
                f"'hf://datasets/{arguments.dataset_name}/**/*.parquet'."
            )
    limits = {"num_gpus": 0.0, "num_cpus": 0.01, "min_actors": 1, "max_actors": arguments.min_actors or 1}
    for name, least in limits.items():
        value = getattr(arguments, name)
        if value is not None and value < least:
            yield f"{name} must be at least {least:g}, got {value:g}."


if __name__ == "__main__":
    run_script(main)
