"""The configuration of each run of a comparison, as a file that its recipe takes."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from .arguments import DataArguments, HeadArguments, PromptArguments, RunArguments, parse_arguments
from .comparison_arguments import SHARED, ComparisonArguments, folder_name
from .comparison_state import run_folder
from .features import model_content
from .presets import (
    EmbeddingModelArguments,
    EmbeddingTrainingArguments,
    InstructionModelArguments,
    InstructionTrainingArguments,
)
from .run_files import write_text

TYPES = {
    "embedding": (
        *(DataArguments, EmbeddingModelArguments, HeadArguments, PromptArguments),
        *(RunArguments, EmbeddingTrainingArguments),
    ),
    "instruction": (
        *(DataArguments, InstructionModelArguments, PromptArguments, RunArguments, InstructionTrainingArguments),
    ),
}


def write_config(
    output: Path,
    name: str,
    seed: int,
    arguments: ComparisonArguments,
    data_args: DataArguments,
    prompt_args: PromptArguments,
) -> Path:
    """Write a run's whole configuration as a YAML file that its recipe takes, and check it.

    Raises:
        ValueError: If the recipe would not take it; the message names the run.
    """
    settings = dict(arguments.run_settings[name])
    approach = settings.pop("approach")
    prompted = approach == "instruction" or settings.get("head_init") == "verbalizer"
    config = {
        **given(data_args),
        **{key: value for key in SHARED if (value := getattr(arguments, key)) is not None},
        **(given(prompt_args) if prompted else {}),
        "max_length": arguments.prompt_max_length if prompted else arguments.max_length,
        "per_device_eval_batch_size": arguments.per_device_eval_batch_size,
        **settings,
        "seed": seed,
        "output_dir": str(run_folder(output, name, seed)),
    }
    path = output / "configs" / f"{folder_name(name)}-{seed}.yaml"
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


def given(arguments: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that differ from their defaults."""
    default = {item.name: item.default for item in fields(arguments)}
    return {
        name: value for name in default if (value := getattr(arguments, name)) != default[name] and value is not None
    }
