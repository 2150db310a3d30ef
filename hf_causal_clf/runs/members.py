"""Runs that are made of others: copying these into one folder, and what they have in common."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .files import MEMBERS_FOLDER, NEEDED
from .run import BaseModel, Run


def copy_run(source: Path, target: Path) -> None:
    """Copy what a run is loaded from: no links, through which a change of one would be a change of the other."""
    nested = [f"{MEMBERS_FOLDER}/*/{name}" for name in NEEDED]  # of a combination
    for path in (path for pattern in (*NEEDED, *nested) for path in source.glob(pattern)):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def common_facts(runs: Sequence[Run]) -> dict[str, Any]:
    """Data set on the Hub and the base models' licence, each if all members that know one agree."""
    found = {}
    for name in ("dataset", "base_licence"):
        known = [run.training[name] for run in runs if name in run.training]
        if known and all(fact == known[0] for fact in known):
            found[name] = known[0]
    return found


def common_base(runs: Sequence[Run]) -> BaseModel:
    """The base model of all members that have one, if that is the same; else none is named."""
    bases = {(run.base_model.name_or_path, run.base_model.revision) for run in runs if run.base_model.name_or_path}
    return BaseModel(*bases.pop()) if len(bases) == 1 else BaseModel(None)
