"""Processes that were asked for and are not there, or do not know of each other, are told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_causal_clf.cli.processes import check_processes, process_state

ROOT = Path(__file__).parents[2]
LONE = {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in (*LONE, "WORLD_SIZE", "PMI_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", ["recipes/embed.py"])


def test_one_process_in_place_of_several_is_told(monkeypatch):
    for name, value in LONE.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="several on the CPU: hf-causal-clf embed --cpu --num_processes 2 …"):
        check_processes()


@pytest.mark.parametrize(
    "changed",
    [
        {"MASTER_PORT": None},  # one was asked for
        {"ACCELERATE_USE_CPU": None},  # not by accelerate launch
        {"WORLD_SIZE": "2"},
        {"OMPI_COMM_WORLD_SIZE": "2"},
        {"PMI_SIZE": "2"},
        {"MASTER_ADDR": "node-1"},  # set for a job by its scheduler
    ],
)
def test_all_others_pass(changed, monkeypatch):
    for name, value in {**LONE, **changed}.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    check_processes()


def test_accelerate_launch_starts_one_process_of_two_and_the_recipe_says_so():
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--cpu", "--num_processes", "2"]
    options = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*launcher, *options, "recipes/embed.py"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "started one" in done.stderr
    assert "hf-causal-clf embed --cpu --num_processes 2" in done.stderr


def test_processes_that_do_not_know_of_each_other_are_told(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("accelerate.PartialState", lambda **_: type("State", (), {"num_processes": 1}))
    with pytest.raises(ValueError, match=r"2 processes .* each would work alone.* embed --cpu --num_processes 2"):
        process_state()
