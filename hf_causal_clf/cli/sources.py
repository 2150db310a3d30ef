"""Where a model, a run or a data set comes from: a folder, or a repository on the Hub. Knows no content."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id


def missing_folder(source: str, option: str = "model_name_or_path") -> str | None:
    """Say so where a name can only be a folder's, which is not there; `None` for a folder and a Hub id."""
    if os.path.isdir(source):
        return None
    try:
        validate_repo_id(source)
        if not source.startswith((".", "~")):
            return None
    except HFValidationError:
        pass
    whole = Path(source).expanduser()
    advice = f" Write {str(whole)!r}: ~ stands for the home folder in a shell only." if whole.is_dir() else ""
    return f"There is no folder {source!r}, and a Hub id has the form user/name. Check {option}.{advice}"


def check_source(source: str, file: str, **hub_kwargs: Any) -> None:
    """Check that there is such a folder or that the Hub answers, before libraries try to reach it six times over.

    Args:
        source: Folder or Hub id.
        file: A file of it; if that is in the cache, nobody is asked.
        hub_kwargs: As for every `from_pretrained`: `revision`, `token`, `cache_dir` and `local_files_only` count.

    Raises:
        OSError: If there is neither.
    """
    missing = missing_folder(source)
    if missing is not None:
        raise OSError(missing)
    if os.path.isdir(source) or constants.HF_HUB_OFFLINE or hub_kwargs.get("local_files_only"):
        return
    revision = hub_kwargs.get("revision")
    if isinstance(try_to_load_from_cache(source, file, hub_kwargs.get("cache_dir"), revision), str):
        return
    try:
        HfApi().model_info(source, revision=revision, token=hub_kwargs.get("token"), timeout=10)
    except HfHubHTTPError:
        return  # it answers; loading tells what
    except Exception as error:  # the errors of the HTTP library have no class that huggingface_hub names
        raise OSError(
            f"There is no folder {source!r}, and the Hub, where {source!r} may be a repository, cannot be reached "
            f"({error}). Check the path, or the connection."
        ) from error
