"""Writes the help of the recipes anew: python tests/golden/make_help.py

The command shows these texts, because the parsers that they come from import torch.
"""

import io
import os
import runpy
import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path
from unittest.mock import patch

from hf_causal_clf_command import RECIPES as NAMES

RECIPES = Path(__file__).parents[2] / "recipes"


def render(name: str) -> str:
    """Return what a recipe prints at `--help`."""
    printed = io.StringIO()
    with patch.dict(os.environ, COLUMNS="100"), patch.object(sys, "argv", [f"{name}.py", "--help"]):
        recipe = runpy.run_path(str(RECIPES / f"{name}.py"), run_name=f"recipe_{name}")
        with redirect_stdout(printed), suppress(SystemExit):
            recipe["main"]()
    return printed.getvalue()


if __name__ == "__main__":
    (RECIPES / "help").mkdir(exist_ok=True)
    for name in NAMES:
        (RECIPES / "help" / f"{name}.txt").write_text(render(name), encoding="utf-8")
