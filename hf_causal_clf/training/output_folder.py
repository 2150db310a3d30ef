"""An output folder: what may be written there, and putting a finished run in the place of an earlier one.

`manifest.json` lists the files that a run wrote. Only these are ever replaced or removed, and only when the new run is
whole: it is put together in a folder of its own inside the output folder, and moved file by file. Where an interruption
cuts that off, the next start carries it through.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields
from enum import Enum
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from transformers.utils import logging

from ..backbone.identity import fingerprint
from ..backbone.settings import model_identity
from ..data.arguments import SPLITS, DataArguments
from ..data.rows import parts_of
from ..data.splits import ClassificationData
from ..runs.disk import lock_folder, write_json
from ..runs.files import (
    CLASSIFICATION_FILE,
    CONFIG_FOLDER,
    FIGURES_FOLDER,
    MANIFEST_FILE,
    RUN_FILES,
    UNFINISHED_FOLDER,
    read_json,
)
from .checkpoints import is_checkpoint_name, noted_settings, remove_traces

if TYPE_CHECKING:
    from transformers import TrainingArguments
    from trl import ModelConfig

logger = logging.get_logger(__name__)

# Where a run is kept, what it reports to and how it is started: the same run with others
_NO_SETTINGS = {"output_dir", "model_name_or_path", "model_revision", "overwrite_output_dir", "resume_from_checkpoint"}
_NO_SETTINGS |= {"report_to", "with_documents"}
_NO_SETTINGS |= {"run_name", "project", "push_to_hub", "disable_tqdm", "log_level", "log_level_replica", "logging_dir"}
_NO_SETTINGS |= {"restore_callback_states_from_checkpoint", "local_rank"}


def check_places(
    output_dir: str | PathLike[str], data: DataArguments | None = None, **models: str | PathLike[str] | None
) -> None:
    """Check that an output folder is not one of those that a start reads.

    Args:
        output_dir: The output folder.
        data: Where the documents are.
        models: Models by the name of their argument: folders, or names on the Hub.

    Raises:
        ValueError: If it is the folder of a model or of a data file, is inside the folder of a data set, or has one of
            these where checkpoints are.
    """
    output = Path(output_dir)
    names = ("train_file", "validation_file", "test_file", "dataset_name")
    sources = {name: getattr(data, name) for name in names} if data is not None else {}
    for option, source in {**models, **sources}.items():
        if source is None or not os.path.exists(source):
            continue
        path, wrong = Path(source), None
        inside = path.resolve().relative_to(output.resolve()).parts if _is_below(path, output) else ()
        if option in models and _same(output, path):
            wrong = "is the folder of the model"
        elif option in sources and path.is_dir() and (_is_below(output, path) or _same(output, path)):
            wrong = "is in the folder of the documents"
        elif path.is_file() and (_same(output, path.parent) or _same(output, path.resolve().parent)):
            wrong = "is the folder of the documents"
        elif inside and (is_checkpoint_name(inside[0]) or inside[0] == UNFINISHED_FOLDER):
            wrong = f"would lose its {inside[0]}"
        if wrong:
            raise ValueError(
                f"output_dir {str(output)!r} {wrong}, {option} {str(source)!r}. Choose another output_dir."
            )


def check_output_folder(
    output_dir: str | PathLike[str], model_name_or_path: str | None, data: DataArguments | None = None
) -> None:
    """Check that a run can be kept in a folder without any loss, before anything is loaded.

    Raises:
        ValueError: As `check_places`; or if the folder has files that no run wrote and that a run would replace.
    """
    check_places(output_dir, data, model_name_or_path=model_name_or_path)
    output = Path(output_dir)
    if not output.is_dir():
        return
    saved = _whole_but_not_in_place(output)
    own = {name for folder in (output, saved) if folder for name in read_manifest(folder)["files"]} | {MANIFEST_FILE}
    found = {path.relative_to(output).as_posix() for pattern in RUN_FILES for path in output.glob(pattern)}
    found |= {name for name in (FIGURES_FOLDER, CONFIG_FOLDER) if (output / name).is_file()}
    if found - own:
        raise ValueError(
            f"output_dir {str(output)!r} has files that a run would replace and that its {MANIFEST_FILE} does not list "
            f"as a run's: {', '.join(sorted(found - own))}. Move them away, or choose another output_dir."
        )


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a finished run.

    It has `files`, `settings` and `checkpoints`: whether checkpoints are yet to be removed. All are empty where no run
    was finished.

    Raises:
        ValueError: If it is damaged, or names something outside the folder.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return {"files": [], "settings": None, "checkpoints": []}
    manifest = read_json(path)
    names = manifest.get("files")
    if not isinstance(names, list) or not all(isinstance(name, str) and _is_inside(name) for name in names):
        raise ValueError(f"{path} does not list files of its folder. Move the folder away, or choose another one.")
    return {"files": names, "settings": manifest.get("settings"), "checkpoints": bool(manifest.get("checkpoints"))}


class Settings:
    """What makes one run another than the next: arguments, and documents and base model by content.

    Args:
        data: The documents.
        model_arguments: The base model, whose files are read when they are needed.
        arguments: All other argument dataclasses but the documents'.
    """

    def __init__(self, data: ClassificationData, model_arguments: ModelConfig, *arguments: Any) -> None:
        self._data = documents_content(data)
        self._test = documents_content(data, ("test",))
        self._model = model_arguments
        self._arguments: dict[str, Any] = {}
        for part in (model_arguments, *arguments):
            self._arguments |= settings_of(part)

    def to_dict(self) -> dict[str, Any]:
        """Return them as JSON, without any path."""
        model = fingerprint(model_identity(self._model))
        return {"arguments": self._arguments, "model": model, "data": self._data, "test": self._test}


def settings_of(arguments: Any) -> dict[str, Any]:
    """Return what makes a training another one of an argument dataclass: what is not as by default, and no place."""
    found = {}
    for item in fields(arguments):
        value = getattr(arguments, item.name)
        default = item.default_factory() if item.default_factory is not MISSING else item.default
        if item.name not in _NO_SETTINGS and not item.name.startswith(("hub_", "trackio_")) and value != default:
            found[item.name] = _plain(value)
    return found


def documents_content(data: ClassificationData, splits: Sequence[str] = SPLITS) -> str:
    """SHA-256 of labels and documents of some splits, and of the folds of the labelled ones, wherever they are from."""
    hashed = hashlib.sha256()
    for text in _json_parts(data, splits):
        hashed.update(text.encode())
    return hashed.hexdigest()


def _json_parts(data: ClassificationData, splits: Sequence[str]) -> Iterator[str]:
    """Yield the JSON that `fingerprint` would hash, of labels, documents and folds, part by part."""
    yield f"[{json.dumps(data.label_space.to_dict(), sort_keys=True)}, {{"
    for number, split in enumerate(sorted(splits)):
        yield f"{', ' if number else ''}{json.dumps(split)}: ["
        for column in ("id", "text", "label"):
            yield "[" if column == "id" else ", ["
            for place, part in enumerate(parts_of(data.splits[split], column)):
                yield (", " if place else "") + json.dumps(part[column], sort_keys=True, default=str)[1:-1]
            yield "]"
        yield "]"
    yield "}"
    if data.folds is not None and list(splits) != ["test"]:
        yield f", {json.dumps(data.folds.tolist())}"
    yield "]"


def finish_what_was_cut_off(training: TrainingArguments) -> bool:
    """Lock the output folder, and carry through what an interruption has cut off of an earlier run's end.

    All processes have to call it.

    Returns:
        Whether there was anything to do, so that the folder has a finished run now.

    Raises:
        OSError: If nothing can be written there.
        ValueError: If another process has the folder, or a file that no run wrote would be replaced.
    """
    from accelerate.utils import broadcast_object_list

    carried = [False]
    if training.process_index == 0:
        lock_folder(str(training.output_dir))
        carried = [put_in_place(Path(str(training.output_dir)))]
    return broadcast_object_list(carried)[0]


def is_finished(output: Path, settings: Settings, *, replaced: bool = False) -> bool:
    """Whether an output folder has the run that is asked for, finished.

    Args:
        output: The folder.
        settings: What is asked for.
        replaced: Whether a run with other settings may be replaced.

    Raises:
        ValueError: If there is a finished run with other settings, which may not be replaced.
    """
    earlier = read_manifest(output)
    if not earlier["files"]:
        return False
    differences = _differences(earlier["settings"], settings.to_dict())
    if differences and not replaced:
        raise ValueError(
            f"output_dir {str(output)!r} has a finished run with other settings ({differences}). Choose another "
            "output_dir, or replace that run with --overwrite_output_dir true."
        )
    return not differences


def check_resuming(output: Path, settings: Settings) -> None:
    """Check that the training to go on with had the same documents and base model.

    Other arguments, such as more epochs, are warned of only.

    Raises:
        ValueError: If they are others.
    """
    before, now = noted_settings(output), settings.to_dict()
    changed = _differences(before, now) if before else ""
    if before and any(before[part] != now[part] for part in ("data", "model")):
        raise ValueError(
            f"The checkpoints in {str(output)!r} are of a training with {changed}. Go on with what it was started "
            "with, or choose another output_dir."
        )
    if changed:
        logger.warning(f"The training in {output} goes on with other settings: {changed}.")


def unfinished_folder(output: Path) -> Path:
    """Return the folder that a run is put together in; its name is that of the output folder, for the card."""
    return output / UNFINISHED_FOLDER / output.resolve().name


def finish(folder: Path, settings: Settings | None = None) -> Path:
    """List the files of a run that is whole, put it in the place of an earlier one, and return where it is.

    A folder that is not one of `unfinished_folder` stays as it is.

    Raises:
        ValueError: If it would replace a file that no run wrote. The run is kept, and put in place by the next start.
    """
    if folder.parent.name != UNFINISHED_FOLDER:
        return folder
    output = folder.parent.parent
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    manifest = {"settings": settings and settings.to_dict(), "files": files, "checkpoints": True}
    write_json(folder / MANIFEST_FILE, manifest)
    put_in_place(output)
    return output


def put_in_place(output: Path) -> bool:
    """Carry through the end of a run that is whole, from wherever it was cut off; whether there was anything to do."""
    saved, earlier = _whole_but_not_in_place(output), read_manifest(output)
    if saved is None and not earlier["checkpoints"]:
        return False
    if saved is not None:
        _move(saved, output, set(earlier["files"]))
    remove_traces(output)
    write_json(output / MANIFEST_FILE, {**read_json(output / MANIFEST_FILE), "checkpoints": False})
    return True


def _whole_but_not_in_place(output: Path) -> Path | None:
    found = next((output / UNFINISHED_FOLDER).glob(f"*/{MANIFEST_FILE}"), None)
    return None if found is None else found.parent


def _move(saved: Path, output: Path, earlier: set[str]) -> None:
    """Replace the files of an earlier run by those of a new one, `classification.json` first gone and last there."""
    new = read_manifest(saved)["files"]
    left = [name for name in new if (saved / name).is_file()]  # what has not been moved by an earlier start
    there = [name for name in left if os.path.lexists(output / name)]
    taken = [name for name in there if name not in earlier or (output / name).is_dir()]
    if taken:
        raise ValueError(
            f"The new run is whole, but {str(output)!r} has {', '.join(taken)}, which no run wrote. Move that away and "
            f"start the same command again: it takes the run from {str(saved)!r}, without training."
        )
    gone = (earlier - set(new)) | ({CLASSIFICATION_FILE} & set(left))
    for path in (output / name for name in sorted(gone)):
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
        if path.parent != output:
            with suppress(OSError):  # it is not empty
                path.parent.rmdir()
    for name in sorted(left, key=lambda name: name == CLASSIFICATION_FILE):
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(saved / name, output / name)
    os.replace(saved / MANIFEST_FILE, output / MANIFEST_FILE)


def _differences(earlier: dict[str, Any] | None, now: dict[str, Any]) -> str:
    """Name what is different; nothing if all is the same."""
    if not earlier:
        return "not those of a recipe"
    before, after = earlier["arguments"], now["arguments"]
    said = [
        f"{name} was {before.get(name, 'the default')!r}, is {after.get(name, 'the default')!r}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
    said += ["another base model"] if earlier["model"] != now["model"] else []
    said += ["other documents"] if earlier["data"] != now["data"] else []
    return ", ".join(said)


def _plain(value: Any) -> Any:
    """A value as JSON gives it back."""
    return json.loads(json.dumps(value.value if isinstance(value, Enum) else value, default=str))


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def _is_below(path: Path, folder: Path) -> bool:
    return folder.resolve() in path.resolve().parents


def _is_inside(name: str) -> bool:
    return not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts and name != "."
