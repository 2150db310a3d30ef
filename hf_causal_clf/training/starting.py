"""How both recipes start: the output folder, the documents, and everything that can be wrong without the weights."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase, TrainingArguments

from ..cli.mistakes import Mistakes
from ..cli.telling import tell
from ..data.arguments import DEFAULT_OUTPUT, DataArguments
from ..data.splits import ClassificationData, load_data
from ..evaluation.selective import check_enough
from ..pages.run import write_page
from ..runs.files import PAGE_FILE
from .arguments import AdapterModelArguments, RunArguments
from .folds import settle_folds
from .output_folder import Settings, check_output_folder, check_resuming, finish_what_was_cut_off, is_finished
from .pushing import publish, take_over_push
from .resuming import is_resuming
from .train import prepare

_PLAIN_NAMES = ("train", "training", "data", "dataset", "documents")  # as many files are called


class Start(NamedTuple):
    """What a recipe goes on with.

    Attributes:
        data: The documents.
        tokenizer: The base model's.
        settings: What makes this run another than the next.
        push: Whether the finished run is to be published.
    """

    data: ClassificationData
    tokenizer: PreTrainedTokenizerBase
    settings: Settings
    push: bool


def start_run(
    approach: str,
    data_args: DataArguments,
    model_args: AdapterModelArguments,
    run_args: RunArguments,
    training_args: TrainingArguments,
    *others: Any,
    mistakes: Mistakes,
    prepare: Callable[[Any, Any], PreTrainedTokenizerBase] = prepare,
) -> Start | None:
    """Check all that can be wrong without the model's weights, and load the documents and the tokenizer.

    Args:
        approach: Name of the recipe, for the default of `output_dir`.
        data_args: Where the documents are.
        model_args: The base model.
        run_args: What the approaches share.
        training_args: The training; its `output_dir` is filled in.
        others: All other arguments of the run.
        mistakes: Those that were found before. All are told together.
        prepare: Checks model and training and loads the tokenizer; by default that of a decoder-only model.

    Returns:
        `None` where the run that is asked for is finished already. It is published then, and documents are put on its
        page, if that is asked for.

    Raises:
        OSError: If a file or a model is missing, or nothing can be written into the output folder.
        ValueError: If arguments, documents or model are wrong, or the output folder has another run.
    """
    settle_output_dir(training_args, data_args, approach)
    check_output_folder(str(training_args.output_dir), model_args.model_name_or_path, data_args)
    with mistakes.noted(), training_args.main_process_first(desc="loading data"):
        data = load_data(data_args, run_args.folds, tabled=False)
    if not mistakes.errors and run_args.target_error is not None:
        with mistakes.noted():
            check_enough(len(data.splits["validation"]), run_args.target_error)
    with mistakes.noted():
        _check_early_stopping(run_args, training_args)
    with mistakes.noted():
        push = take_over_push(training_args, model_args, run_args)
    if not mistakes.errors:
        settings = Settings(data, model_args, run_args, training_args, *others)
        if _is_done(training_args, settings, overwrite=run_args.overwrite_output_dir):
            if run_args.with_documents and training_args.process_index == 0:
                _show_documents(Path(str(training_args.output_dir)), data)
            if push:
                publish(training_args, run_args)
            return None
    with mistakes.noted():
        if run_args.folds:
            settle_folds(training_args)
    with mistakes.noted():
        tokenizer = prepare(model_args, training_args)
    mistakes.report()
    checkpoint, output = training_args.resume_from_checkpoint, Path(str(training_args.output_dir))
    if checkpoint is not None and Path(checkpoint).resolve().parent == output.resolve():
        check_resuming(output, settings)
    return Start(data, tokenizer, settings, push)


def _check_early_stopping(run_args: RunArguments, training_args: TrainingArguments) -> None:
    """Raise a `ValueError` for early stopping that is asked for where the last step's weights are kept."""
    if run_args.early_stopping_patience and not training_args.load_best_model_at_end:
        raise ValueError(
            f"early_stopping_patience {run_args.early_stopping_patience} is for runs that keep the best checkpoint: "
            "set load_best_model_at_end to true, or leave early_stopping_patience out."
        )


def _show_documents(output: Path, data: ClassificationData) -> None:
    """Write the page of a finished run again, with the test documents that it gets wrong."""
    write_page(output, data.texts("test"))
    tell(f"{output / PAGE_FILE} shows the text of the test documents that it gets wrong.")


def settle_output_dir(arguments: Any, data_args: DataArguments, recipe: str) -> None:
    """Name the output folder after the documents and the recipe, where it is not given, and say so.

    Args:
        arguments: What has the `output_dir`, which is filled in.
        data_args: Where the documents are.
        recipe: Name of the recipe.
    """
    if arguments.output_dir == DEFAULT_OUTPUT:
        arguments.output_dir = DEFAULT_OUTPUT.format(name=_name(data_args), approach=recipe)
        what = "comparison" if recipe == "compare" else "run"
        tell(f"output_dir is not given: this {what} goes to {arguments.output_dir}.")


def _name(data_args: DataArguments) -> str:
    """Name of the documents, in letters that any file system takes; with a mark where letters are left out."""
    given = data_args.dataset_name or data_args.train_file or ""
    if data_args.dataset_name and not os.path.isdir(given):
        parts = given.split("/")
    else:
        path = Path(os.path.abspath(given))
        name = path.name if data_args.dataset_name else path.stem
        parts = [path.parent.name, name] if name.casefold() in _PLAIN_NAMES else [name]
    name = "-".join(filter(None, [*parts, data_args.dataset_config]))
    letters = unicodedata.normalize("NFKD", name)  # an accent becomes a character of its own
    plain = re.sub(r"[^A-Za-z0-9_]+", "-", re.sub(r"[^\x00-\x7f]", "", letters)).strip("-")
    if plain and not any(letter.isalnum() and not letter.isascii() for letter in letters):
        return plain
    return f"{plain or 'documents'}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _is_done(training_args: TrainingArguments, settings: Settings, *, overwrite: bool) -> bool:
    """Whether there is nothing to train: the run that is asked for is finished, and not to be trained again."""
    output = Path(str(training_args.output_dir))
    carried_through = finish_what_was_cut_off(training_args)
    again = overwrite or is_resuming(training_args)
    if again and not carried_through:
        return False
    done = is_finished(output, settings, replaced=again)
    if done:
        tell(
            f"This run is already finished in {output}, with the same settings and documents. Nothing is done; "
            "--overwrite_output_dir true trains it again."
        )
    return done
