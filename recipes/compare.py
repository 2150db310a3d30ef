"""Which approach, on your data? Trains or reuses runs on the same split, adds baselines, tests the differences.

    python recipes/compare.py --config recipes/configs/compare/bbc_news.yaml [--seeds 42 43 44 …]

Writes report.md, report.json and figures to output_dir. Started again, it goes on where it stopped; a finished run is
trained again only if its settings or the data have changed. Each run is started with accelerate launch on one process.
"""

import os
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from urllib.parse import quote

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# One GPU for all runs and baselines: the first of those that may be seen
os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]

from hf_causal_clf.log_records import hide_by_name

hide_by_name()

import numpy as np
import psutil

from hf_causal_clf import baselines, plots
from hf_causal_clf.arguments import DataArguments, PromptArguments, parse_arguments
from hf_causal_clf.comparison import Entry, compare_runs
from hf_causal_clf.comparison_arguments import BASELINE_NAMES, SHARED, ComparisonArguments
from hf_causal_clf.comparison_state import STATE_FILE, ComparisonState, run_folder
from hf_causal_clf.data import ClassificationData, check_documents, load_data
from hf_causal_clf.distributed import launch_command
from hf_causal_clf.encoder import fine_tuned_encoder
from hf_causal_clf.features import model_content
from hf_causal_clf.output_folder import check_places
from hf_causal_clf.presets import EmbeddingModelArguments
from hf_causal_clf.report import render_report, render_summary
from hf_causal_clf.results import Results, measure, read_results, write_results
from hf_causal_clf.run_configs import given, read_config, write_config
from hf_causal_clf.run_files import (
    MANIFEST_FILE,
    lock_folder,
    naming_full_disk,
    read_json,
    whole_checkpoints,
    write_json,
    write_text,
)
from hf_causal_clf.significance import align
from hf_causal_clf.starting import children_ignore_interrupts, run_script

RECIPES = {"embedding": "embed.py", "instruction": "instruct.py"}


def main() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SystemExit("Start this script once, without accelerate launch: it launches each run itself.")
    types = (ComparisonArguments, DataArguments, PromptArguments)
    arguments, data_args, prompt_args = parse_arguments(types, __doc__, check=check_documents)
    output = Path(arguments.output_dir)
    check_comparison_folder(output, arguments, data_args)
    lock_folder(output)
    arguments.cache_dir = arguments.cache_dir or str(output / "cache")
    if arguments.train_sizes:
        check_train_sizes(arguments.train_sizes, data_args)
    reports = {}
    for size in arguments.train_sizes or [data_args.max_train_samples]:
        folder = output / f"size-{size}" if arguments.train_sizes else output
        sized = replace(arguments, output_dir=str(folder))
        with naming_full_disk(output):
            reports[size] = compare(sized, replace(data_args, max_train_samples=size), prompt_args)
    if len(reports) > 1:
        write_learning_curves(output, reports)


def check_comparison_folder(output: Path, arguments: ComparisonArguments, data_args: DataArguments) -> None:
    """Raise a `ValueError` if a comparison there would replace files that no comparison wrote."""
    models = {name: getattr(arguments, name) for name in ("model_name_or_path", "encoder_name_or_path")}
    check_places(output, data_args, **models)
    if [*output.glob(STATE_FILE), *output.glob(f"size-*/{STATE_FILE}")]:
        return
    for folder in [output, *(output / f"size-{size}" for size in arguments.train_sizes or [])]:
        names = ("figures", "report.json", "report.md", "learning_curves.json")
        found = [name for name in names if (folder / name).exists()]
        if found:
            raise ValueError(
                f"output_dir {str(folder)!r} has {', '.join(found)}, but no comparison was started there. Move that "
                "away, or choose another output_dir."
            )


def check_train_sizes(sizes: list[int], data_args: DataArguments) -> None:
    """Raise a `ValueError` if there are fewer training documents than the largest size."""
    if data_args.max_train_samples is not None:
        raise ValueError("train_sizes takes the place of max_train_samples: leave one of them out.")
    available = len(load_data(data_args).splits["train"])
    if available < max(sizes):
        raise ValueError(f"train_sizes has {max(sizes)}, but there are {available} training documents. Lower it.")


def compare(arguments: ComparisonArguments, data_args: DataArguments, prompt_args: PromptArguments) -> dict[str, Any]:
    """Train or reuse the runs, add the baselines and write the report."""
    data, output = load_data(data_args), Path(arguments.output_dir)
    trained = {name: settings for name, settings in arguments.run_settings.items() if "approach" in settings}
    configs = {
        (name, seed): write_config(output, name, seed, arguments, data_args, prompt_args)
        for name in trained
        for seed in arguments.seeds
    }
    reused = [
        reuse(name, Path(settings["output_dir"]), data)
        for name, settings in arguments.run_settings.items()
        if name not in trained
    ]
    state = ComparisonState(output, data)
    entries = [run_baseline(kind, arguments, prompt_args, data, state) for kind in arguments.baselines]
    for name, settings in trained.items():
        results = [run_recipe(name, seed, configs[name, seed], settings, data, state) for seed in arguments.seeds]
        entries.append(Entry(name, settings["approach"], results, arguments.seeds))
    options = {"average": arguments.f1_average, "margin": arguments.margin, "named": arguments.compared}
    report = compare_runs([*entries, *reused], **options)
    write_report(output, report, arguments, data)
    return report


def run_recipe(
    name: str, seed: int, config: Path, settings: dict[str, Any], data: ClassificationData, state: ComparisonState
) -> Results:
    """Train a run with its recipe, or go on with it, unless it is finished."""
    folder, finished = state.folder(name, seed, read_config(config))
    if not finished:
        script = Path(__file__).with_name(RECIPES[settings["approach"]])
        command = launch_command(str(script), str(config), gpu=os.environ["CUDA_VISIBLE_DEVICES"])
        if whole_checkpoints(folder):
            command += ["--resume_from_checkpoint", "true"]
        if (folder / MANIFEST_FILE).is_file():  # of another configuration
            command += ["--overwrite_output_dir", "true"]
        print(f"\n{name}, seed {seed}: $ accelerate launch {shlex.join(command[3:])}", flush=True)
        if launch(command):
            raise SystemExit(f"Run {name!r}, seed {seed} failed; its error is above. What was finished is kept.")
        state.finish(folder)
    return read_results(folder, data.label_space)


def launch(command: list[str]) -> int:
    """Run a command and return its exit code."""
    with children_ignore_interrupts():
        process = subprocess.Popen(command)
    return process.wait()


def reuse(name: str, folder: Path, data: ClassificationData) -> Entry:
    """Read a finished run from elsewhere, and check that it was tested on the same documents."""
    try:
        results = read_results(folder, data.label_space)
        rows = align(list(data.splits["test"]["id"]), results.ids)
        if not np.array_equal(results.gold[rows], data.gold("test")):
            raise ValueError("It has other gold labels for the same ids.")
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"Run {name!r} cannot be reused from {str(folder)!r}. {error}") from error
    described = folder / "classification.json"
    return Entry(name, read_json(described)["approach"] if described.is_file() else "baseline", [results])


def run_baseline(
    kind: str,
    arguments: ComparisonArguments,
    prompt_args: PromptArguments,
    data: ClassificationData,
    state: ComparisonState,
) -> Entry:
    """Run a baseline, in a process of its own so that its peak memory is its own."""
    seeds = arguments.seeds if kind == "encoder" else [None]
    results = []
    for seed in seeds:
        folder, finished = state.folder(
            BASELINE_NAMES[kind], seed, {"kind": kind, **baseline_settings(kind, arguments, prompt_args)}
        )
        if not finished:
            print(f"\n{BASELINE_NAMES[kind]}" + (f", seed {seed}" if seed is not None else ""), flush=True)
            if in_own_process(baseline, kind, arguments, prompt_args, data, seed, folder):
                raise SystemExit(f"{BASELINE_NAMES[kind]} failed; its error is above. What was finished is kept.")
            state.finish(folder)
        results.append(read_results(folder, data.label_space))
    return Entry(BASELINE_NAMES[kind], kind, results, arguments.seeds if kind == "encoder" else ())


def in_own_process(function: Any, *arguments: Any) -> int | None:
    """Call a function in a new process and return the exit code of that."""
    process = get_context("spawn").Process(target=run_script, args=(function, *arguments), daemon=True)
    with children_ignore_interrupts():
        process.start()
    process.join()
    return process.exitcode


def baseline_settings(kind: str, arguments: ComparisonArguments, prompt_args: PromptArguments) -> dict[str, Any]:
    """Return the arguments that a baseline depends on."""
    model = {key: getattr(arguments, key) for key in SHARED}
    model["model_name_or_path"] = model_content(arguments.model_name_or_path)
    if kind in ("zero_shot", "contextual"):
        return {**model, **given(prompt_args), "max_length": arguments.prompt_max_length}
    if kind == "frozen":
        return {**model, "max_length": arguments.max_length}
    if kind == "encoder":
        names = ("encoder_learning_rate", "encoder_num_train_epochs", "max_length")
        encoder = model_content(str(arguments.encoder_name_or_path))
        return {"encoder": encoder, **{name: getattr(arguments, name) for name in names}}
    return {}


def baseline(
    kind: str,
    arguments: ComparisonArguments,
    prompt_args: PromptArguments,
    data: ClassificationData,
    seed: int | None,
    folder: Path,
) -> None:
    """Run a baseline and write its results."""
    cache = Path(arguments.cache_dir)
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
    calibration, metrics = measure(data, outcome.logits)
    write_results(folder, data, outcome.logits, calibration, {**metrics, "training": outcome.training})


def write_report(
    output: Path, report: dict[str, Any], arguments: ComparisonArguments, data: ClassificationData
) -> None:
    """Write the report, with a figure of all runs and the trained ones' reliability diagrams, and print its result."""
    sizes = {split: len(rows) for split, rows in data.splits.items()}
    kind = "multi-label" if data.label_space.multi_label else "single-label"
    sentence = (
        f"{sizes['train']:,} training, {sizes['validation']:,} validation and {sizes['test']:,} test documents, "
        f"{len(data.label_space)} labels, {kind}. Model: {Path(arguments.model_name_or_path).name}. "
        f"Seeds: {', '.join(map(str, arguments.seeds))}."
    )
    rows, f1, average = report["runs"], f"f1_{arguments.f1_average}", arguments.f1_average
    intervals = [row["confidence_intervals"][f1] for row in rows]
    forest = plots.f1_comparison(
        [row["name"] for row in rows],
        [row["metrics"][f1] for row in rows],
        [interval["low"] for interval in intervals],
        [interval["high"] for interval in intervals],
        metric=f"{average} F1",
    )
    plots.save_figure(forest, output / "figures" / f1)
    figures = [(f"{average.capitalize()} F1 with 95 % intervals", f"figures/{f1}.png")]
    for row in rows:
        diagram = run_folder(output, row["name"], arguments.seeds[0]) / "figures" / "reliability_diagram.png"
        if row["seeds"] and row["approach"] in RECIPES and diagram.is_file():
            figures.append((f"Reliability: {row['name']}", quote(str(diagram.relative_to(output)))))
    write_json(output / "report.json", report)
    write_text(output / "report.md", render_report(report, title="Comparison", data=sentence, figures=figures))
    print(f"\n{render_summary(report)}\n\nThe report, with every pair, is in {output / 'report.md'}")


def write_learning_curves(output: Path, reports: dict[int, dict[str, Any]]) -> None:
    """Draw the F1 that decides against the number of training documents, and write the numbers beside."""
    average = reports[max(reports)]["f1_average"]
    f1, names = f"f1_{average}", [row["name"] for row in reports[max(reports)]["runs"]]
    series: dict[str, list[Any]] = {name: [] for name in names}
    for report in reports.values():
        rows = {row["name"]: row for row in report["runs"]}
        for name in names:
            row = rows[name]
            several = "mean" in row
            series[name].append((row["mean"][f1], row["sd"][f1]) if several else row["metrics"][f1])
    curves = plots.learning_curves(list(reports), series, metric=f"{average} F1")
    plots.save_figure(curves, output / "figures" / "learning_curves")
    write_json(output / "learning_curves.json", {"train_sizes": list(reports), f1: series})
    print(f"The learning curves are in {output / 'figures' / 'learning_curves.png'}")


def end_children() -> None:
    """End what this process has started: left alone, it would go on writing into the folders of its runs."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # Ctrl-C has reached it as well
            process.terminate()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Ended. Start it again to go on."))
    try:
        run_script(main)
    finally:
        end_children()
