"""Which runs of a comparison are finished, and with which configuration, so that it can go on where it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers.utils import logging

from .comparison_arguments import folder_name
from .data import ClassificationData
from .features import fingerprint
from .output_folder import documents_content
from .run_files import METRICS_FILE, UNFINISHED_FOLDER, read_json, remove_traces, write_json

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
        self._data = documents_content(data)
        self._write()

    def folder(self, name: str, seed: int | None, config: dict[str, Any]) -> tuple[Path, bool]:
        """Return a run's folder and whether it is finished.

        Results that another configuration left there stay until the new ones take their place; its checkpoints go.

        Raises:
            ValueError: If the folder is there, but not from this comparison.
        """
        folder, mark = run_folder(self.output, name, seed), fingerprint([config, self._data])
        key = str(folder.relative_to(self.output))
        run = self._runs.get(key)
        if run is None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(
                f"{str(folder)!r} is there, but {self._path} does not know it: it may be somebody's own. Move it away, "
                "or choose another output_dir."
            )
        if run is None or run["configuration"] != mark:
            if run is not None:
                logger.warning(f"{folder}: its configuration or data have changed; it is run again.")
                remove_traces(folder)  # first: an interruption here leaves nothing of the old one to go on with
            run = self._runs[key] = {"configuration": mark, "finished": False, "earlier": _content(folder)}
            self._write()
        # The end of a run may have come without `finish`
        new = _content(folder) != run.get("earlier") and not (folder / UNFINISHED_FOLDER).exists()
        return folder, (run["finished"] or new) and (folder / METRICS_FILE).is_file()

    def finish(self, folder: Path) -> None:
        """Note that a run is finished."""
        self._runs[str(folder.relative_to(self.output))]["finished"] = True
        self._write()

    def _write(self) -> None:
        self.output.mkdir(parents=True, exist_ok=True)
        write_json(self._path, self._runs)


def _content(folder: Path) -> str | None:
    """SHA-256 of a run's metrics, by which one run is told from another in the same folder."""
    path = folder / METRICS_FILE
    return fingerprint(path.read_text(encoding="utf-8")) if path.is_file() else None
