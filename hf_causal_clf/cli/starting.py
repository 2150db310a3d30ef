"""How a script runs: what a user sees of an error or of Ctrl-C, and the exit code. Knows no script."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from .logs import hide_home_folder
from .mistakes import raised_here

MISTAKE = 2  # exit code of an error that the user can mend, as argparse's
INTERRUPTED = 128 + signal.SIGINT
_LAUNCHER_ACTS = 20.0  # seconds; a launcher ends the others after one process has failed, seen to take 5


def run_script(
    main: Callable[..., Any], *arguments: Any, go_on: Callable[[], str] = lambda: "start the same command again"
) -> None:
    """Run a script's `main`. An error that this package or the script raises is its message alone, exit code 2.

    Any other exception is a bug and passes with its traceback; `--log_level debug` shows every traceback. Of several
    processes, one tells the error.

    Args:
        main: The function.
        arguments: Its arguments.
        go_on: Returns what to do after Ctrl-C to go on.

    Raises:
        SystemExit: In place of an expected error, and after Ctrl-C.
    """
    hide_home_folder()
    try:
        main(*arguments)
    except KeyboardInterrupt as interrupt:
        if _is_main_process():
            print(f"\nStopped. To go on, {go_on()}.", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from interrupt
    except (Exception, SystemExit) as error:
        message = error.code if isinstance(error, SystemExit) else str(error)
        if not isinstance(message, str) or not raised_here(error):
            raise
        _tell_launcher(message)
        if not _is_main_process():
            time.sleep(_LAUNCHER_ACTS)  # where the main process fails as well, the launcher ends this one meanwhile
        print("".join(traceback.format_exception(error)).rstrip() if _debug() else message, file=sys.stderr)
        raise SystemExit(MISTAKE) from error


@contextmanager
def children_ignore_interrupts() -> Iterator[None]:
    """Have processes that are started meanwhile ignore Ctrl-C, so that their parent alone acts on it."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _is_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _debug() -> bool:
    words = [part for word in sys.argv for part in word.split("=", 1)]
    asked = ("--log_level", "debug") in pairwise(words)
    return asked or logging.getLogger("transformers").getEffectiveLevel() <= logging.DEBUG


def _tell_launcher(message: str) -> None:
    """Write the message where torchrun looks for what its report says of a process."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        told = {"message": message, "extraInfo": {"py_callstack": message, "timestamp": str(int(time.time()))}}
        Path(path).write_text(json.dumps({"message": told}), encoding="utf-8")
