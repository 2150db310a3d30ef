"""Publishing a finished run: one repository with what others need, in one commit, and nothing else.

Never published: optimizer states and other pickles, predictions, local paths, tokens, document text.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import replace
from os import PathLike
from pathlib import Path

from ..runs.disk import write_json, write_text
from ..runs.files import (
    ADAPTER_CONFIG_FILE,
    CARD_FILE,
    METRICS_FILE,
    PREDICTIONS_FILE,
    PUBLISHED,
    is_hub_id,
    read_json,
    with_members,
)
from ..runs.run import Run
from .card import render_card

COMMIT_MESSAGE = "Upload a text classifier"


def push_run(
    folder: str | PathLike[str],
    repo_id: str,
    *,
    base_model: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = COMMIT_MESSAGE,
) -> str:
    """Push a finished run to the Hub, in one commit: who loads it sees all of it or nothing.

    Args:
        folder: `output_dir` of the run.
        repo_id: Repository, created where it is missing; without a user or organisation it is the token's.
        base_model: Hub id of the base model; needed where the run was trained from a folder, whose path is not
            published.
        private: Whether a new repository is private; by default the account's or organisation's setting.
        token: Access token; by default the one that is logged in.
        revision: Branch; by default the main one.
        commit_message: Message of the commit.

    Returns:
        The id of the repository.

    Raises:
        FileNotFoundError: If the run is not finished.
        ValueError: If the base model is a folder and no `base_model` is given.
        huggingface_hub.errors.RepositoryNotFoundError: If there is no such base model.
    """
    from huggingface_hub import HfApi

    folder = Path(folder)
    check_publishable(folder, base_model)
    api = HfApi(token=token)
    base = None if base_model is None else (base_model, api.model_info(base_model).sha)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="publish-") as aside:
        stage_run(folder, Path(aside), repo_id, base)
        api.upload_folder(
            repo_id=repo_id,
            folder_path=aside,
            revision=revision,
            commit_message=commit_message,
            delete_patterns=list(PUBLISHED),  # files of an earlier push that this run does not have
        )
    return repo_id


def check_publishable(folder: Path, base_model: str | None) -> None:
    """Check what can be checked before anything is sent; errors as for `push_run`."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {str(folder)!r}: give the output_dir of a finished run.")
    runs = {part: Run.read(part) for part in with_members(folder)}
    for name in (METRICS_FILE, PREDICTIONS_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}: only a finished run is pushed.")
    needed = {run.base_model.name_or_path for part, run in runs.items() if _needs_base(part, run)}
    for source in needed:
        check_base_model(source, base_model)
    if base_model is not None and len(needed) > 1:
        raise ValueError(
            f"The members have {len(needed)} different base models, and base_model names one, {base_model!r}. Leave it "
            "out, and write the Hub id of each into its member's files where that is a folder."
        )


def check_base_model(name_or_path: str | None, base_model: str | None) -> None:
    """Check that the base model of an adapter or of a head has a name that others can load.

    Raises:
        ValueError: If it is a folder and no `base_model` is given.
    """
    if base_model is None and _is_local(name_or_path):
        raise ValueError(
            "The base model is a local folder, which nobody else can load and whose path is not published. Push the "
            'base model first, and name it: base_model="user/model" (recipes: --hub_base_model user/model).'
        )


def stage_run(folder: Path, aside: Path, repo_id: str, base: tuple[str | None, str | None] | None) -> None:
    """Copy what is published into an empty folder, with the base model's public name and a card for the repository.

    Args:
        folder: `output_dir` of the run.
        aside: The empty folder.
        repo_id: Repository that the card is for.
        base: Name and commit of the base model on the Hub; `None` to keep what the run says.
    """
    for pattern in (*PUBLISHED, PREDICTIONS_FILE):
        for path in folder.glob(pattern):
            target = aside / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    for part in with_members(aside):
        _make_public(part, base if part == aside or _needs_base(part, Run.read(part)) else None)
    write_text(aside / CARD_FILE, str(render_card(aside, repo_id=repo_id)))
    (aside / PREDICTIONS_FILE).unlink()  # the card needs them for its intervals


def _make_public(folder: Path, base: tuple[str | None, str | None] | None) -> None:
    """Take private paths and names out of a staged run, or of a member of one."""
    run = Run.read(folder)
    # Of a file without a heading, the name of its text column is a document
    run = replace(run, training={name: fact for name, fact in run.training.items() if name != "text_column"})
    run.write(folder)
    adapter = folder / ADAPTER_CONFIG_FILE
    if base is None and not _needs_base(folder, run):
        name = run.base_model.name_or_path
        base = (None if _is_local(name) else name, run.base_model.revision)
    if base is not None:
        name, revision = base
        replace(run, base_model=replace(run.base_model, name_or_path=name, revision=revision)).write(folder)
        if adapter.is_file():
            write_json(adapter, {**read_json(adapter), "base_model_name_or_path": name, "revision": revision})


def _needs_base(folder: Path, run: Run) -> bool:
    """Whether a run is loaded with its base model beside it, as an adapter or a head on a frozen model is."""
    return (folder / ADAPTER_CONFIG_FILE).is_file() or run.approach == "frozen"


def _is_local(name_or_path: str | None) -> bool:
    return not name_or_path or os.path.isdir(name_or_path) or not is_hub_id(name_or_path)
