"""What a comparison has to do: each run's configuration as a file for its recipe, and what is finished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from transformers.utils import logging

from ..backbone.identity import fingerprint, model_content
from ..backbone.loading import read_decoder_config
from ..cli.parsing import parse_arguments
from ..data.arguments import DataArguments
from ..data.splits import ClassificationData
from ..embedding.arguments import EmbeddingModelArguments, EmbeddingTrainingArguments, HeadArguments
from ..instruction.arguments import InstructionModelArguments, InstructionTrainingArguments
from ..runs.disk import write_json, write_text
from ..runs.files import METRICS_FILE, UNFINISHED_FOLDER, read_json
from ..training.arguments import PromptArguments, RunArguments
from ..training.checkpoints import checkpoints, remove_checkpoint, remove_traces
from ..training.output_folder import documents_content, put_in_place
from .arguments import ComparisonArguments, folder_name
from .registry import BASE_MODEL, Baseline

TYPES = {
    "embedding": (
        *(DataArguments, EmbeddingModelArguments, HeadArguments, PromptArguments),
        *(RunArguments, EmbeddingTrainingArguments),
    ),
    "instruction": (
        *(DataArguments, InstructionModelArguments, PromptArguments, RunArguments, InstructionTrainingArguments),
    ),
}

logger = logging.get_logger(__name__)

STATE_FILE = "state.json"

# What a baseline's configuration calls an argument: with another name, finished ones would be run again
_NOTED_AS = {"prompt_max_length": "max_length", "encoder_name_or_path": "encoder"}
RECIPES = {"embedding": "embed.py", "instruction": "instruct.py"}


def write_config(
    output: Path,
    name: str,
    seed: int,
    arguments: ComparisonArguments,
    data_args: DataArguments,
    prompt_args: PromptArguments,
    *,
    settings: dict[str, Any] | None = None,
    folder: Path | None = None,
) -> Path:
    """Write a run's whole configuration as a YAML file that its recipe takes, and check it.

    Args:
        output: Folder of the comparison.
        name: The run's.
        seed: Training seed.
        arguments: Arguments of the comparison.
        data_args: Where the documents are.
        prompt_args: The prompt.
        settings: The run's settings; by default those that were asked for.
        folder: Folder of a trial; by default that of the run.

    Raises:
        ValueError: If the recipe would not take it; the message names the run.
    """
    settings = dict(arguments.run_settings[name] if settings is None else settings)
    approach = settings.pop("approach")
    prompted = approach == "instruction" or settings.get("head_init") == "verbalizer"
    config = {
        **not_defaults(data_args),
        **{key: value for key in (*BASE_MODEL, "truncation") if (value := getattr(arguments, key)) is not None},
        **(not_defaults(prompt_args) if prompted else {}),
        "max_length": arguments.prompt_max_length if prompted else arguments.max_length,
        "per_device_eval_batch_size": arguments.per_device_eval_batch_size,
        **({} if arguments.target_error is None else {"target_error": arguments.target_error}),
        **settings,
        **({"folds": arguments.folds} if arguments.folds else {}),
        "seed": seed,
        "output_dir": str(folder or run_folder(output, name, seed)),
    }
    place = folder.relative_to(output).with_suffix(".yaml") if folder else f"{folder_name(name)}-{seed}.yaml"
    path = output / "configs" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    try:
        parsed = parse_arguments(TYPES[approach], args=["--config", str(path)])
        if approach == "embedding":
            parsed[2].check_prompt(parsed[3])
    except ValueError as error:
        raise ValueError(f"Run {name!r}: {error}") from error
    return path


def read_config(path: Path) -> dict[str, Any]:
    """Return the part of a run's configuration that makes it another run when it changes.

    Not where documents and results are, as moving them changes nothing; and a model in a folder is its files.
    """
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    places = {item.name for item in fields(DataArguments)} | {"output_dir"}
    kept = {name: value for name, value in config.items() if name not in places}
    return {**kept, "model_name_or_path": model_content(str(kept["model_name_or_path"]))}


def baseline_configuration(
    baseline: Baseline, arguments: ComparisonArguments, prompt_args: PromptArguments
) -> dict[str, Any]:
    """Return what makes a baseline another one when it changes; a model in a folder is its files."""
    values = {name: getattr(arguments, name) for name in baseline.depends_on}
    content = {
        _NOTED_AS.get(name, name): model_content(str(value)) if name.endswith("_name_or_path") else value
        for name, value in values.items()
    }
    given = {name: value for name in ("folds", "target_error") if (value := getattr(arguments, name))}
    return {"kind": baseline.name, **content, **given, **(not_defaults(prompt_args) if baseline.prompted else {})}


def check_model(name_or_path: str, revision: str) -> None:
    """Check that there is a language model, before the first run or baseline that reads it.

    Raises:
        ValueError: If there is none.
    """
    try:
        read_decoder_config(name_or_path, revision)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{error}\nBaselines that need no model are finished and stay. For the rest, choose a language model with "
            "--model_name_or_path NAME, a Hub id or a folder; or leave it out with --runs none --baselines majority "
            "tfidf."
        ) from error


def check_model_of(config: Path) -> None:
    """Check that there is the language model of a run's configuration file, as `check_model` does."""
    given = yaml.safe_load(config.read_text(encoding="utf-8"))
    check_model(given["model_name_or_path"], given["model_revision"])


def not_defaults(arguments: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that differ from their defaults."""
    default = {item.name: item.default for item in fields(arguments)}
    return {
        name: value for name in default if (value := getattr(arguments, name)) != default[name] and value is not None
    }


def run_folder(output: Path, name: str, seed: int | None) -> Path:
    """Return the folder of a run of the comparison in `output`: one under a plain name.

    A folder that an earlier version called by the run's name itself, as `state.json` knows, stays the run's.
    """
    known = read_json(output / STATE_FILE) if (output / STATE_FILE).is_file() else {}
    seeded = "" if seed is None else f"/seed-{seed}"
    return output / (name if f"{name}{seeded}" in known else folder_name(name)) / seeded.removeprefix("/")


def entry_folder(output: Path, name: str, seeds: Sequence[int], arguments: ComparisonArguments) -> Path:
    """Return the folder of an entry of the report, of the seed that the tests compare, wherever it is."""
    settings = arguments.run_settings.get(name, {})
    if "output_dir" in settings:
        return Path(settings["output_dir"])
    return run_folder(output, name, seeds[0] if seeds else None)


def is_comparison(folder: Path) -> bool:
    """Whether a comparison was started in a folder: its `state.json` has the form of ours.

    Raises:
        ValueError: If that is no JSON object.
    """
    path = folder / STATE_FILE
    marks = {"configuration", "finished"}
    return path.is_file() and all(isinstance(run, dict) and marks <= run.keys() for run in read_json(path).values())


class ComparisonState:
    """The content of `state.json` in the output folder of a comparison: which of its runs are finished.

    Args:
        output: That folder.
        data: Documents; with other ones, every run is another run.
    """

    def __init__(self, output: Path, data: ClassificationData) -> None:
        self.output = output
        self._path = output / STATE_FILE
        self._runs = read_json(self._path) if self._path.is_file() else {}
        self._data = documents_content(data)

    def save(self) -> None:
        """Write it: from then on the folder is known as a comparison's, and may be gone on with."""
        self.output.mkdir(parents=True, exist_ok=True)
        write_json(self._path, self._runs)

    def folder(self, name: str, seed: int | None) -> Path:
        """Return a run's folder."""
        return run_folder(self.output, name, seed)

    def is_finished(self, folder: Path, configuration: dict[str, Any]) -> bool:
        """Whether a run's folder has the results of this configuration and these documents."""
        run = self._runs.get(self._key(folder))
        if run is None or run["configuration"] != self.mark(configuration) or not (folder / METRICS_FILE).is_file():
            return False
        # The end of a run may have come without `finish`
        return run["finished"] or (_content(folder) != run.get("earlier") and not (folder / UNFINISHED_FOLDER).exists())

    def prepare(self, folder: Path, configuration: dict[str, Any]) -> None:
        """Make a run's folder ready for a start with this configuration, and note that.

        What an interrupted start with the same configuration left there stays. Results of another configuration stay
        until the new ones take their place; the checkpoints of such a run are removed.

        Raises:
            ValueError: If the folder is there, but not from this comparison.
        """
        key, mark = self._key(folder), self.mark(configuration)
        run = self._runs.get(key)
        if run is None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(
                f"{str(folder)!r} is there, but {self._path} does not know it: it may be somebody's own. Move it away, "
                "or choose another output_dir."
            )
        if run is not None and run["configuration"] == mark:
            return
        if run is not None:
            logger.warning(f"{folder}: its configuration or data have changed; it is run again.")
            put_in_place(folder)  # of the old run, what its end did not come to
            for checkpoint in checkpoints(folder):  # first: an interruption leaves nothing of it to go on with
                remove_checkpoint(checkpoint)
            remove_traces(folder)
        self._runs[key] = {"configuration": mark, "finished": False, "earlier": _content(folder)}
        self.save()

    def finish(self, folder: Path) -> None:
        """Note that a run is finished."""
        self._runs[self._key(folder)]["finished"] = True
        self.save()

    def _key(self, folder: Path) -> str:
        return str(folder.relative_to(self.output))

    def mark(self, configuration: dict[str, Any]) -> str:
        """What tells a run with this configuration, and with these documents, from another."""
        return fingerprint([configuration, self._data])


def _content(folder: Path) -> str | None:
    """SHA-256 of a run's metrics, by which one run is told from another in the same folder."""
    path = folder / METRICS_FILE
    return fingerprint(path.read_text(encoding="utf-8")) if path.is_file() else None
