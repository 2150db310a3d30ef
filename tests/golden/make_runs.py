"""Trains the runs of tests/golden/runs, which stand for runs of schema version 1. Nobody should have to do it again.

They were trained by commit bd88caa, the last that a user may have runs of, in a working tree of it:

    git worktree add /tmp/old bd88caa
    PYTHONPATH=/tmp/old:/tmp/old/tests python tests/golden/make_runs.py /tmp/old/recipes tests/golden/runs

A tiny model with random weights, three runs on made-up documents, and the probabilities that this commit gave a few
texts. Figures, card and manifest are left out, and the base model's path is relative to the folder.
"""

import json
import os
import runpy
import shutil
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from conftest import make_rows, write_jsonl
from tiny import make_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

SIZES = {"train": (48, 0), "validation": (60, 100), "test": (30, 200)}
KEPT = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "classification.json",
    "metrics.json",
    "predictions.parquet",
)
KEPT += ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json")
COMMON = {
    "model_name_or_path": "base",
    "dtype": "float32",
    "lora_r": 2,
    "lora_alpha": 4,
    "lora_dropout": 0.0,
    "num_train_epochs": 12,
    "learning_rate": 1e-2,
    "optim": "adamw_torch",
    "report_to": "none",
    "dataloader_pin_memory": "false",
}
CHAT = {"use_chat_template": "true", "max_length": 160, "instruction": "Which of {labels}?"}
RUNS = {
    "embedding": ("embed", False, {"max_length": 24, "truncation": "both"}),
    "embedding_verbalizer": ("embed", False, {"head_init": "verbalizer", "pooling": "last", **CHAT}),
    "instruction": ("instruct", True, {"multi_label": "true", "max_length": 160, "activation_checkpointing": "false"}),
}
TEXTS = ["the cat sat on the football match", "shares fell as new computers won", "phones " * 60, "a", "won, and the"]


def save_base(folder: Path) -> None:
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    size = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"pad_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
    spread = {"initializer_range": 0.3, "max_position_embeddings": 256, "tie_word_embeddings": True}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **size, **ids, **spread)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train(recipes: Path, name: str) -> None:
    recipe, multi_label, own = RUNS[name]
    files = {}
    for split, (count, offset) in SIZES.items():
        files[f"{split}_file"] = write_jsonl(Path(f"{split}.jsonl"), make_rows(count, offset, multi_label))
    options = {**COMMON, **files, **own, "output_dir": f"{name}_whole"}
    sys.argv = [recipe, *(part for key, value in options.items() for part in (f"--{key}", str(value)))]
    runpy.run_path(str(recipes / f"{recipe}.py"), run_name="__main__")
    Path(name).mkdir()
    for file in filter(Path.is_file, (Path(f"{name}_whole") / kept for kept in KEPT)):
        text = file.read_bytes().replace(json.dumps(str(Path("base").resolve())).encode(), b'"base"')
        (Path(name) / file.name).write_bytes(text)
    shutil.rmtree(f"{name}_whole")
    for path in files.values():
        Path(path).unlink()


def main(recipes: str, target: str) -> None:
    from hf_causal_clf import TextClassifier

    folder = Path(recipes).resolve()
    Path(target).mkdir(parents=True, exist_ok=True)
    os.chdir(target)
    save_base(Path("base"))
    expected = {"texts": TEXTS, "calibrated": {}, "uncalibrated": {}}
    for name in RUNS:
        train(folder, name)
        for kind in ("calibrated", "uncalibrated"):
            classifier = TextClassifier.from_pretrained(name, calibrated=kind == "calibrated")
            expected[kind][name] = classifier.predict_proba(TEXTS).tolist()
    Path("expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    for lock in Path().glob(".*.lock"):
        lock.unlink()


if __name__ == "__main__":
    main(*sys.argv[1:])
