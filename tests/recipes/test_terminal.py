"""What scripts and libraries write to the terminal: progress, and what concerns the user."""

import logging
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from test_recipes import OPTIONS
from tiny import save_checkpoint
from transformers import AutoModelForCausalLM

from hf_causal_clf import CausalLMForLastTokenClassification, LabelSpace
from hf_causal_clf.cli.logs import expected_weights, hide_by_name

ROOT = Path(__file__).parents[2]
PROGRESS = re.compile(r"^(\s*|.*\d+%\|.*|.*examples/s\])$")
CONCERNS_THE_USER = re.compile(r"^15 validation documents are too few to calibrate on .*$")


@pytest.mark.parametrize("recipe", ["embed", "instruct"])
def test_a_run_writes_progress_and_what_concerns_the_user(recipe, checkpoint, files, tmp_path):
    given = {"model_name_or_path": checkpoint, **files, "output_dir": str(tmp_path / "run"), "num_train_epochs": "1"}
    given |= {"max_length": OPTIONS[recipe]["max_length"], "report_to": "none", "load_in_4bit": "true"}
    words = [part for name, value in given.items() for part in (f"--{name}", value)]
    command = [sys.executable, f"recipes/{recipe}.py", *words]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.replace("\x1b[A", "") for line in re.split(r"[\r\n]", done.stderr)]
    assert [line for line in lines if not PROGRESS.match(line) and not CONCERNS_THE_USER.match(line)] == []
    assert any(CONCERNS_THE_USER.match(line) for line in lines)


@pytest.mark.parametrize("recipe", ["compare", "distill", "embed", "export", "instruct", "predict", "quickstart"])
def test_messages_are_hidden_before_what_says_them_is_imported(recipe):
    """bitsandbytes says one when it is imported, and so in each process that a comparison starts."""
    body = (ROOT / "recipes" / f"{recipe}.py").read_text().partition("\nhide_by_name()\n")
    assert body[1]
    before = re.findall(r"^(?:from|import) ([\w.]+)", body[0], re.MULTILINE)
    assert {name for name in before if name.split(".")[0] not in sys.stdlib_module_names} == {"hf_causal_clf.cli.logs"}


def records(name, function):
    """Messages that reach the handlers of a logger while a function runs."""
    found = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        function()
    finally:
        logger.removeHandler(handler)
    return found


def test_other_records_and_warnings_still_show():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        hide_by_name()
        name = "bitsandbytes.backends.cpu.ops"
        say = logging.getLogger(name).warning
        said = records(
            name, lambda: (say("Failed to load CPU gemm_4bit_forward: %s", "no"), say("The kernel is wrong."))
        )
        warnings.warn("`is_gradient_checkpointing` is deprecated and …", FutureWarning, stacklevel=1)
        warnings.warn("`is_gradient_checkpointing` is deprecated and …", UserWarning, stacklevel=1)
        warnings.warn("Paged optimizers are slow.", UserWarning, stacklevel=1)
    assert said == ["The kernel is wrong."]
    assert [(each.category, str(each.message)[:8]) for each in caught] == [
        (UserWarning, "`is_grad"),
        (UserWarning, "Paged op"),
    ]


LOADING = "transformers.modeling_utils"


def test_a_new_head_is_not_reported_missing(checkpoint, caplog):
    space = LabelSpace(["a", "b"])
    load = CausalLMForLastTokenClassification.from_pretrained
    assert records(LOADING, lambda: load(checkpoint, label_space=space)) == []


def test_a_saved_head_that_is_lost_is_reported(checkpoint, tmp_path):
    model = CausalLMForLastTokenClassification.from_pretrained(checkpoint, label_space=LabelSpace(["a", "b"]))
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith("score")}
    model.save_pretrained(tmp_path, state_dict=weights)
    told = records(LOADING, lambda: CausalLMForLastTokenClassification.from_pretrained(tmp_path))
    assert len(told) == 1
    assert "score.weight" in told[0]


def test_a_layer_that_is_lost_is_reported_beside_a_new_head(tokenizer, tmp_path):
    save_checkpoint(tmp_path, "llama", tokenizer)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    weights = {name: value for name, value in model.state_dict().items() if "layers.1.mlp.up" not in name}
    model.save_pretrained(tmp_path, state_dict=weights)
    space = LabelSpace(["a", "b"])
    load = CausalLMForLastTokenClassification.from_pretrained
    told = records(LOADING, lambda: load(tmp_path, label_space=space))
    assert len(told) == 1
    assert "layers.1.mlp.up_proj.weight" in told[0]


def test_a_weight_of_another_shape_is_reported():
    table = "Key | Status | \n---+---+-\nscore.weight | MISSING | \nscore.bias | MISMATCH | Reinit\n"
    say = logging.getLogger(LOADING).warning
    with expected_weights(missing=("score.",)):
        assert records(LOADING, lambda: say("\x1b[1mX LOAD REPORT\x1b[0m from: y\n" + table)) != []
        table = table.replace("score.bias | MISMATCH", "\x1b[31mscore.bias\x1b[0m | \x1b[31mMISSING\x1b[0m")
        assert records(LOADING, lambda: say("\x1b[1mX LOAD REPORT\x1b[0m from: y\n" + table)) == []
        assert records(LOADING, lambda: say("Something else | MISSING")) != []
