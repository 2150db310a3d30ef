"""What log records say. Knows Python's logging only."""

from __future__ import annotations

import logging
import os
import re

_FOLDER = os.path.expanduser("~").rstrip(os.sep)  # empty for users whose home is the root: part of every path
_HOME = re.compile(re.escape(_FOLDER) + r"(?![\w.-])")  # but not a neighbour that begins alike


class HomeHidingRecord(logging.LogRecord):
    """A record whose message names the home folder as ``~``."""

    def getMessage(self) -> str:
        """Return the message with its arguments."""
        message = super().getMessage()
        return _HOME.sub("~", message) if _FOLDER else message


def hide_home_folder() -> None:
    """Have every library's log messages in this process name the home folder as ``~``: for scripts.

    Logs are pasted into bug reports, and at ``--log_level info`` transformers logs the whole path of each file that
    it reads.
    """
    logging.setLogRecordFactory(HomeHidingRecord)
