"""The help of the recipes: the texts that the command shows are those of the parsers."""

import re
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from conftest import run_as_main

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))
import make_help

ROOT = Path(__file__).parents[2]
PINNED = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())


@pytest.mark.parametrize("name", make_help.NAMES)
def test_the_text_is_what_the_recipe_prints(name, monkeypatch):
    """After a change that is meant: python tests/golden/make_help.py"""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # which compare.py sets
    expected, text = (make_help.RECIPES / "help" / f"{name}.txt").read_text(encoding="utf-8"), make_help.render(name)
    if any(version(package) != PINNED[package] for package in ("transformers", "trl")):  # their texts differ
        expected, text = (re.findall(r"^  --\w+", each, re.MULTILINE) for each in (expected, text))
    assert text == expected


def test_the_short_help_has_own_options_and_often_set_ones_in_groups():
    text = (make_help.RECIPES / "help" / "embed.txt").read_text(encoding="utf-8")
    assert re.findall(r"^(\w+):$", text, re.MULTILINE) == [
        *("Documents", "Model", "Head", "Prompt", "Run", "Training", "Hub"),
    ]
    for name in ("train_file", "pooling", "lora_r", "learning_rate", "optim", "seed", "output_dir", "push_to_hub"):
        assert f"\n  --{name} " in text
    for name in ("adam_beta1", "lora_task_type"):
        assert f"--{name} " not in text
    assert "(default: 0.0002)" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 120
    assert len(text.splitlines()) < 200


@pytest.mark.parametrize("word", ["--help-all", "--help_all"])
def test_all_options_are_shown_on_request(word, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["embed.py", word])
    with pytest.raises(SystemExit):
        run_as_main(ROOT / "recipes" / "embed.py")
    text = capsys.readouterr().out
    for name in ("train_file", "adam_beta1", "help-all"):
        assert f"--{name}" in text
