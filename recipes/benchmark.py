"""This package beside what its users would otherwise run: speed, memory, and how they grow.

    python recipes/quickstart.py --prepare_only                     # model and articles, once, in a clone
    hf-causal-clf benchmark --output runs/benchmark/results.json [--only S1,S2] [--growth true]

Both sides run in turn, A B A B, with the same model, rows, data type, threads and effective batch; a row's ratio is the
median of the ratios of its pairs. The table is printed and the JSON written row by row, so a run that is killed keeps
what it has. An existing JSON file is written anew.
"""

import argparse
import os
import platform
import sys
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

CACHE = Path(".cache")
MODEL, NEWS, SHARED = CACHE / "SmolLM2-135M-Instruct", CACHE / "bbc_news", Path("..") / "shared" / "data"
PACKAGES = ("hf_causal_clf", "transformers", "trl", "peft", "accelerate", "torch", "numpy")
ROWS = ("S1", "S2", "S3", "S4", "S5", "S5b", "S6", "S7", "S8", "S9", "S10", "S11", "S12", "S13", "S14", "S15", "S16")


def main() -> None:
    arguments = parse_arguments()
    check(arguments)
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # for child processes too
    from benchmarks.setting import Setting
    from benchmarks.timing import table_head, table_line

    from hf_causal_clf.runs.disk import write_json

    setting = Setting(
        model=arguments.model_name_or_path,
        news=Path(arguments.news),
        shared=Path(arguments.shared_data),
        documents=arguments.documents,
        mixed_documents=arguments.s8_documents,
        pairs=arguments.pairs,
        threads=arguments.threads,
        batch_size=arguments.batch_size,
        dtype=arguments.dtype,
    )
    setting.prepare()
    results: dict = {"about": about(arguments)}
    output = Path(arguments.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    print(table_head(), flush=True)
    for name, measure in measures().items():
        if name in arguments.only:
            results[name] = measure(setting)
            write_json(output, results)
            print(table_line(name, results[name]), flush=True)
    if arguments.growth:
        from benchmarks.growth import measure_growth

        for name, found in measure_growth(setting, output.parent / "figures"):
            results.setdefault("growth", {})[name] = found
            write_json(output, results)
    print(f"Written to {output}", file=sys.stderr)


def parse_arguments() -> argparse.Namespace:
    layout = {"description": __doc__, "formatter_class": argparse.RawDescriptionHelpFormatter, "add_help": False}
    parser = argparse.ArgumentParser(prog="hf-causal-clf benchmark", usage="%(prog)s [OPTION …]", **layout)
    add = parser.add_argument
    add("-h", "--help", "--help-all", action="help", help="Show this.")
    add("--output", default="runs/benchmark/results.json", help="JSON file; figures go beside it. (%(default)s)")
    add("--only", type=chosen_rows, default=ROWS, help="Rows to measure, such as S1,S2; 'none' for --growth alone.")
    add("--growth", type=yes, default=False, help="Whether to measure and draw how time and memory grow. (%(default)s)")
    add("--model_name_or_path", default=str(MODEL), help="Decoder-only language model. (%(default)s)")
    add("--news", default=str(NEWS), help="Folder with train.jsonl, validation.jsonl and test.jsonl. (%(default)s)")
    add(
        "--shared_data",
        default=str(SHARED),
        help="Folder with clinc_domains and patents_ipc for S8; without it, pieces of the articles. (%(default)s)",
    )
    add("--documents", type=positive, default=16, help="Size of a sample; rows take multiples of it. (%(default)s)")
    add("--s8_documents", type=positive, default=5000, help="Documents of S8, over all pairs. (%(default)s)")
    add("--pairs", type=positive, default=5, help="Timed pairs of each row. (%(default)s)")
    add("--threads", type=positive, default=os.cpu_count() or 1, help="CPU threads of either side. Default: all cores.")
    add(
        "--batch_size",
        type=positive,
        default=8,
        help="Documents per forward pass in prediction; the default is the Trainer's. (%(default)s)",
    )
    add("--dtype", default="bfloat16", choices=["bfloat16", "float32"], help="Base model's weights. (%(default)s)")
    return parser.parse_args()


def chosen_rows(text: str) -> tuple[str, ...]:
    if text == "none":
        return ()
    known = {name.upper(): name for name in ROWS}
    chosen = tuple(known.get(name.strip().upper(), name.strip()) for name in text.split(","))
    unknown = [name for name in chosen if name not in ROWS]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown rows {unknown}; there are {', '.join(ROWS)}")
    return chosen


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number


def yes(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"true or false, not {text!r}")
    return text.lower() == "true"


def check(arguments: argparse.Namespace) -> None:
    """Stop before anything is loaded where model or articles are missing."""
    missing = [str(arguments.news)] if not (Path(arguments.news) / "test.jsonl").is_file() else []
    if arguments.model_name_or_path == str(MODEL) and not (MODEL / "config.json").is_file():
        missing.append(str(MODEL))
    if missing:
        raise SystemExit(f"Not there: {', '.join(missing)}. Get them with: python recipes/quickstart.py --prepare_only")


def measures() -> dict:
    """The function of each row."""
    from benchmarks import explaining, memory, prediction, scoring, training, utilisation, whole_runs

    functions = (
        *(scoring.one_forward_a_label, scoring.greedy_generation, scoring.head, scoring.more_labels),
        # The first takes 12 GB; both would slow down for what the earlier rows left in this process
        *(partial(memory.in_child, measure) for measure in (training.head_training, training.short_training)),
        partial(memory.in_child, training.answer_training),
        memory.peak_memory,
        *(prediction.mixed_lengths, memory.import_time, prediction.frozen_backbone),
        *(training.cached_layers, partial(memory.in_child, whole_runs.whole_run), utilisation.share_of_peak),
        *(prediction.onnx_runtime, whole_runs.beside_other_work, explaining.explanations),
    )
    return dict(zip(ROWS, functions, strict=True))


def about(arguments: argparse.Namespace) -> dict:
    """When, with what and how the numbers were measured."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "model": Path(arguments.model_name_or_path).name,
        **{name: getattr(arguments, name) for name in ("threads", "dtype", "pairs", "documents", "batch_size")},
    }


if __name__ == "__main__":
    from hf_causal_clf.cli.starting import run_script

    run_script(main)
