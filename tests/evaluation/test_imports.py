import subprocess
import sys
from pathlib import Path

import pytest

import hf_causal_clf

FOLDER = Path(hf_causal_clf.__file__).parent
HEAVY = ("sklearn", "matplotlib", "evaluate", "datasets", "scipy.stats")  # transformers itself loads scipy.optimize


@pytest.mark.parametrize(
    ("module", "loaded"),
    [("*", []), ("evaluate_metrics", ["evaluate", "datasets"])],  # a class of evaluate's own, for those who ask for it
)
def test_what_evaluation_needs_is_imported_where_it_is_used(module, loaded):
    names = sorted(path.stem for path in (FOLDER / "evaluation").glob(f"{module}.py"))
    assert names
    names = [name for name in names if module != "*" or name != "evaluate_metrics"]
    lines = [f"import hf_causal_clf.evaluation.{name}" for name in names if name != "__init__"]
    code = "\n".join(["import sys", *lines, f"print([name for name in {HEAVY} if name in sys.modules])"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = done.stdout.strip().splitlines()[-1]
    assert found == "[]" if not loaded else all(repr(name) in found for name in loaded)
