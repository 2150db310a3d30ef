"""Command-line and YAML arguments of a comparison. Knows the names of approaches and baselines only."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from .baselines import BASELINES
from .prompts import TRUNCATION_SIDES

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
        runs = json.loads(self.runs) if isinstance(self.runs, str) else self.runs or {}
        if not isinstance(runs, dict) or not all(isinstance(settings, dict) for settings in runs.values()):
            raise ValueError(f"runs must map names to settings, got {self.runs!r}.")
        self.run_settings: dict[str, dict[str, Any]] = {str(name): settings for name, settings in runs.items()}
        if self.baselines is None:
            self.baselines = [name for name in BASELINES if name != "encoder" or self.encoder_name_or_path]
        elif self.baselines == ["none"]:
            self.baselines = []
        unknown = sorted(set(self.baselines) - set(BASELINES))
        if unknown:
            raise ValueError(f"Unknown baselines {unknown}. Known are {list(BASELINES)}.")
        if "encoder" in self.baselines and not self.encoder_name_or_path:
            raise ValueError("The baseline 'encoder' needs encoder_name_or_path.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be one or more different numbers, got {self.seeds}.")
        self.seeds = sorted(self.seeds)
        if self.train_sizes is not None:
            if not self.train_sizes or len(set(self.train_sizes)) < len(self.train_sizes) or min(self.train_sizes) < 1:
                raise ValueError(f"train_sizes must be different numbers of at least 1, got {self.train_sizes}.")
            self.train_sizes = sorted(self.train_sizes)
        for name, settings in self.run_settings.items():
            if name in BASELINE_NAMES.values() or "/" in name or name.startswith("."):
                raise ValueError(f"A run cannot be called {name!r}: that is a baseline's name or no folder name.")
            if settings.get("approach") not in APPROACHES and set(settings) != {"output_dir"}:
                raise ValueError(
                    f"Run {name!r} needs an approach, one of {list(APPROACHES)}, and its settings; or the output_dir "
                    f"of a finished run and nothing else. It has {settings}."
                )
            taken = sorted({"seed", "output_dir", "config"} & set(settings)) if "approach" in settings else []
            if taken:
                raise ValueError(f"Run {name!r} sets {taken}, which compare.py sets itself: use seeds and output_dir.")
        if len(self.run_settings) + len(self.baselines) < 2:
            raise ValueError("There is nothing to compare: give at least two runs or baselines.")
