"""Files of strangers: nothing that is loaded can run code of its own."""

import json
import pickle
import re
import shutil
import sys
from pathlib import Path

import pytest
from test_classifier import TEXTS, save_folder
from test_recipes import arguments
from test_recipes import run as run_recipe
from test_train import run_embedding

from hf_causal_clf import CausalLMForLastTokenClassification, TextClassifier

ROOT = Path(__file__).parent.parent
RUNS_CODE = re.compile(
    r"\bpickle\.|\btorch\.load\(|\bjoblib\.(load|dump)|allow_pickle=True|trust_remote_code=True|yaml\.(load|unsafe_load)\("
    r"|(?<![.\w])(eval|exec)\(|\bos\.system\(|shell=True"
)


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def bomb(tmp_path):
    """A pickle that leaves a mark when it is read as one; the mark must not be there at the end."""
    mark = tmp_path / "exploded"
    content = pickle.dumps(Bomb(mark))
    pickle.loads(content)
    assert mark.exists()  # it works
    mark.unlink()
    yield content
    assert not mark.exists()


def test_no_code_path_unpickles_or_runs_text():
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for folder in ("hf_causal_clf", "recipes")
        for path in (ROOT / folder).rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if RUNS_CODE.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("approach", ["embedding", "instruction"])
@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "classification.json", "adapter_config.json", "tokenizer.json"]
)
def test_a_pickle_in_place_of_a_file_is_refused(name, approach, checkpoint, tmp_path, bomb):
    save_folder(tmp_path / "run", checkpoint, approach)
    (tmp_path / "run" / name).write_bytes(bomb)
    with pytest.raises(Exception, match=r"(?i)damaged|valid|json|expected|parse|utf"):
        TextClassifier.from_pretrained(tmp_path / "run")


@pytest.mark.parametrize("approach", ["embedding", "instruction"])
def test_weights_as_a_pickle_are_refused(approach, checkpoint, tmp_path, bomb):
    save_folder(tmp_path / "run", checkpoint, approach)
    (tmp_path / "run" / "adapter_model.safetensors").unlink()
    for name in ("adapter_model.bin", "pytorch_model.bin", "training_args.bin"):
        (tmp_path / "run" / name).write_bytes(bomb)
    with pytest.raises(ValueError, match=r"has an adapter_config\.json but no adapter_model\.safetensors"):
        TextClassifier.from_pretrained(tmp_path / "run")


def test_a_base_model_as_a_pickle_is_refused(checkpoint, tmp_path, bomb):
    shutil.copytree(checkpoint, tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").unlink()
    (tmp_path / "base" / "pytorch_model.bin").write_bytes(bomb)
    save_folder(tmp_path / "run", checkpoint, "embedding")
    config = tmp_path / "run" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": str(tmp_path / "base")}))
    with pytest.raises(Exception, match=r"(?i)weights_only|unpickl|unsupported|corrupt|load"):
        CausalLMForLastTokenClassification.from_pretrained(tmp_path / "run")


def test_pickles_beside_a_run_are_not_read(checkpoint, tmp_path, bomb):
    save_folder(tmp_path / "run", checkpoint, "embedding")
    for name in ("training_args.bin", "optimizer.pt", "pytorch_model.bin", "adapter_model.bin", "rng_state.pth"):
        (tmp_path / "run" / name).write_bytes(bomb)
    assert TextClassifier.from_pretrained(tmp_path / "run").predict_proba(TEXTS).shape == (4, 3)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"])
def test_a_checkpoint_cannot_bring_code_along(name, checkpoint, files, tmp_path, monkeypatch, bomb):
    from hf_causal_clf.training import train as training

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(
            training.TrainingClock, "samples_per_second", interrupted
        )  # after training, before the run is saved
        with pytest.raises(KeyboardInterrupt):
            run_embedding(
                checkpoint,
                tmp_path / "run",
                files,
                num_train_epochs=1,
                max_steps=6,
                save_steps=3,
                save_strategy="steps",
                eval_strategy="steps",
                eval_steps=3,
            )
    for last in (tmp_path / "run").glob("checkpoint-*"):
        (last / name).write_bytes(bomb)
    options = {
        "max_steps": "8",
        "save_steps": "3",
        "save_strategy": "steps",
        "eval_strategy": "steps",
        "eval_steps": "3",
    }
    options = arguments("embed", checkpoint, files, tmp_path / "run", resume_from_checkpoint="true", **options)
    if name == "training_args.bin":  # no one reads it
        run_recipe("embed", options, monkeypatch)
    else:
        with pytest.raises(Exception, match=r"(?i)weights_only|unpickl|unsupported|global"):
            run_recipe("embed", options, monkeypatch)


@pytest.mark.parametrize("approach", ["embedding", "instruction"])
def test_a_repository_cannot_make_us_import_a_module(approach, checkpoint, tmp_path, monkeypatch):
    """Neither by `auto_mapping` of PEFT, nor by `auto_map` of transformers, nor with a file of Python beside."""
    save_folder(tmp_path / "run", checkpoint, approach)
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')")
    shutil.copy(tmp_path / "evil_module.py", tmp_path / "run" / "evil_module.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = tmp_path / "run" / "adapter_config.json"
    evil = {"base_model_class": "Evil", "parent_library": "evil_module"}
    config.write_text(json.dumps({**json.loads(config.read_text()), "auto_mapping": evil}))
    tokenizer = tmp_path / "run" / "tokenizer_config.json"
    auto_map = {"AutoTokenizer": ["evil_module.Evil", "evil_module.Evil"]}
    tokenizer.write_text(json.dumps({**json.loads(tokenizer.read_text()), "auto_map": auto_map}))
    assert TextClassifier.from_pretrained(tmp_path / "run").predict_proba(TEXTS).shape == (4, 3)
    assert "evil_module" not in sys.modules
