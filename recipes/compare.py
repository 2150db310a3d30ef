r"""Which approach, on your data? Trains or reuses runs on the same split, adds baselines, tests the differences.

    hf-causal-clf compare --train_file tickets.csv [--model_name_or_path HuggingFaceTB/SmolLM2-135M-Instruct …] \
        [--runs '{"embed": {"approach": "embedding"}, "instruct": {"approach": "instruction"}}'] [--seeds 42 43 44 …]

Baselines come first, the cheapest with their table after seconds; then the runs are trained. Arguments may stand in a
YAML file instead (--config FILE.yaml), runs as a mapping.

Writes report.html, report.md, report.json and figures to output_dir. Started again, it goes on where it stopped; a
finished run is trained again only if its settings or the data have changed. Each run is started with accelerate launch
on one process.
"""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: a thread that waits leaves its core to others
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# One GPU for all runs and baselines: the first of those that may be seen
os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]

from hf_causal_clf.cli.logs import hide_by_name

hide_by_name()

import numpy as np

from hf_causal_clf.backbone.cache import shared_by_runs
from hf_causal_clf.cli.parsing import parse_arguments
from hf_causal_clf.cli.processes import launch_command
from hf_causal_clf.cli.starting import children_ignore_interrupts, run_script
from hf_causal_clf.combining import Candidate, combine_runs
from hf_causal_clf.combining import Job as CombinationJob
from hf_causal_clf.comparison.arguments import ComparisonArguments, folder_name
from hf_causal_clf.comparison.curves import write_learning_curves
from hf_causal_clf.comparison.plan import (
    RECIPES,
    STATE_FILE,
    ComparisonState,
    check_model_of,
    entry_folder,
    is_comparison,
    read_config,
    write_config,
)
from hf_causal_clf.comparison.ranking import Entry, compare_runs
from hf_causal_clf.comparison.registry import cheapest_first
from hf_causal_clf.comparison.report import render_entries, write_report
from hf_causal_clf.comparison.running import in_own_process, run_baseline
from hf_causal_clf.comparison.tuning import Tuner
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.splits import ClassificationData, load_data, note_document_mistakes
from hf_causal_clf.evaluation.calibration import MIN_DOCUMENTS
from hf_causal_clf.evaluation.selective import check_enough
from hf_causal_clf.evaluation.significance import align
from hf_causal_clf.runs.disk import lock_folder, naming_full_disk
from hf_causal_clf.runs.files import CLASSIFICATION_FILE, MANIFEST_FILE, METRICS_FILE, OUT_OF_FOLD_FILE, read_json
from hf_causal_clf.runs.results import Results, read_results
from hf_causal_clf.runs.run import Run
from hf_causal_clf.training.arguments import PromptArguments
from hf_causal_clf.training.checkpoints import whole_checkpoints
from hf_causal_clf.training.output_folder import check_places, documents_content, read_manifest
from hf_causal_clf.training.starting import settle_output_dir

COMBINATION = "combination"
DECISION_FILE = "combination.json"


def main() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SystemExit("Start this script once, without accelerate launch: it launches each run itself.")
    types = (ComparisonArguments, DataArguments, PromptArguments)
    arguments, data_args, prompt_args = parse_arguments(types, __doc__, check=note_document_mistakes)
    settle_output_dir(arguments, data_args, "compare")
    output = Path(arguments.output_dir)
    check_comparison_folder(output, arguments, data_args)
    lock_folder(output)
    arguments.cache_dir = arguments.cache_dir or str(output / "cache")
    if arguments.train_sizes:
        check_train_sizes(arguments.train_sizes, data_args, arguments.folds)
    reports = {}
    for size in arguments.train_sizes or [data_args.max_train_samples]:
        folder = output / f"size-{size}" if arguments.train_sizes else output
        sized = replace(arguments, output_dir=str(folder))
        with naming_full_disk(output), shared_by_runs(folder / "shared"):
            reports[size] = compare(sized, replace(data_args, max_train_samples=size), prompt_args)
    if len(reports) > 1:
        write_learning_curves(output, reports)


def check_comparison_folder(output: Path, arguments: ComparisonArguments, data_args: DataArguments) -> None:
    """Raise a `ValueError` if a comparison there would replace files that no comparison wrote."""
    models = {name: getattr(arguments, name) for name in ("model_name_or_path", "encoder_name_or_path")}
    check_places(output, data_args, **models)
    sizes = [output / f"size-{size}" for size in arguments.train_sizes or []]
    reports = ("report.html", "report.json", "report.md", "learning_curves.json", "learning_curves.md")
    names = ("figures", *reports, STATE_FILE)
    for folder in [output, *sizes]:
        started = is_comparison(folder) or (folder == output and any(map(is_comparison, output.glob("size-*"))))
        found = [] if started else [name for name in names if (folder / name).exists()]
        if found:
            raise ValueError(
                f"output_dir {str(folder)!r} has {', '.join(found)}, but no comparison was started there. Move that "
                "away, or choose another output_dir."
            )


def check_train_sizes(sizes: list[int], data_args: DataArguments, folds: int) -> None:
    """Raise a `ValueError` if there are fewer training documents than the largest size."""
    if data_args.max_train_samples is not None:
        raise ValueError("train_sizes takes the place of max_train_samples: leave one of them out.")
    available = len(load_data(data_args, folds, tabled=False).splits["train"])
    if available < max(sizes):
        raise ValueError(f"train_sizes has {max(sizes)}, but there are {available} training documents. Lower it.")


def compare(arguments: ComparisonArguments, data_args: DataArguments, prompt_args: PromptArguments) -> dict[str, Any]:
    """Train or reuse the runs, add the baselines and write the report."""
    data, output = load_data(data_args, arguments.folds), Path(arguments.output_dir)
    if arguments.target_error is not None:
        check_enough(len(data.splits["validation"]), arguments.target_error)
    trained = {name: settings for name, settings in arguments.run_settings.items() if "approach" in settings}
    everything = (arguments, data_args, prompt_args)
    for name in trained:  # all mistakes in settings are told before anything is trained
        write_config(output, name, arguments.seeds[0], *everything)
    reused = [
        reuse(name, Path(settings["output_dir"]), data)
        for name, settings in arguments.run_settings.items()
        if name not in trained
    ]
    state = ComparisonState(output, data)
    state.save()
    tuner = Tuner(*everything, data, state, train)
    entries: list[Entry] = []
    for group in cheapest_first(arguments.baselines):
        entries += [run_baseline(each, arguments, prompt_args, data, state, tuner.parameters(each)) for each in group]
        print(f"\n{render_entries(entries, arguments.f1_average)}", flush=True)
    for name in trained:
        settings, results = tuner.settings(name), []
        for seed in arguments.seeds:
            config = write_config(output, name, seed, *everything, settings=settings)
            results.append(run_recipe(name, seed, config, settings["approach"], data, state))
        entries.append(Entry(name, settings["approach"], results, arguments.seeds))
    entries += reused
    combined, decision = combine(entries, arguments, data, state)
    options = {"average": arguments.f1_average, "margin": arguments.margin, "named": arguments.compared}
    report = {**compare_runs([*entries, *combined], **options), COMBINATION: decision} | tuner.report()
    write_report(output, report, arguments, data)
    return report


def run_recipe(
    name: str, seed: int, config: Path, approach: str, data: ClassificationData, state: ComparisonState
) -> Results:
    """Train a run with its recipe, or go on with it, unless it is finished."""
    folder, configuration = state.folder(name, seed), read_config(config)
    if not state.is_finished(folder, configuration):
        check_model_of(config)
        state.prepare(folder, configuration)
        if not train(f"{name}, seed {seed}", folder, config, approach):
            raise SystemExit(f"Run {name!r}, seed {seed} failed; its error is above. What was finished is kept.")
        state.finish(folder)
    return read_results(folder, data.label_space)


def train(title: str, folder: Path, config: Path, approach: str) -> bool:
    """Train with a recipe, from a folder's last checkpoint where there is one, and return whether that succeeded."""
    script = Path(__file__).with_name(RECIPES[approach])
    command = launch_command(str(script), str(config), gpu=os.environ["CUDA_VISIBLE_DEVICES"])
    if whole_checkpoints(folder):
        command += ["--resume_from_checkpoint", "true"]
    if (folder / MANIFEST_FILE).is_file():  # of another configuration
        command += ["--overwrite_output_dir", "true"]
    print(f"\n{title}: $ accelerate launch {shlex.join(command[3:])}", flush=True)
    return not launch(command)


def combine(
    entries: Sequence[Entry], arguments: ComparisonArguments, data: ClassificationData, state: ComparisonState
) -> tuple[list[Entry], dict[str, Any] | None]:
    """Combine what can be loaded, unless an earlier start did.

    Returns:
        The combination, if it is kept, and what decided that; `None` where there is nothing to combine.
    """
    candidates = [
        Candidate(entry.name, folder_name(entry.name), folder)
        for entry in sorted(entries, key=lambda entry: entry.name)
        if is_member(folder := entry_folder(state.output, entry.name, entry.seeds, arguments), data, state)
    ]
    if len(candidates) < 2:
        return [], None
    if len(data.splits["validation"]) < MIN_DOCUMENTS:
        reason = (
            f"No combination was tried: fitting and judging its weights takes {MIN_DOCUMENTS} validation documents."
        )
        return [], {"kept": False, "reason": reason}
    files = (CLASSIFICATION_FILE, METRICS_FILE)
    members = {each.name: [read_json(each.folder / name) for name in files] for each in candidates}
    configuration = {"kind": COMBINATION, "members": members, "average": arguments.f1_average}
    if arguments.target_error is not None:
        configuration["target_error"] = arguments.target_error
    folder, path, mark = state.folder(COMBINATION, None), state.output / DECISION_FILE, state.mark(configuration)
    decision = read_json(path) if path.is_file() else {}
    if decision.get("mark") != mark or (decision["kept"] and not state.is_finished(folder, configuration)):
        state.prepare(folder, configuration)
        print(f"\n{COMBINATION} of {len(candidates)} runs", flush=True)
        options = (data, arguments.f1_average, arguments.per_device_eval_batch_size, arguments.target_error)
        if in_own_process(combine_runs, CombinationJob(folder, path, mark, candidates, *options)):
            raise SystemExit("The combination failed; its error is above. What was finished is kept.")
        state.finish(folder)
        decision = read_json(path)
    results = [read_results(folder, data.label_space)] if decision["kept"] else []
    return [Entry(COMBINATION, COMBINATION, [each]) for each in results], {**decision, "folder": str(folder)}


def is_member(folder: Path, data: ClassificationData, state: ComparisonState) -> bool:
    """Whether a folder has a run that can be loaded and that saw none of the documents that weights are fitted on."""
    if not (folder / CLASSIFICATION_FILE).is_file() or Run.read(folder).members is not None:
        return False
    if data.folds is not None and not (folder / OUT_OF_FOLD_FILE).is_file():
        return False
    if folder.is_relative_to(state.output):
        return True
    settings = read_manifest(folder)["settings"] or {}  # of a run from elsewhere
    return settings.get("data") == documents_content(data)


def launch(command: list[str]) -> int:
    """Run a command and return its exit code; whatever ends this process ends all that the command has started."""
    with children_ignore_interrupts():
        process = subprocess.Popen(command, process_group=0)
    try:
        return process.wait()
    finally:  # the launcher does not end its recipe, which would go on writing into the folder of its run
        with suppress(ProcessLookupError, PermissionError):  # none is left
            os.killpg(process.pid, signal.SIGTERM)


def reuse(name: str, folder: Path, data: ClassificationData) -> Entry:
    """Read a finished run from elsewhere, and check that it was tested on the same documents."""
    try:
        results = read_results(folder, data.label_space)
        rows = align(list(data.splits["test"]["id"]), results.ids)
        if not np.array_equal(results.gold[rows], data.gold("test")):
            raise ValueError("It has other gold labels for the same ids.")
        settings = read_manifest(folder)["settings"] or {}
        if settings.get("test", tested := documents_content(data, ("test",))) != tested:  # earlier runs do not say
            raise ValueError("It was tested on documents with other texts.")
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"Run {name!r} cannot be reused from {str(folder)!r}. {error}") from error
    described = (folder / CLASSIFICATION_FILE).is_file()
    return Entry(name, Run.read(folder).approach if described else "baseline", [results])


def end_on_signals() -> None:
    """Have a request to end, and a terminal that is closed, end this process as an error does."""

    def end(*_: Any) -> None:
        sys.exit("Ended. Start it again to go on.")

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, end)


if __name__ == "__main__":
    end_on_signals()
    run_script(main)
