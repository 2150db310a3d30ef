"""All that a process has started, found by its session: process groups of their own are parts of it."""

import os
import signal
from contextlib import suppress
from pathlib import Path


def running(leader: int) -> set[int]:
    """The processes of the session that a process leads which have not ended."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(ProcessLookupError, FileNotFoundError):
            state = (folder / "stat").read_text().rpartition(") ")[2][0]
            if os.getsid(int(folder.name)) == leader and state != "Z":
                found.add(int(folder.name))
    return found


def kill(leader: int) -> None:
    """Kill a session: its leader first, so that it sees nothing of the others' end."""
    with suppress(ProcessLookupError):
        os.kill(leader, signal.SIGKILL)
    while others := running(leader):
        for process in others:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
