r"""Make a cascade of two finished runs: a cheap one answers where it is sure enough, a better one all other documents.

    hf-causal-clf cascade --stages runs/compare/tf-idf-logistic-regression runs/quickstart/embed \
        --validation_file validation.jsonl --test_file test.jsonl --output_dir cascade

Every argument may stand in a YAML file (--config FILE.yaml); the command line wins.

From which margin on the first run answers (between its two highest probabilities; of several labels, the least from a
threshold) is fitted on validation documents, which neither run was trained on, or with --folds out of fold: the least
cost that keeps the second run's F1 less --max_f1_loss, or the best F1 at --max_deferred. Nothing is fitted on test.
Where the runs' splits were cut off one file, give that as --train_file: they are cut in the same way. The cascade is a
finished run with copies of both, which TextClassifier, predict.py and push_to_hub take like any other.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: a thread that waits leaves its core to others

from hf_causal_clf.cli.logs import hide_by_name

hide_by_name()

from hf_causal_clf.cascading import Job, check_documents, find_stages, make_cascade
from hf_causal_clf.cli.mistakes import report
from hf_causal_clf.cli.parsing import parse_arguments
from hf_causal_clf.cli.sources import missing_folder
from hf_causal_clf.cli.starting import run_script
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.folds import check_folds
from hf_causal_clf.data.held_out import load_held_out
from hf_causal_clf.evaluation.cascade import Rule
from hf_causal_clf.evaluation.selective import check_enough, check_target_error
from hf_causal_clf.finishing import print_run
from hf_causal_clf.runs.disk import lock_folder
from hf_causal_clf.runs.run import Run
from hf_causal_clf.training.arguments import setting
from hf_causal_clf.training.output_folder import check_output_folder, check_places, put_in_place, read_manifest

MAX_F1_LOSS = 0.005


@dataclass
class CascadeArguments:
    """Which runs, and what the threshold is chosen by."""

    _argument_group_name = "Cascade"

    stages: list[str] = field(
        metadata={"help": "Two finished runs, the cheap one first: their output_dir, or their Hub repositories."}
    )
    output_dir: str = field(metadata={"help": "Folder of the cascade."})
    max_f1_loss: float | None = setting(
        None,
        "At the least cost at which the validation documents exclude, at 95 %%, a larger loss of F1 against the second "
        f"run. Default: {MAX_F1_LOSS}.",
    )
    max_deferred: float | None = setting(
        None, "In place of max_f1_loss: the second run gets at most this share of the documents, with the best F1."
    )
    f1_average: str = setting("macro", "F1 that decides.", choices=["macro", "micro"])
    folds: int = setting(
        0, "Number of folds that both runs were trained with: the threshold is fitted on what they say out of fold."
    )
    target_error: float | None = setting(
        None, "Highest error among the answers of a cascade that may abstain, such as 0.02; see predict.py --abstain."
    )
    per_device_eval_batch_size: int = setting(16, "Documents per forward pass.")
    overwrite_output_dir: bool = setting(False, "Whether to replace a finished run in output_dir.")

    def __post_init__(self) -> None:
        report(self._mistakes())
        check_folds(self.folds)
        if self.target_error is not None:
            check_target_error(self.target_error)
        if self.max_f1_loss is None and self.max_deferred is None:
            self.max_f1_loss = MAX_F1_LOSS
        self.rule = Rule(self.max_f1_loss, self.max_deferred)

    def _mistakes(self) -> Iterator[str]:
        for source in self.stages:
            if (missing := missing_folder(source, "stages")) is not None:
                yield missing
        if self.per_device_eval_batch_size < 1:
            yield f"per_device_eval_batch_size must be at least 1, got {self.per_device_eval_batch_size}."


def main() -> None:
    arguments, data_args = parse_arguments((CascadeArguments, DataArguments), __doc__)
    output = Path(arguments.output_dir)
    for source in arguments.stages:
        check_places(output, data_args, stages=source)
    check_output_folder(output, None, data_args)
    folders = find_stages(arguments.stages)
    lock_folder(output)
    put_in_place(output)  # what an interruption has cut off
    if read_manifest(output)["files"] and not arguments.overwrite_output_dir:
        raise ValueError(
            f"output_dir {str(output)!r} has a finished run. Choose another output_dir, or replace that run with "
            "--overwrite_output_dir true."
        )
    data = load_held_out(data_args, Run.read(folders[0]).label_space, arguments.folds)
    check_documents(folders, data)
    if arguments.target_error is not None:
        check_enough(len(data.splits["validation"]), arguments.target_error)
    options = {"batch_size": arguments.per_device_eval_batch_size, "target_error": arguments.target_error}
    job = Job(output, folders, data, arguments.rule, arguments.f1_average, **options)
    print_run(output, make_cascade(job), multi_label=data.label_space.multi_label)


if __name__ == "__main__":
    run_script(main)
