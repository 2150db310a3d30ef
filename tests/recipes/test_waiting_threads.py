"""Recipes ask threads that wait to leave their core to others: before torch, which reads that once, is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STARTS = {
    **{
        name: f"runpy.run_path('recipes/{name}.py')"
        for name in ("embed", "instruct", "distill", "predict", "compare", "quickstart")
    },
    "command": "import hf_causal_clf_command; hf_causal_clf_command.start('embed', ['--train_file', 'a.csv'])",
}
TELL_AT_TORCH = """
import os, runpy, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"), flush=True)
            os._exit(0)

sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize(("given", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
@pytest.mark.parametrize("start", list(STARTS))
def test_what_torch_is_told(start, given, found):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"PYTHONPATH": str(ROOT)} | ({} if given is None else {"OMP_WAIT_POLICY": given})
    done = subprocess.run(
        [sys.executable, "-c", TELL_AT_TORCH + STARTS[start]], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == [found]
