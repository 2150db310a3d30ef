"""Command-line and YAML arguments of a comparison, checked before anything is loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import Any

from .arguments import DataArguments
from .baselines import BASELINES
from .mistakes import report
from .prompts import TRUNCATION_SIDES
from .sources import missing_folder

APPROACHES = ("embedding", "instruction")
BASELINE_NAMES = {
    "majority": "majority class",
    "tfidf": "TF-IDF + logistic regression",
    "zero_shot": "zero-shot",
    "contextual": "zero-shot, contextual calibration",
    "frozen": "frozen backbone + head",
    "encoder": "encoder",
}
SHARED = ("model_name_or_path", "model_revision", "dtype", "attn_implementation", "load_in_4bit", "truncation")
_TAKEN = {"seed", "output_dir", "config", "resume_from_checkpoint"} | {item.name for item in fields(DataArguments)}
_FILES = ("cache", "configs", "figures", "report.json", "report.md", "state.json")  # of a comparison


@dataclass
class ComparisonArguments:
    """What is compared. Model, prompt and data arguments hold for every run and baseline."""

    output_dir: str = field(metadata={"help": "Folder of the report, and of the runs that are trained."})
    model_name_or_path: str = field(metadata={"help": "Decoder-only language model: Hub id or folder."})
    runs: str | None = field(
        default=None,
        metadata={
            "help": "Runs by name, a mapping (YAML) or JSON. Each has an `approach` (embedding or instruction) and any "
            "arguments of that recipe; or the `output_dir` of a finished run alone, to reuse it."
        },
    )
    baselines: list[str] | None = field(
        default=None,
        metadata={"help": f"Baselines to add, of {', '.join(BASELINES)}; 'none' for none. Default: all."},
    )
    seeds: list[int] = field(
        default_factory=lambda: [42], metadata={"help": "Training seeds. The tests compare the runs of the lowest."}
    )
    train_sizes: list[int] | None = field(
        default=None,
        metadata={"help": "Compare at each of these numbers of training documents, and draw the learning curves."},
    )
    cache_dir: str | None = field(
        default=None, metadata={"help": "Cache of frozen features and zero-shot scores. Default: cache in output_dir."}
    )
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the model."})
    dtype: str | None = field(default="bfloat16", metadata={"help": "Data type of the base model's weights."})
    attn_implementation: str | None = field(default=None, metadata={"help": "As in transformers."})
    load_in_4bit: bool = field(default=False, metadata={"help": "Whether to load the base model in NF4."})
    truncation: str = field(
        default="tail",
        metadata={"help": "Where a document that is too long loses text.", "choices": list(TRUNCATION_SIDES)},
    )
    max_length: int = field(
        default=512, metadata={"help": "Maximum number of tokens of a document (heads and the encoder)."}
    )
    prompt_max_length: int = field(default=1024, metadata={"help": "Maximum number of tokens of prompt and answer."})
    per_device_eval_batch_size: int = field(default=8, metadata={"help": "Documents a device in prediction."})
    encoder_name_or_path: str | None = field(
        default=None, metadata={"help": "Encoder (BERT and its like) to fine-tune as a baseline; left out by default."}
    )
    encoder_learning_rate: float = field(default=5e-5, metadata={"help": "Learning rate of the encoder."})
    encoder_num_train_epochs: float = field(default=5, metadata={"help": "Epochs of the encoder."})

    def __post_init__(self) -> None:
        names = ("model_name_or_path", "encoder_name_or_path")
        report(told for name in names if (source := getattr(self, name)) and (told := missing_folder(source, name)))
        self.run_settings = _read_runs(self.runs)
        given = _as_list(self.baselines)
        if given is None:
            given = [name for name in BASELINES if name != "encoder" or self.encoder_name_or_path]
        self.baselines = [] if given == ["none"] else given
        unknown = sorted(set(self.baselines) - set(BASELINES))
        if unknown:
            raise ValueError(f"Unknown baselines {unknown}. Known are {list(BASELINES)}.")
        if len(set(self.baselines)) < len(self.baselines):
            raise ValueError(f"baselines must be different ones, got {self.baselines}.")
        if "encoder" in self.baselines and not self.encoder_name_or_path:
            raise ValueError("The baseline 'encoder' needs encoder_name_or_path.")
        self.seeds = _different_numbers("seeds", _as_list(self.seeds), least=0)
        if self.train_sizes is not None:
            self.train_sizes = _different_numbers("train_sizes", _as_list(self.train_sizes), least=1)
        for name, settings in self.run_settings.items():
            _check_run(name, settings)
        if len(self.run_settings) + len(self.baselines) < 2:
            raise ValueError("There is nothing to compare: give at least two runs or baselines.")


def _read_runs(given: Any) -> dict[str, dict[str, Any]]:
    try:
        runs = json.loads(given) if isinstance(given, str) else given or {}
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


def _check_run(name: str, settings: dict[str, Any]) -> None:
    if not name.strip() or "/" in name or name.startswith(".") or name in (*BASELINE_NAMES.values(), *_FILES):
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
            f"Run {name!r} sets {taken}, which are the same for all runs: set seeds, output_dir and the data arguments "
            "for the whole comparison."
        )
