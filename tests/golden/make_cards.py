"""Renders the example cards anew: python tests/golden/make_cards.py

The runs are made up here from fixed numbers, and their names say so: no model was trained for them.
"""

import random
import sys
import tempfile
from pathlib import Path

import numpy as np
from datasets import Dataset

from hf_causal_clf.evaluation import plots
from hf_causal_clf.evaluation.calibration import Calibration, fit_calibration, to_logits
from hf_causal_clf.evaluation.metrics import classification_metrics, document_nll
from hf_causal_clf.evaluation.plot_style import save_figure
from hf_causal_clf.evaluation.significance import mean_interval
from hf_causal_clf.runs.disk import write_json
from hf_causal_clf.runs.files import FIGURES, read_json
from hf_causal_clf.runs.measuring import generation_metrics
from hf_causal_clf.sharing.card import render_card
from hf_causal_clf.task.labels import LabelSpace
from hf_causal_clf.task.verbalizer import ParsedAnswer

EXAMPLES = Path(__file__).parent.parent.parent / "model_cards"
REPOSITORIES = {
    "embedding": "example-org/made-up-news",
    "instruction": "example-org/made-up-topics",
    "frozen": "example-org/made-up-frozen-head",
}
VERSIONS = {"python": "3.12.0", "torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2", "trl": "1.16.0"}
ARGUMENTS = {
    "learning_rate": 1e-4,
    "weight_decay": 0.0,
    "num_train_epochs": 20,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 4,
    "seed": 42,
    "bf16": False,
    "fp16": False,
    "optim": "adamw_8bit",
    "lr_scheduler_type": "linear",
    "warmup_steps": 0,
    "metric_for_best_model": "f1_macro",
    "early_stopping_patience": 3,
    "label_smoothing": 0.0,
    "balanced_classes": False,
}
LORA = {
    "r": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.0,
    "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
NF4 = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "bfloat16",
}


def draw_documents(space: LabelSpace, documents: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Gold labels and uncalibrated probabilities of made-up test documents."""
    draw = random.Random(seed)
    labels = range(len(space))
    gold, probabilities = [], []
    for _ in range(documents):
        if space.multi_label:
            row = [int(draw.random() < 1 / (label + 2)) for label in labels]
            gold.append(row)
            probabilities.append([round(min(max(draw.gauss(0.25 + 0.4 * flag, 0.2), 0.01), 0.99), 3) for flag in row])
            continue
        label = min(draw.randrange(len(space) + 1), len(space) - 1)
        gold.append(label)
        seen = label if draw.random() < 0.9 else draw.randrange(len(space))
        weights = [draw.random() ** 2 + (2.0 if other == seen else 0.0) for other in labels]
        probabilities.append([round(weight / sum(weights), 4) for weight in weights])
    return np.array(gold), np.array(probabilities, dtype=np.float32)


def calibrated(raw: np.ndarray, calibration: Calibration, multi_label: bool) -> np.ndarray:
    return calibration.apply(to_logits(raw, multi_label=multi_label), multi_label=multi_label)


def measured(gold: np.ndarray, raw: np.ndarray, calibration: Calibration) -> dict[str, float]:
    probabilities = calibrated(raw, calibration, gold.ndim == 2)
    decided = calibration.decide(probabilities, multi_label=gold.ndim == 2)
    change = mean_interval(document_nll(gold, probabilities) - document_nll(gold, raw))
    before = {f"uncalibrated_{name}": value for name, value in classification_metrics(gold, raw).items()}
    moved = {"nll_change": change.value, "nll_change_ci_low": change.low, "nll_change_ci_high": change.high}
    return {**classification_metrics(gold, probabilities, decided), **before, **moved}


def write_run(folder: Path, description: dict, documents: int = 240, figures: tuple = FIGURES, **training) -> Path:
    """Write the files of a made-up run."""
    space = LabelSpace.from_dict(description["label_space"])
    calibration = Calibration.from_dict(description)
    gold, raw = draw_documents(space, documents, seed=1)
    probabilities = calibrated(raw, calibration, space.multi_label)
    decided = calibration.decide(probabilities, multi_label=space.multi_label)
    validation = draw_documents(space, 100, seed=2)
    metrics = {"test": measured(gold, raw, calibration), "validation": measured(*validation, calibration)}
    metrics["calibration"] = {"documents": 100, **calibration.to_dict()}
    if "label_counts" in description.get("training", {}):
        facts = description["training"]
        shares = np.array(facts["label_counts"]["train"]) / facts["documents"]["train"]
        tiled = [np.tile(shares.astype(np.float32), (count, 1)) for count in (100, documents)]
        metrics["majority"] = measured(
            gold, tiled[1], fit_calibration(validation[0], to_logits(tiled[0], multi_label=space.multi_label))
        )
    if description["approach"] == "instruction":
        answers = [ParsedAnswer((), "made up")] * 3 + [
            ParsedAnswer(tuple(name) if isinstance(name := space.decode(row), list) else (name,)) for row in decided[3:]
        ]
        metrics["test"] |= generation_metrics(answers, gold, space, decided)
    metrics["training"] = training
    folder.mkdir(parents=True, exist_ok=True)
    rows = {
        "id": list(range(documents)),
        "gold": [space.decode(row) for row in gold],
        "predicted": [space.decode(row) for row in decided],
        "probabilities": probabilities.tolist(),
    }
    Dataset.from_dict(rows).to_parquet(folder / "predictions.parquet")
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "classification.json", description)
    if description["approach"] in ("embedding", "instruction"):
        write_json(folder / "adapter_config.json", LORA)
    (folder / "figures").mkdir(exist_ok=True)
    for name in figures:
        (folder / "figures" / f"{name}.png").touch()
    return folder


def embedding_description() -> dict:
    names = ["business", "entertainment", "politics", "sport", "tech"]
    return {
        "schema_version": 3,
        "hf_causal_clf_version": "0.1.0",
        "approach": "embedding",
        "pooling": "last",
        "head_init": "random",
        "prompt_template": None,
        "verbalizer": None,
        "document_suffix": None,
        "members": None,
        "label_space": {"names": names, "multi_label": False},
        "problem_type": "single_label_classification",
        "truncation": {"max_length": 512, "side": "tail"},
        "temperature": 0.62,
        "thresholds": None,
        "base_model": {
            "name_or_path": "example-org/made-up-135m",
            "revision": "0123456789abcdef0123456789abcdef01234567",
            "dtype": "bfloat16",
            "quantization": NF4,
        },
        "training": {
            "documents": {"train": 320, "validation": 100, "test": 240},
            "label_counts": {
                "train": [70, 60, 62, 68, 60],
                "validation": [22, 19, 19, 21, 19],
            },
            "overlap": {"train/validation": 0, "train/test": 0, "validation/test": 0},
            "arguments": ARGUMENTS,
            "hardware": {"device": "cuda", "processes": 1, "name": "NVIDIA A100-SXM4-40GB"},
            "versions": VERSIONS,
            "dataset": {"id": "example-org/made-up-news"},
            "base_licence": {"license": "apache-2.0"},
        },
    }


def instruction_description() -> dict:
    names = ["climate", "economy", "health", "space"]
    answers = {"climate": "climate", "economy": "the economy", "health": "health", "space": "space"}
    text = (
        "Classify the document. Answer with all labels that apply, in this order: climate, the economy, health, "
        "space. If no label applies, answer: none."
    )
    chat = [f"<|im_start|>system\n{text}<|im_end|>\n<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"]
    description = embedding_description()
    training = {
        **description["training"],
        "documents": {"train": 600, "validation": 100, "test": 240},
        "label_counts": {
            "train": [300, 200, 150, 120],
            "validation": [50, 33, 25, 18],
        },
        "overlap": {"train/validation": 1, "train/test": 2, "validation/test": 0},
        "arguments": {
            **ARGUMENTS,
            "num_train_epochs": 5,
            "optim": "paged_adamw_32bit",
            "lr_scheduler_type": "cosine",
            "warmup_steps": 10,
        },
        "prompt": chat,
        "answer_tokens": 9,
        "base_licence": {"license": "other", "license_name": "made-up-licence", "license_link": "LICENSE"},
        "dataset": {"id": "example-org/made-up-topics", "config": "short"},
    }
    return description | {
        "approach": "instruction",
        "pooling": None,
        "head_init": None,
        "prompt_template": {"instruction": None, "use_chat_template": True},
        "verbalizer": {"answers": answers, "delimiter": ", ", "empty_answer": "none"},
        "document_suffix": None,
        "members": None,
        "label_space": {"names": names, "multi_label": True},
        "problem_type": "multi_label_classification",
        "truncation": {"max_length": 1024, "side": "both"},
        "temperature": [0.52, 0.6, 0.55, 0.58],
        "thresholds": [0.5, 0.48, 0.45, 0.47],
        "training": training,
    }


def frozen_description() -> dict:
    description = embedding_description()
    facts = description["training"]
    known = ("documents", "label_counts", "overlap", "versions", "base_licence")
    base = {**description["base_model"], "quantization": None}
    return description | {
        "approach": "frozen",
        "pooling": "mean",
        "head_init": None,
        "temperature": 1.21,
        "base_model": base,
        "training": {name: facts[name] for name in known},
    }


COST = {
    "train_loss": 0.3,
    "epochs": 4.0,
    "steps": 40,
    "trainable_parameters": 2_445_120,
    "total_parameters": 136_960_128,
    "train_samples_per_second": 36.3,
    "predict_samples_per_second": 121.0,
    "peak_memory_bytes": 2_500_000_000,
}


def render_example(approach: str, folder: Path) -> str:
    """Render the example card of an approach, with its run in a folder."""
    if approach == "embedding":
        write_run(folder, embedding_description(), **COST)
    elif approach == "frozen":
        rates = {"train_samples_per_second": 61.3, "predict_samples_per_second": 134.0}
        figures = tuple(name for name in FIGURES if name != "training_curves")
        write_run(folder, frozen_description(), figures=figures, trainable_parameters=2885, **rates)
    else:
        figures = tuple(name for name in FIGURES if name != "confusion_matrix")
        write_run(folder, instruction_description(), figures=figures, **COST)
    return str(render_card(folder, repo_id=REPOSITORIES[approach]))


def draw_figures(folder: Path, description: dict, documents: int = 240) -> None:
    """Draw the figures of a made-up run, as PNG."""
    space, calibration = LabelSpace.from_dict(description["label_space"]), Calibration.from_dict(description)
    gold, raw = draw_documents(space, documents, seed=1)
    probabilities = calibrated(raw, calibration, space.multi_label)
    decided = calibration.decide(probabilities, multi_label=space.multi_label)
    history = [{"epoch": e, "step": 10 * e, "loss": 1.5 / e, "eval_loss": 1.4 / e + 0.1} for e in range(1, 5)]
    history = [{**row, "eval_f1_macro": 0.95 - 0.4 / row["epoch"] ** 2} for row in history]
    drawn = {
        "reliability_diagram": plots.reliability_diagram(gold, probabilities, raw),
        "label_f1": plots.label_f1_bars(gold, decided, space.names),
        "thresholds": plots.threshold_curves(gold, probabilities, calibration.thresholds),
        "training_curves": plots.training_curves(history),
    }
    if description["approach"] == "frozen":
        del drawn["training_curves"]
    if not space.multi_label:
        drawn["confusion_matrix"] = plots.confusion_matrix(gold, decided, space.names)
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in drawn.items():
        save_figure(figure, folder / name)
        (folder / f"{name}.svg").unlink()


def main(target: Path = EXAMPLES) -> None:
    for approach in REPOSITORIES:
        example = target / f"example_{approach}"
        with tempfile.TemporaryDirectory() as folder:
            text = render_example(approach, Path(folder) / "run")
            description = read_json(Path(folder) / "run" / "classification.json")
        draw_figures(example / "figures", description)
        (example / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
