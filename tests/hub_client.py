"""The real clients against a `HubServer`, in this process or in one of their own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets.config
import pytest
import transformers.utils.hub
from hub_server import HubServer
from huggingface_hub import HfFileSystem, constants, hf_api
from huggingface_hub.utils import close_session, http_backoff

# Variables of the caller that would lead a client elsewhere, to other caches or tokens or off the network
_THEIRS = ("HF_", "HUGGINGFACE_", "HUGGING_FACE_", "TRANSFORMERS_", "HTTP_", "HTTPS_", "ALL_PROXY", "NO_PROXY")


def environment(server: HubServer, home: Path, token: str | None = None) -> dict[str, str]:
    """The variables with which a new process takes the server for the Hub and reaches nothing else.

    Args:
        server: The Hub.
        home: A folder for the caches.
        token: The token of the user; without one nobody is logged in.
    """
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(_THEIRS)}
    hub = {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # datasets counts loads at a host of its own
        "DISABLE_SAFETENSORS_CONVERSION": "1",  # transformers asks a Space to convert
        "HTTP_PROXY": server.url,  # what wants to leave is refused and shows in server.outside
        "HTTPS_PROXY": server.url,
        "NO_PROXY": "127.0.0.1,localhost",
    }
    return {**kept, **hub, **({"HF_TOKEN": token} if token else {})}


def run(
    server: HubServer,
    arguments: list[str],
    home: Path,
    token: str | None = None,
    env: dict[str, str] | None = None,
    timeout: float = 300,
    **kwargs: object,
) -> subprocess.CompletedProcess[str]:
    """Run this Python with arguments (`["-c", code]`, `["recipes/embed.py", …]`) in a process whose Hub is the server.

    `env` adds variables; `kwargs` (`cwd`, …) go to `subprocess.run`. Nothing is raised for the exit status.
    """
    variables = {**environment(server, home, token), **(env or {})}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, env=variables, capture_output=True, text=True, timeout=timeout, check=False, **kwargs
    )


@contextmanager
def using(server: HubServer, home: Path, token: str | None = None) -> Iterator[pytest.MonkeyPatch]:
    """Make the server the Hub of this process inside a `with` block.

    The clients read their variables when they are imported, so what they made of them is replaced. Retries do not wait.
    """
    variables = environment(server, home, token)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HF_TOKEN", raising=False)
        for name in ("HF_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "DISABLE_SAFETENSORS_CONVERSION"):
            if name in variables:
                patch.setenv(name, variables[name])
        for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ALL_PROXY"):
            patch.delenv(name, raising=False)
        patch.setenv("HF_HUB_OFFLINE", "0")  # PEFT reads it when it looks for a file
        hub = {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_URL_HOSTS": constants.HF_URL_HOSTS | {"127.0.0.1"},
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_TELEMETRY": True,
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HUGGINGFACE_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
            "AGENT_HARNESSES_PATH": str(home / ".agent_harnesses.json"),
        }
        sets = {
            "HF_ENDPOINT": server.url,
            "HF_HUB_OFFLINE": False,
            "HF_UPDATE_DOWNLOAD_COUNTS": False,
            "HF_DATASETS_CACHE": home / "datasets",
            "DOWNLOADED_DATASETS_PATH": home / "datasets" / "downloads",
        }
        for module, values in ((constants, hub), (datasets.config, sets)):
            for name, value in values.items():
                patch.setattr(module, name, value)
        patch.setattr(hf_api.api, "endpoint", server.url)  # behind create_repo, upload_folder and all such functions
        patch.setattr(transformers.utils.hub, "_hf_api", None)
        patch.setitem(http_backoff.__kwdefaults__, "base_wait_time", 0)
        _forget()
        yield patch
    _forget()


def _forget() -> None:
    """Drop what a client keeps over requests: its connections and proxies, and listings of repositories."""
    HfFileSystem.clear_instance_cache()
    close_session()
