"""What reaches the terminal of a script. Knows Python's logging and warnings, and what libraries say there."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

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


# What a user can do nothing about, by name: the logger and the beginning of its message
_LOGGED = {
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",  # a faster kernel, on some processors
    "transformers.trainer_utils": "mtime may not be reliable on this filesystem",  # then by number, which is right
}
# … and the category and the beginning of a warning
_WARNED = {
    "`is_gradient_checkpointing` is deprecated": FutureWarning,  # PEFT and TRL read it
    "Paged optimizers are not supported on CPU": UserWarning,  # the same optimizer, unpaged, takes their place
}
_REPORT_ROW = re.compile(r"^(\S.*?)\s*\|\s*([A-Z]+)\b", re.MULTILINE)  # the head of the table is not in capitals
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def hide_by_name() -> None:
    """Keep from the terminal, in this process, what libraries say that a user can do nothing about: for scripts."""

    def concerns_the_user(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(_LOGGED[record.name])

    for name in _LOGGED:
        logging.getLogger(name).addFilter(concerns_the_user)
    for beginning, category in _WARNED.items():
        warnings.filterwarnings("ignore", re.escape(beginning), category)


@contextmanager
def expected_weights(*, missing: Sequence[str] = (), unused: Sequence[str] = ()) -> Iterator[None]:
    """Hide transformers' report of weights that it has not found or not used, where all are of these modules.

    Args:
        missing: Beginnings of the names of weights that are new, such as a head's.
        unused: Beginnings of the names of weights that are not wanted.
    """
    known = {"MISSING": tuple(missing), "UNEXPECTED": tuple(unused)}

    def tells_more(record: logging.LogRecord) -> bool:
        message = _COLOURS.sub("", record.getMessage())
        rows = _REPORT_ROW.findall(message) if "LOAD REPORT" in message else []
        return not rows or not all(name.startswith(known.get(status, ())) for name, status in rows)

    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(tells_more)
    try:
        yield
    finally:
        logger.removeFilter(tells_more)
