"""The share of mutants that the tests notice, from the results of mutmut; fails below 85 %."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

WANTED = 0.85
STATISTICS = Path("mutants") / "mutmut-cicd-stats.json"


def mutation_score(counts: dict[str, Any]) -> float:
    """Share of killed mutants: one that never ends, too, but none that no test runs."""
    return (counts["killed"] + counts["timeout"]) / (counts["total"] - counts["skipped"])


if __name__ == "__main__":
    subprocess.run([str(Path(sys.executable).with_name("mutmut")), "export-cicd-stats"], check=True)
    counts = json.loads(STATISTICS.read_text())
    score = mutation_score(counts)
    print(f"{score:.1%} of {counts['total']} mutants are noticed: {counts}")
    sys.exit(score < WANTED)
