"""Command-line and YAML arguments of a comparison, checked before anything is loaded."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from dataclasses import dataclass, field, fields
from typing import Any

from ..cli.mistakes import report
from ..cli.packages import missing_packages
from ..cli.sources import missing_folder
from ..data.arguments import DEFAULT_OUTPUT, DataArguments
from ..data.folds import check_folds
from ..evaluation.selective import check_target_error
from ..runs.schema import APPROACHES
from ..task.tokens import TRUNCATION_SIDES
from .registry import BASELINES, ENCODER_LENGTH

DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"  # small enough for a laptop
DEFAULT_RUNS = {approach: {"approach": approach} for approach in ("embedding", "instruction")}
F1_AVERAGES = ("macro", "micro")
_TITLES = [baseline.title for baseline in BASELINES.values()]
_TAKEN = {"seed", "folds", "output_dir", "config", "resume_from_checkpoint", "overwrite_output_dir"}
_TAKEN |= {item.name for item in fields(DataArguments)}
_FILES = (
    *("cache", "combination", "combination.json", "configs"),
    *("figures", "report.html", "report.json", "report.md", "shared", "state.json", "tuning"),
)  # of a comparison


@dataclass
class ComparisonArguments:
    """What is compared. Model, prompt and data arguments hold for every run and baseline."""

    _argument_group_name = "Comparison"

    output_dir: str = field(
        default=DEFAULT_OUTPUT, metadata={"help": "Folder of the report, and of the runs that are trained."}
    )
    model_name_or_path: str = field(
        default=DEFAULT_MODEL, metadata={"help": "Decoder-only language model: Hub id or folder."}
    )
    runs: str | None = field(
        default=None,
        metadata={
            "help": "Runs by name, a mapping (YAML) or JSON. Each has an `approach` (embedding or instruction) and any "
            "arguments of that recipe; or the `output_dir` of a finished run alone, to reuse it. 'none' for baselines "
            "alone. Default: one of each approach, as its recipe has it."
        },
    )
    baselines: list[str] | None = field(
        default=None,
        metadata={"help": f"Baselines to add, of {', '.join(BASELINES)}; 'none' for none. Default: all."},
    )
    seeds: list[int] = field(
        default_factory=lambda: [42],
        metadata={"help": "Training seeds. Tests compare the runs of the lowest seed."},
    )
    train_sizes: list[int] | None = field(
        default=None,
        metadata={"help": "Compare at each of these numbers of training documents, and draw the learning curves."},
    )
    folds: int = field(
        default=0,
        metadata={
            "help": "Number of folds, 2 to 20, in place of a validation split, the same for all runs and baselines. "
            "Calibration, and what baselines choose, rest on out-of-fold predictions of the training documents (and "
            "validation documents, if there are any); the finished runs are trained on all of them. 0: off."
        },
    )
    tune: int = field(
        default=0,
        metadata={
            "help": "Try this number of settings of each run, and of each baseline that has any to choose, and take "
            "the best by the F1 of the validation documents; the first are those that are given. 0: take these."
        },
    )
    target_error: float | None = field(
        default=None,
        metadata={
            "help": "Highest error among the answers of runs, baselines and combinations that may abstain, such as "
            "0.02; the report has the share of documents that each still answers. Default: none."
        },
    )
    compare: list[str] | None = field(
        default=None,
        metadata={
            "help": "Names of runs or baselines to test against one another, in all pairs. Default: each run against "
            "the best of them, and each baseline against that."
        },
    )
    f1_average: str = field(
        default="macro", metadata={"help": "F1 that decides which run is better.", "choices": list(F1_AVERAGES)}
    )
    margin: float = field(
        default=0.01,
        metadata={"help": "A faster run is recommended if its F1 is at most this much below the best."},
    )
    cache_dir: str | None = field(
        default=None, metadata={"help": "Cache of frozen features and zero-shot scores. Default: cache in output_dir."}
    )
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the model."})
    dtype: str | None = field(default="bfloat16", metadata={"help": "Data type of the base model's weights."})
    attn_implementation: str | None = field(default=None, metadata={"help": "Attention, as in transformers."})
    load_in_4bit: bool = field(default=False, metadata={"help": "Whether to load the base model in NF4."})
    truncation: str = field(
        default="tail",
        metadata={
            "help": "Where a document that is too long loses text; all but the encoder.",
            "choices": list(TRUNCATION_SIDES),
        },
    )
    max_length: int = field(
        default=512, metadata={"help": "Maximum number of tokens of a document (heads and the encoder)."}
    )
    prompt_max_length: int = field(default=1024, metadata={"help": "Maximum number of tokens of prompt and answer."})
    per_device_eval_batch_size: int = field(default=8, metadata={"help": "Documents per device in prediction."})
    encoder_name_or_path: str | None = field(
        default=None, metadata={"help": "Encoder (BERT and its like) to fine-tune as a baseline; left out by default."}
    )
    encoder_learning_rate: float = field(default=5e-5, metadata={"help": "Learning rate of the encoder."})
    encoder_num_train_epochs: float | None = field(
        default=None,
        metadata={"help": f"Epochs of the encoder. Default: {ENCODER_LENGTH}."},
    )

    def __post_init__(self) -> None:
        names = ("model_name_or_path", "encoder_name_or_path")
        report(told for name in names if (source := getattr(self, name)) and (told := missing_folder(source, name)))
        self.run_settings = _read_runs(self.runs)
        given = _as_list(self.baselines)
        if given is None:
            given = [name for name in BASELINES if not self._missing_for(name)]
        self.baselines = [] if given == ["none"] else given
        unknown = sorted(set(self.baselines) - set(BASELINES))
        if unknown:
            raise ValueError(f"Unknown baselines {unknown}. Known are {list(BASELINES)}.")
        if len(set(self.baselines)) < len(self.baselines):
            raise ValueError(f"baselines must be different ones, got {self.baselines}.")
        for name in self.baselines:
            if missing := self._missing_for(name):
                raise ValueError(f"The baseline {name!r} needs {missing}.")
        check_folds(self.folds)
        self.seeds = _different_numbers("seeds", _as_list(self.seeds), least=0)
        if self.train_sizes is not None:
            self.train_sizes = _different_numbers("train_sizes", _as_list(self.train_sizes), least=1)
        for name, settings in self.run_settings.items():
            _check_run(name, settings)
        _check_folders(list(self.run_settings))
        if len(self.run_settings) + len(self.baselines) < 2:
            raise ValueError("There is nothing to compare: give at least two runs or baselines.")
        self.compared = self._names_to_compare()
        if self.target_error is not None:
            check_target_error(self.target_error)
        if self.tune != 0 and self.tune < 2:
            raise ValueError(f"tune must be 0 (off) or the number of trials, 2 or more; got {self.tune}.")
        if self.tune:
            report(missing_packages(["optuna"], "tune"))
        if self.f1_average not in F1_AVERAGES:
            raise ValueError(f"f1_average must be one of {list(F1_AVERAGES)}, got {self.f1_average!r}.")
        if not 0 < self.margin < 1:
            raise ValueError(f"margin is a difference in F1, above 0 and below 1, such as 0.01; got {self.margin}.")

    def _missing_for(self, baseline: str) -> str | None:
        """Return the argument that a baseline needs, if it is not given."""
        needed = BASELINES[baseline].needs
        return needed if needed and not getattr(self, needed) else None

    def _names_to_compare(self) -> list[str]:
        """Return the names in the report that `compare` gives, of which some may be the short names of baselines."""
        baselines = {name: BASELINES[name].title for name in self.baselines or []}
        known = {name: name for name in (*self.run_settings, *baselines.values())}
        given = list(map(str, _as_list(self.compare) or []))
        unknown = sorted(set(given) - set(known) - set(baselines))
        if unknown:
            raise ValueError(f"compare names {unknown}, which are not compared. There are {[*known, *baselines]}.")
        names = [{**baselines, **known}[name] for name in given]
        if given and len(set(names)) < max(2, len(names)):
            raise ValueError(f"compare takes two or more different names of runs or baselines, got {given}.")
        return names


def folder_name(name: str) -> str:
    """Return the name of a run's folder: the run's own in a to z, 0 to 9, `-` and `_`.

    A name with letters of another alphabet, or without any, gets a mark that is its own.
    """
    letters = unicodedata.normalize("NFKD", name.lower())  # an accent becomes a character of its own
    plain = re.sub(r"[^a-z0-9_]+", "-", re.sub(r"[^\x00-\x7f]", "", letters)).strip("-")
    if plain and not any(letter.isalnum() and not letter.isascii() for letter in letters):
        return plain
    return f"{plain or 'run'}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _read_runs(given: Any) -> dict[str, dict[str, Any]]:
    if given is None:
        given = DEFAULT_RUNS
    try:
        runs = {} if given == "none" else json.loads(given) if isinstance(given, str) else given
    except json.JSONDecodeError as error:
        raise ValueError(f"runs is not valid JSON ({error}): {given!r}.") from error
    if not isinstance(runs, dict) or not all(isinstance(settings, dict) for settings in runs.values()):
        raise ValueError(f"runs must map names to settings, got {given!r}.")
    return {str(name): settings for name, settings in runs.items()}


def _as_list(given: Any) -> Any:
    """YAML gives a single value as it is."""
    return given if given is None or isinstance(given, list) else [given]


def _different_numbers(name: str, numbers: list[int], least: int) -> list[int]:
    if not numbers or len(set(numbers)) < len(numbers) or min(numbers) < least:
        raise ValueError(f"{name} must be one or more different numbers of at least {least}, got {numbers}.")
    return sorted(numbers)


def _check_folders(names: list[str]) -> None:
    owners = {folder_name(title): title for title in _TITLES}
    owners |= {name: f"the comparison's {name}" for name in _FILES}
    for name in names:
        owner = owners.setdefault(folder_name(name), name)
        if owner != name:
            raise ValueError(
                f"Run {name!r} would have the folder {folder_name(name)!r} of {owner!r}: call it otherwise."
            )


def _check_run(name: str, settings: dict[str, Any]) -> None:
    if not name.strip() or "/" in name or name.startswith(".") or name in (*_TITLES, *_FILES):
        raise ValueError(
            f"A run cannot be called {name!r}: that is a baseline's name, a file of the comparison or no folder name."
        )
    if settings.get("approach") not in APPROACHES and set(settings) != {"output_dir"}:
        raise ValueError(
            f"Run {name!r} needs an approach, one of {list(APPROACHES)}, and its settings; or the output_dir of a "
            f"finished run and nothing else. It has {settings}."
        )
    taken = sorted(_TAKEN & set(settings)) if "approach" in settings else []
    if taken:
        raise ValueError(
            f"Run {name!r} sets {taken}, which are the same for all runs: set seeds, folds, output_dir and the data "
            "arguments for the whole comparison."
        )
