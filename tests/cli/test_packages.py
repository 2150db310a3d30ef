"""Packages that are missing are named with the command that installs them, before a model is loaded."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import tiny
from conftest import run_as_main
from transformers import BitsAndBytesConfig, trainer_optimizer

from hf_causal_clf.backbone.loading import load_tokenizer
from hf_causal_clf.backbone.weights import BaseWeights
from hf_causal_clf.cli.packages import EXTRAS, missing_packages
from hf_causal_clf.embedding.arguments import EmbeddingTrainingArguments
from hf_causal_clf.instruction.arguments import InstructionTrainingArguments
from hf_causal_clf.training.arguments import _BITSANDBYTES, _TRACKERS

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def without(monkeypatch):
    """Removes packages for a while, as if they were not installed."""

    def remove(*names):
        for name in names:
            monkeypatch.setitem(sys.modules, name, None)

    return remove


def test_every_package_of_an_extra_is_known_with_it():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    listed = {
        re.match(r"[\w.-]+", line)[0]: name
        for name, lines in extras.items()
        if name not in ("test", "quality", "browser")
        for line in lines
    }
    assert listed == EXTRAS


def test_the_sentence(without):
    assert list(missing_packages(["onnx", "trackio"], "This")) == []
    without("onnx", "onnxscript", "trackio", "peft")
    [one] = missing_packages(["onnx"], "This")
    assert one == "This needs the package onnx, not installed here: pip install 'hf_causal_clf[onnx]'"
    [many] = missing_packages(["peft", "onnx", "onnxscript", "trackio"], "This")
    assert many.startswith("This needs the packages peft and onnx and onnxscript and trackio, ")
    assert many.endswith("pip install 'hf_causal_clf[onnx]' 'hf_causal_clf[tracking]' peft")


@pytest.mark.parametrize("kind", [EmbeddingTrainingArguments, InstructionTrainingArguments])
def test_optimizer_and_trackers(kind, without, tmp_path):
    options = {"output_dir": str(tmp_path), "report_to": "none"}
    kind(**options)
    without("bitsandbytes", "trackio", "tensorboard", "tensorboardX")
    kind(**options, optim="adamw_torch")
    with pytest.raises(ValueError, match=r"^optim \w+ needs the package bitsandbytes, .* pip install bitsandbytes$"):
        kind(**options)
    with pytest.raises(ValueError, match=r"report_to trackio .*: pip install 'hf_causal_clf\[tracking\]'$") as told:
        kind(**{**options, "report_to": ["tensorboard", "trackio"]}, optim="adamw_torch")
    assert re.search(r"^report_to tensorboard .*: pip install 'hf_causal_clf\[tracking\]'$", str(told.value), re.M)
    without("wandb")
    with pytest.raises(ValueError, match=r"^report_to wandb needs the package wandb, .*: pip install wandb$"):
        kind(**{**options, "report_to": "wandb"}, optim="adamw_torch")


def test_optimizers_and_trackers_are_those_of_transformers():
    optimizers = {name.value for name in trainer_optimizer.OptimizerNames}
    named = {name for name in optimizers if name.startswith(_BITSANDBYTES)}
    assert named == {name.value for name in trainer_optimizer._BITSANDBYTES_OPTIMIZERS}
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    assert set(_TRACKERS) <= set(INTEGRATION_TO_CALLBACK)


def test_tensorboard_may_be_tensorboardx(without, monkeypatch, tmp_path):
    without("tensorboard")
    (tmp_path / "tensorboardX.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    EmbeddingTrainingArguments(output_dir=str(tmp_path), report_to="tensorboard")


def test_a_tokenizer_in_an_older_format(without, tokenizer, tmp_path):
    """A file of sentencepiece, without tokenizer.json: transformers names tiktoken only, which would not help."""
    folder = Path(tiny.save_checkpoint(tmp_path, "llama", tokenizer))
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    config = folder / "tokenizer_config.json"
    config.write_text(config.read_text().replace("TokenizersBackend", "LlamaTokenizer"))
    without("sentencepiece", "tiktoken")
    with pytest.raises(
        ValueError, match=r"without a tokenizer\.json, needs the packages sentencepiece and tiktoken"
    ) as told:
        load_tokenizer(folder)
    assert str(told.value).endswith("pip install 'hf_causal_clf[tokenizers]'")


def test_the_quickstart(without, monkeypatch, tmp_path):
    """Nothing is downloaded, nor loaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["quickstart.py"])
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("something was downloaded"))
    without("gguf")
    with pytest.raises(ValueError, match=r"needs the package gguf, .*: pip install 'hf_causal_clf\[quickstart\]'$"):
        run_as_main(ROOT / "recipes" / "quickstart.py")
    assert list(tmp_path.iterdir()) == []


def test_a_quantised_run_without_bitsandbytes(without):
    weights = BaseWeights(quantization_config=BitsAndBytesConfig(load_in_4bit=True))
    without("bitsandbytes")
    with pytest.raises(
        ValueError, match=r"^A quantised model needs the package bitsandbytes, .* pip install bitsandbytes$"
    ):
        weights.kwargs()


def test_the_prediction_recipe_loads_nothing_of_training_or_figures():
    code = (
        "import runpy, sys\n"
        "sys.argv = ['predict.py', '--help']\n"
        "try:\n    runpy.run_path('recipes/predict.py', run_name='__main__')\n"
        "except SystemExit:\n    pass\n"
        "print([name for name in ('trl', 'peft', 'matplotlib', 'sklearn', 'evaluate') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
