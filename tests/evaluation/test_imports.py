import subprocess
import sys
from pathlib import Path

import hf_causal_clf

FOLDER = Path(hf_causal_clf.__file__).parent
HEAVY = ("sklearn", "matplotlib", "evaluate", "datasets", "scipy.stats")  # transformers itself loads scipy.optimize


def test_what_evaluation_needs_is_imported_where_it_is_used():
    names = {path.stem for path in (FOLDER / "evaluation").glob("*.py")} - {"__init__"}
    last = "evaluate_metrics"  # a class of evaluate's own, for those who ask for it
    assert last in names
    lines = [f"import hf_causal_clf.evaluation.{name}" for name in sorted(names - {last})]
    loaded = f"print([name for name in {HEAVY} if name in sys.modules])"
    code = "\n".join(["import sys", *lines, loaded, f"import hf_causal_clf.evaluation.{last}", loaded])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    light, heavy = done.stdout.splitlines()
    assert light == "[]"
    assert "'evaluate'" in heavy
    assert "'datasets'" in heavy
