"""A Space on the Hub that shows the page of a run on the Hub: its three files, and how they get there."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..runs.files import CARD_FILE, is_hub_id
from ..runs.run import Run

if TYPE_CHECKING:
    from huggingface_hub import HfApi

COMMIT_MESSAGE = "Show a text classifier"  # by which a later push knows what it may replace
APP_FILE, REQUIREMENTS_FILE = "app.py", "requirements.txt"
_FILES = (CARD_FILE, APP_FILE, REQUIREMENTS_FILE)
_OF_A_NEW_ONE = {CARD_FILE, ".gitattributes"}  # which the Hub writes
_PINNED = ("torch", "transformers", "peft", "bitsandbytes")  # what the probabilities depend on
_PORT = 7860  # at which the Hub looks for a Space's page


def push_space(
    repo_id: str, run_id: str, *, revision: str | None = None, private: bool | None = None, **options: Any
) -> str:
    """Write a Space that shows a run on the Hub, in one commit. It replaces nothing that it has not written itself.

    Args:
        repo_id: The Space, created where it is missing; without a user or organisation it is the token's.
        run_id: Hub repository of the run.
        revision: Its branch, tag or commit; the Space goes on with the commit that this names today.
        private: Whether a new Space is private; by default it is where the run is, else as the account's setting says.
        options: For `run_demo`.

    Returns:
        The address of the Space.

    Raises:
        ValueError: If the run is a folder, or the Space has files of somebody else's.
        FileNotFoundError: If there is no such run.
        OSError: If the Hub does not let this user write there.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    if (wrong := not_on_the_hub(run_id)) is not None:
        raise ValueError(wrong)
    Run.read(run_id, revision=revision)  # it is one, and finished
    api = HfApi()
    info = api.model_info(run_id, revision=revision)
    private = True if private is None and info.private else private
    try:
        space = api.create_repo(repo_id, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
        head = _check_untouched(api, space.repo_id)
        files = space_files(space.repo_id.rpartition("/")[2], run_id, {"revision": info.sha, **options})
        api.create_commit(
            space.repo_id,
            [CommitOperationAdd(name, content.encode()) for name, content in files.items()],
            commit_message=COMMIT_MESSAGE,
            repo_type="space",
            parent_commit=head,  # what somebody else has pushed meanwhile makes this fail
        )
    except HfHubHTTPError as error:
        raise OSError(
            f"The Space {repo_id!r} cannot be written: {error} Log in with `hf auth login`, by a token that may write "
            "there, or give the name of another Space."
        ) from error
    return str(space.url)


def not_on_the_hub(run_id: str) -> str | None:
    """Say so where a run is not named by its id on the Hub."""
    if not os.path.isdir(run_id) and is_hub_id(run_id):
        return None
    return (
        f"A Space loads the run from the Hub, and {run_id!r} is a folder. Push the run, and give its id: "
        f"TextClassifier.from_pretrained({run_id!r}).push_to_hub('user/name')"
    )


def space_files(title: str, run_id: str, options: Mapping[str, Any]) -> dict[str, str]:
    """Return the contents of the Space's files by their names.

    Args:
        title: Of the Space.
        run_id: Hub repository of the run.
        options: For `run_demo`.
    """
    from huggingface_hub import SpaceCardData

    card = SpaceCardData(
        title=title,
        sdk="gradio",
        sdk_version=version("gradio"),
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
        app_file=APP_FILE,
        models=[run_id],
    )
    given = {"host": "0.0.0.0", "port": _PORT, **options}
    arguments = "".join(f"    {name}={value!r},\n" for name, value in given.items())
    pins = "".join(f"{name}=={version(name).partition('+')[0]}\n" for name in _PINNED)
    about = f"A page to try [{run_id}](https://huggingface.co/{run_id}), by `hf-causal-clf demo --push_to_space`."
    return {
        CARD_FILE: f"---\n{card.to_yaml()}\n---\n\n{about}\n",
        APP_FILE: f"from hf_causal_clf.serving.demo import run_demo\n\nrun_demo(\n    {run_id!r},\n{arguments})\n",
        REQUIREMENTS_FILE: f"hf_causal_clf[demo]=={__version__}\n{pins}",
    }


def _check_untouched(api: HfApi, repo_id: str) -> str:
    """Check that nobody else's work would be replaced, and return the commit for which that is so.

    Raises:
        ValueError: If the files are not those of our last push, or were there before the first.
    """
    commits = api.list_repo_commits(repo_id, repo_type="space")
    head = commits[0].commit_id
    ours = next((commit.commit_id for commit in commits if commit.title == COMMIT_MESSAGE), None)
    if ours is None:
        there = set(api.list_repo_files(repo_id, repo_type="space", revision=head))
        others = sorted(there - _OF_A_NEW_ONE) if len(commits) == 1 else sorted(there)
    else:
        before, now = (_contents(api, repo_id, revision) for revision in (ours, head))
        others = sorted(name for name in _FILES if before.get(name) != now.get(name))
    if others:
        raise ValueError(
            f"The Space {repo_id!r} has files that somebody has written or changed ({', '.join(others[:5])}), and none "
            "is replaced. Give the name of another Space."
        )
    return head


def _contents(api: HfApi, repo_id: str, revision: str) -> dict[str, str]:
    found = api.get_paths_info(repo_id, list(_FILES), revision=revision, repo_type="space")
    return {file.path: file.blob_id for file in found if hasattr(file, "blob_id")}
