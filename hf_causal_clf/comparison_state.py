"""Which runs of a comparison are finished, and with which configuration, so that it can go on where it stopped."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from transformers.utils import logging

from .comparison_arguments import folder_name
from .data import ClassificationData
from .features import fingerprint
from .run_files import METRICS_FILE, read_json, whole_checkpoints, write_json

logger = logging.get_logger(__name__)

STATE_FILE = "state.json"


def run_folder(output: Path, name: str, seed: int | None) -> Path:
    """Return the folder of a run of the comparison in `output`: one under a plain name.

    A folder that an earlier version called by the run's name itself, as `state.json` knows, stays the run's.
    """
    known = read_json(output / STATE_FILE) if (output / STATE_FILE).is_file() else {}
    seeded = "" if seed is None else f"/seed-{seed}"
    return output / (name if f"{name}{seeded}" in known else folder_name(name)) / seeded.removeprefix("/")


class ComparisonState:
    """The content of `state.json` in the output folder of a comparison.

    Args:
        output: That folder.
        data: Documents; with other ones, every run is another run.
    """

    def __init__(self, output: Path, data: ClassificationData) -> None:
        self.output = output
        self._path = output / STATE_FILE
        self._runs = read_json(self._path) if self._path.is_file() else {}
        rows = {
            split: [list(part[column]) for column in ("id", "text", "label")] for split, part in data.splits.items()
        }
        self._data = fingerprint([data.label_space.to_dict(), rows])

    def folder(self, name: str, seed: int | None, config: dict[str, Any]) -> tuple[Path, bool]:
        """Return a run's folder and whether it is finished; what another configuration left there is removed."""
        folder, mark = run_folder(self.output, name, seed), fingerprint([config, self._data])
        key = str(folder.relative_to(self.output))
        if self._runs.get(key, {}).get("configuration") != mark:
            if folder.exists():
                logger.warning(f"{folder}: its configuration or data have changed; it is run again.")
                if self._runs.pop(key, None):  # forgotten first: an interruption here leaves nothing to go on with
                    self._write()
                shutil.rmtree(folder)
            self._runs[key] = {"configuration": mark, "finished": False}
            self._write()
        checkpoints = whole_checkpoints(folder)
        finished = self._runs[key]["finished"] or not checkpoints  # the end of a run may have come without `finish`
        return folder, finished and (folder / METRICS_FILE).is_file()

    def finish(self, folder: Path) -> None:
        """Note that a run is finished."""
        self._runs[str(folder.relative_to(self.output))]["finished"] = True
        self._write()

    def _write(self) -> None:
        self.output.mkdir(parents=True, exist_ok=True)
        write_json(self._path, self._runs)
