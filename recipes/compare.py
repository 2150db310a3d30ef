"""Which approach, on your data? Trains or reuses runs on the same split, adds baselines, tests the differences.

    python recipes/compare.py --config recipes/configs/compare/bbc_news.yaml [--seeds 42 43 44 …]

Writes report.md, report.json and figures to output_dir. Started again, it goes on where it stopped; a finished run is
trained again only if its settings or the data have changed. Each run is started with accelerate launch on one process.
"""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import yaml
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging

from hf_causal_clf import baselines
from hf_causal_clf.arguments import DataArguments, HeadArguments, PromptArguments, RunArguments, parse_arguments
from hf_causal_clf.comparison import Entry, compare_runs
from hf_causal_clf.data import ClassificationData, load_data
from hf_causal_clf.encoder import fine_tuned_encoder
from hf_causal_clf.features import fingerprint
from hf_causal_clf.presets import (
    EmbeddingModelArguments,
    EmbeddingTrainingArguments,
    InstructionModelArguments,
    InstructionTrainingArguments,
)
from hf_causal_clf.prompts import TRUNCATION_SIDES
from hf_causal_clf.report import render_report
from hf_causal_clf.results import Results, measure, read_results, write_results
from hf_causal_clf.run_files import read_json, write_json

logger = logging.get_logger(__name__)

RECIPES = {"embedding": "embed.py", "instruction": "instruct.py"}
TYPES = {
    "embedding": (
        *(DataArguments, EmbeddingModelArguments, HeadArguments, PromptArguments),
        *(RunArguments, EmbeddingTrainingArguments),
    ),
    "instruction": (
        *(DataArguments, InstructionModelArguments, PromptArguments, RunArguments, InstructionTrainingArguments),
    ),
}
SHARED = ("model_name_or_path", "model_revision", "dtype", "attn_implementation", "load_in_4bit", "truncation")
NAMES = {
    "majority": "majority class",
    "tfidf": "TF-IDF + logistic regression",
    "zero_shot": "zero-shot",
    "contextual": "zero-shot, contextual calibration",
    "frozen": "frozen backbone + head",
    "encoder": "encoder",
}


@dataclass
class CompareArguments:
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
        metadata={"help": f"Baselines to add, of {', '.join(baselines.BASELINES)}; 'none' for none. Default: all."},
    )
    seeds: list[int] = field(
        default_factory=lambda: [42], metadata={"help": "Training seeds. The tests compare the runs of the lowest."}
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
            self.baselines = [name for name in baselines.BASELINES if name != "encoder" or self.encoder_name_or_path]
        elif self.baselines == ["none"]:
            self.baselines = []
        unknown = sorted(set(self.baselines) - set(baselines.BASELINES))
        if unknown:
            raise ValueError(f"Unknown baselines {unknown}. Known are {list(baselines.BASELINES)}.")
        if "encoder" in self.baselines and not self.encoder_name_or_path:
            raise ValueError("The baseline 'encoder' needs encoder_name_or_path.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be one or more different numbers, got {self.seeds}.")
        self.seeds = sorted(self.seeds)
        for name, settings in self.run_settings.items():
            if name in NAMES.values() or "/" in name or name.startswith("."):
                raise ValueError(f"A run cannot be called {name!r}: that is a baseline's name or no folder name.")
            if settings.get("approach") not in RECIPES and set(settings) != {"output_dir"}:
                raise ValueError(
                    f"Run {name!r} needs an approach, one of {list(RECIPES)}, and its settings; or the output_dir of a "
                    f"finished run and nothing else. It has {settings}."
                )
            taken = sorted({"seed", "output_dir", "config"} & set(settings)) if "approach" in settings else []
            if taken:
                raise ValueError(f"Run {name!r} sets {taken}, which compare.py sets itself: use seeds and output_dir.")
        if len(self.run_settings) + len(self.baselines) < 2:
            raise ValueError("There is nothing to compare: give at least two runs or baselines.")


def main() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SystemExit("Start this script once, without accelerate launch: it launches each run itself.")
    arguments, data_args, prompt_args = parse_arguments((CompareArguments, DataArguments, PromptArguments), __doc__)
    data = load_data(data_args)
    output = Path(arguments.output_dir)
    configs = {
        (name, seed): write_config(output, name, seed, arguments, data_args, prompt_args)
        for name, settings in arguments.run_settings.items()
        if "approach" in settings
        for seed in arguments.seeds
    }
    state = State(output, data)
    entries = [run_baseline(kind, arguments, prompt_args, data, state) for kind in arguments.baselines]
    for name, settings in arguments.run_settings.items():
        if "approach" in settings:
            results = [run_recipe(name, seed, configs[name, seed], settings, data, state) for seed in arguments.seeds]
            entries.append(Entry(name, settings["approach"], results, arguments.seeds))
        else:
            entries.append(reuse(name, Path(settings["output_dir"]), data))
    report = compare_runs(entries)
    write_report(output, report, arguments, data)


class State:
    """Which runs are finished, and with which configuration: `state.json` in the output folder."""

    def __init__(self, output: Path, data: ClassificationData) -> None:
        self.output = output
        self._path = output / "state.json"
        self._runs = read_json(self._path) if self._path.is_file() else {}
        rows = {
            split: [list(part[column]) for column in ("id", "text", "label")] for split, part in data.splits.items()
        }
        self._data = fingerprint([data.label_space.to_dict(), rows])

    def folder(self, name: str, seed: int | None, config: dict[str, Any]) -> tuple[Path, bool]:
        """Return a run's folder and whether it is finished; what another configuration left there is removed."""
        key = name if seed is None else f"{name}/seed-{seed}"
        folder, mark = self.output / key, fingerprint([config, self._data])
        known = self._runs.get(key, {})
        if known.get("configuration") != mark:
            if folder.exists():
                logger.warning(f"{folder}: its configuration or data have changed; it is run again.")
                shutil.rmtree(folder)
            self._runs[key] = {"configuration": mark, "finished": False}
            self._write()
        return folder, self._runs[key]["finished"] and (folder / "metrics.json").is_file()

    def finish(self, folder: Path) -> None:
        """Note that a run is finished."""
        self._runs[str(folder.relative_to(self.output))]["finished"] = True
        self._write()

    def _write(self) -> None:
        self.output.mkdir(parents=True, exist_ok=True)
        write_json(self._path, self._runs)


def write_config(
    output: Path,
    name: str,
    seed: int,
    arguments: CompareArguments,
    data_args: DataArguments,
    prompt_args: PromptArguments,
) -> Path:
    """Write a run's whole configuration as a YAML file that its recipe takes, and check it."""
    settings = dict(arguments.run_settings[name])
    approach = settings.pop("approach")
    prompted = approach == "instruction" or settings.get("head_init") == "verbalizer"
    config = {
        **_given(data_args),
        **{key: value for key in SHARED if (value := getattr(arguments, key)) is not None},
        **(_given(prompt_args) if prompted else {}),
        "max_length": arguments.prompt_max_length if prompted else arguments.max_length,
        "per_device_eval_batch_size": arguments.per_device_eval_batch_size,
        **settings,
        "seed": seed,
        "output_dir": str(output / name / f"seed-{seed}"),
    }
    path = output / "configs" / f"{name}-{seed}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    try:
        parse_arguments(TYPES[approach], args=["--config", str(path)])
    except ValueError as error:
        raise ValueError(f"Run {name!r}: {error}") from error
    return path


def run_recipe(
    name: str, seed: int, config: Path, settings: dict[str, Any], data: ClassificationData, state: State
) -> Results:
    """Train a run with its recipe, or go on with it, unless it is finished."""
    folder, finished = state.folder(name, seed, yaml.safe_load(config.read_text(encoding="utf-8")))
    if not finished:
        command = [
            *(sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"),
            *("--gpu_ids", "0", "--mixed_precision", "no", "--dynamo_backend", "no"),
            *("--num_cpu_threads_per_process", os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))),
            *(str(Path(__file__).with_name(RECIPES[settings["approach"]])), "--config", str(config)),
        ]
        if folder.is_dir() and get_last_checkpoint(str(folder)):
            command += ["--resume_from_checkpoint", "true"]
        print(f"\n{name}, seed {seed}: $", *command[4:], flush=True)
        if subprocess.run(command).returncode:
            raise SystemExit(f"Run {name!r}, seed {seed} failed; its error is above. What was finished is kept.")
        state.finish(folder)
    return read_results(folder, data.label_space)


def reuse(name: str, folder: Path, data: ClassificationData) -> Entry:
    """Read a finished run from elsewhere."""
    results = read_results(folder, data.label_space)
    described = folder / "classification.json"
    return Entry(name, read_json(described)["approach"] if described.is_file() else "baseline", [results])


def run_baseline(
    kind: str, arguments: CompareArguments, prompt_args: PromptArguments, data: ClassificationData, state: State
) -> Entry:
    """Run a baseline, in a process of its own so that its peak memory is its own."""
    seeds = arguments.seeds if kind == "encoder" else [None]
    results = []
    for seed in seeds:
        folder, finished = state.folder(
            NAMES[kind], seed, {"kind": kind, **baseline_settings(kind, arguments, prompt_args)}
        )
        if not finished:
            print(f"\n{NAMES[kind]}" + (f", seed {seed}" if seed is not None else ""), flush=True)
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                pool.submit(baseline, kind, arguments, prompt_args, data, seed, folder).result()
            state.finish(folder)
        results.append(read_results(folder, data.label_space))
    return Entry(NAMES[kind], kind, results, arguments.seeds if kind == "encoder" else ())


def baseline_settings(kind: str, arguments: CompareArguments, prompt_args: PromptArguments) -> dict[str, Any]:
    """Return the arguments that a baseline depends on."""
    model = {key: getattr(arguments, key) for key in SHARED}
    if kind in ("zero_shot", "contextual"):
        return {**model, **_given(prompt_args), "max_length": arguments.prompt_max_length}
    if kind == "frozen":
        return {**model, "max_length": arguments.max_length}
    if kind == "encoder":
        names = ("encoder_name_or_path", "encoder_learning_rate", "encoder_num_train_epochs", "max_length")
        return {name: getattr(arguments, name) for name in names}
    return {}


def baseline(
    kind: str,
    arguments: CompareArguments,
    prompt_args: PromptArguments,
    data: ClassificationData,
    seed: int | None,
    folder: Path,
) -> None:
    """Run a baseline and write its results."""
    cache = Path(arguments.output_dir) / "cache"
    model = EmbeddingModelArguments(**{key: getattr(arguments, key) for key in SHARED if key != "truncation"})
    options = {"batch_size": arguments.per_device_eval_batch_size, "cache": cache}
    if kind in ("majority", "tfidf"):
        outcome = getattr(baselines, kind)(data)
    elif kind in ("zero_shot", "contextual"):
        verbalizer = prompt_args.verbalizer(data.label_space)
        template = prompt_args.template(arguments.prompt_max_length, arguments.truncation)
        contextual = kind == "contextual"
        outcome = baselines.zero_shot(data, model, template, verbalizer, contextual=contextual, **options)
    elif kind == "frozen":
        limits = {"max_length": arguments.max_length, "truncation": arguments.truncation}
        outcome = baselines.frozen(data, model, **limits, **options)
    else:
        outcome = fine_tuned_encoder(
            data,
            arguments.encoder_name_or_path,
            max_length=arguments.max_length,
            learning_rate=arguments.encoder_learning_rate,
            num_train_epochs=arguments.encoder_num_train_epochs,
            batch_size=16,
            seed=seed,
            output_dir=folder,
        )
    calibration, metrics = measure(data, outcome.raw)
    write_results(folder, data, outcome.raw, calibration, {**metrics, "training": outcome.training})


def write_report(output: Path, report: dict[str, Any], arguments: CompareArguments, data: ClassificationData) -> None:
    sizes = {split: len(rows) for split, rows in data.splits.items()}
    kind = "multi-label" if data.label_space.multi_label else "single-label"
    sentence = (
        f"{sizes['train']:,} training, {sizes['validation']:,} validation and {sizes['test']:,} test documents, "
        f"{len(data.label_space)} labels, {kind}. Model: {Path(arguments.model_name_or_path).name}. "
        f"Seeds: {', '.join(map(str, arguments.seeds))}."
    )
    write_json(output / "report.json", report)
    page = render_report(report, title="Comparison", data=sentence)
    (output / "report.md").write_text(page, encoding="utf-8")
    print(page)
    print(f"The report is in {output / 'report.md'}")


def _given(arguments: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that differ from their defaults."""
    default = {name: item.default for name, item in type(arguments).__dataclass_fields__.items()}
    return {
        name: value for name in default if (value := getattr(arguments, name)) != default[name] and value is not None
    }


if __name__ == "__main__":
    main()
